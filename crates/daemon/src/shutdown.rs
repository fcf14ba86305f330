//! The end of an instance: the data plane stops, networks go, and so do the directories if
//! nothing is kept in them.

use std::path::Path;

use bulkhead_model::{Error, Result};

use crate::app::AppState;
use crate::paths::Paths;

/// Takes down what serves sandboxes; none runs any more.
pub(crate) async fn take_down(app: &AppState) -> Result<()> {
    // Networks that no project made go with the instance; a project's stay for its `down`.
    let projects = app.engine.projects();
    for network in app.engine.networks() {
        let of_project = projects
            .iter()
            .any(|project| project.networks.iter().any(|name| name == network.name()));
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
    if !keeps {
        remove(state, std::fs::remove_dir_all(state))?;
    }
    // The socket and the lock go last: whoever waits for the first to vanish finds nothing of us,
    // and until the second is gone no other daemon begins to use the directory.
    let (socket, lock) = (app.paths.socket(), app.paths.lock());
    let entries = std::fs::read_dir(run)
        .map_err(|error| Error::host(format!("read {}", run.display())).with_source(error))?;
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| *path != lock && *path != socket)
    {
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        remove(&path, removed)?;
    }
    remove(&socket, std::fs::remove_file(&socket))?;
    remove(&lock, std::fs::remove_file(&lock))?;
    if let Err(error) = std::fs::remove_dir(run) {
        tracing::debug!(%error, "another daemon uses the directory already");
    }
    Ok(())
}

fn remove(path: &Path, removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::host(format!("remove {}", path.display())).with_source(error))
        }
        _ => Ok(()),
    }
}
