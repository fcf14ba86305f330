//! What is particular to our sandboxes, under `/bulkhead/`.

use axum::Json;
use axum::extract::{Path, State};
use bulkhead_api::bulkhead::SandboxDetails;
use bulkhead_model::Kind;

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
