//! The end of an instance: the data plane stops, networks go, and so do the directories if
//! nothing is kept in them.

use bulkhead_model::{Error, Result};

use crate::app::AppState;
use crate::paths::Paths;

/// Takes down what serves sandboxes; none runs any more.
pub(crate) async fn take_down(app: &AppState) -> Result<()> {
    // Networks that no project made go with the instance; a project's stay for its `down`.
    let projects = app.engine.projects();
    for network in app.engine.networks() {
        let of_project =
            projects.iter().any(|project| project.networks.iter().any(|name| name == network.name()));
        if !of_project && network.labels.is_empty() {
            app.engine.remove_network(network.id()).await?;
        }
    }
    app.data_plane.stop().await
}

/// Removes the directories of an instance that keeps nothing: no sandbox, network or volume.
pub(crate) fn remove_if_empty(app: &AppState) -> Result<()> {
    let engine = &app.engine;
    let keeps = !engine.list().is_empty()
        || !engine.networks().is_empty()
        || !engine.volumes().is_empty()
        || !engine.projects().is_empty();
    let Paths { run, state, .. } = &app.paths;
    let mut doomed = vec![run];
    if !keeps {
        doomed.push(state);
    }
    for directory in doomed {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::host(format!("remove {}", directory.display())).with_source(error));
            }
            _ => {}
        }
    }
    Ok(())
}
