//! What is particular to our sandboxes, under `/bulkhead/`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use bulkhead_api::bulkhead::SandboxDetails;
use bulkhead_model::{Error, Kind};

use crate::app::App;
use crate::error::ApiResult;

pub(crate) async fn details(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<Json<SandboxDetails>> {
    let record = app.engine.get(&id)?;
    let mut details = SandboxDetails {
        kind: record.config.kind.to_string(),
        ..SandboxDetails::default()
    };
    if record.config.kind == Kind::Microvm {
        let settings = match app.launcher.settings_of_running(&record.id) {
            Some(settings) => Ok(settings),
            None => {
                let labels = &record.config.labels;
                app.launcher.microvm_settings_for(labels).await
            }
        };
        match settings {
            Ok(settings) => {
                details.accelerator = settings.accelerator;
                details.accelerator_reason = settings.accelerator_reason;
            }
            Err(error) => details.accelerator_reason = error.to_string(),
        }
    }
    Ok(Json(details))
}

/// The console of the guest that runs or ran last; nothing where none ever ran.
pub(crate) async fn console(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<impl IntoResponse> {
    let record = app.engine.get(&id)?;
    let name = &record.config.name;
    if record.config.kind != Kind::Microvm {
        return Err(Error::invalid(format!(
            "{name} is a container: it has no console, as it has no kernel of its own"
        ))
        .into());
    }
    let file = bulkhead_microvm::console::log_file(&app.engine.writable_dir(&record.id));
    let text = match tokio::fs::read(&file).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(|error| {
            Error::host(format!("read the console of {name}")).with_source(error)
        })?,
    };
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text))
}
