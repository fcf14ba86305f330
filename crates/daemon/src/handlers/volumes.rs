use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bulkhead_engine::{Engine, VolumeRecord};
use bulkhead_model::{Error, ErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::query::{Filters, is_true};
use crate::app::App;
use crate::convert::inspect::rfc3339;
use crate::error::ApiResult;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    name: String,
    driver: Option<String>,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
) -> ApiResult<Json<Value>> {
    let filters = Filters::parse(query.get("filters"))?;
    let mut volumes = app.engine.volumes();
    volumes.retain(|volume| {
        filters.labels(&volume.labels) && filters.any("name", |name| volume.name.contains(name))
    });
    let volumes: Vec<Value> = volumes
        .iter()
        .map(|volume| render(&app.engine, volume))
        .collect();
    Ok(Json(json!({ "Volumes": volumes, "Warnings": [] })))
}

pub(crate) async fn create(State(app): State<App>, body: Bytes) -> ApiResult<Response> {
    let body: Create = serde_json::from_slice(&body)
        .map_err(|error| Error::invalid("read the request").with_source(error))?;
    if let Some(driver) = body
        .driver
        .filter(|driver| !driver.is_empty() && driver != "local")
    {
        return Err(
            Error::unsupported(format!("volume driver {driver} is not there: use local")).into(),
        );
    }
    if body.driver_opts.is_some_and(|options| !options.is_empty()) {
        return Err(
            Error::unsupported("volume driver options are not supported: leave them out").into(),
        );
    }
    let name = if body.name.is_empty() {
        random_name()?
    } else {
        body.name
    };
    let volume = app
        .engine
        .create_volume(&name, body.labels.unwrap_or_default())
        .await?;
    Ok((StatusCode::CREATED, Json(render(&app.engine, &volume))).into_response())
}

fn random_name() -> Result<String, Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::host(format!("draw a name: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) async fn inspect(
    State(app): State<App>,
    Path(name): Path<String>,
) -> ApiResult<Json<Value>> {
    let volume = app.engine.volume(&name)?;
    Ok(Json(render(&app.engine, &volume)))
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> ApiResult<StatusCode> {
    match app.engine.remove_volume(&name).await {
        Err(error) if error.kind() == ErrorKind::NotFound && is_true(query.get("force")) => {}
        removed => removed?,
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn prune(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
) -> ApiResult<Json<Value>> {
    let filters = Filters::parse(query.get("filters"))?;
    let all = filters.has("all");
    let mut deleted = Vec::new();
    for volume in app.engine.volumes() {
        // As Docker: without `all`, only volumes that nobody named.
        let anonymous =
            volume.name.len() == 64 && volume.name.bytes().all(|b| b.is_ascii_hexdigit());
        if (anonymous || all)
            && filters.labels(&volume.labels)
            && app.engine.remove_volume(&volume.name).await.is_ok()
        {
            deleted.push(volume.name);
        }
    }
    Ok(Json(
        json!({ "VolumesDeleted": deleted, "SpaceReclaimed": 0 }),
    ))
}

fn render(engine: &Engine, volume: &VolumeRecord) -> Value {
    json!({
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": engine.volume_path(&volume.name),
        "CreatedAt": rfc3339(Some(volume.created_at)),
        "Labels": volume.labels,
        "Scope": "local",
        "Options": {},
    })
}
