use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_api::docker::ContainerCreateBody;
use bulkhead_engine::{Engine, Record, State as SandboxState, StopOptions, WaitFor};
use bulkhead_model::{Error, ErrorKind};
use serde_json::{Value, json};

use super::query::{Filters, is_true};
use crate::app::App;
use crate::convert::create::{checked_name, sandbox_config};
use crate::convert::inspect;
use crate::convert::signal::parse_signal;
use crate::convert::status::{health_word, state_word};
use crate::error::ApiResult;

type Parameters = Query<HashMap<String, String>>;

pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Parameters,
) -> ApiResult<Json<Vec<Value>>> {
    let filters = Filters::parse(query.get("filters"))?;
    let all = is_true(query.get("all")) || filters.has("status");
    let limit: usize = query
        .get("limit")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let records = app.engine.list();
    let chosen = records.iter().filter(|record| {
        (all || limit > 0 || record.state.is_running() || record.state == SandboxState::Restarting)
            && record.state != SandboxState::Dead
            && matches(record, &filters)
    });
    let summaries = chosen.map(inspect::summary);
    let summaries = if limit > 0 {
        summaries.take(limit).collect()
    } else {
        summaries.collect()
    };
    Ok(Json(summaries))
}

fn matches(record: &Record, filters: &Filters) -> bool {
    let name = &record.config.name;
    filters.labels(&record.config.labels)
        && filters.any("id", |id| record.id.starts_with(id))
        && filters.any("name", |wanted| {
            name.contains(wanted.trim_matches(['^', '$', '/']))
        })
        && filters.any("status", |status| state_word(record.state) == status)
        && filters.any("health", |health| {
            health_word(record.health.status) == health
        })
        && filters.any("ancestor", |image| {
            record.config.image == image || record.config.image_id.contains(image)
        })
        && filters.any("network", |network| {
            record
                .attachments
                .iter()
                .any(|a| a.network_name == network || a.network_id == network)
        })
        && filters.any("exited", |code| {
            record.state == SandboxState::Exited && record.exit_code().to_string() == code
        })
}

pub(crate) async fn create(
    State(app): State<App>,
    Query(query): Parameters,
    body: Bytes,
) -> ApiResult<Response> {
    let body: ContainerCreateBody = serde_json::from_slice(&body)
        .map_err(|error| Error::invalid("read the request").with_source(error))?;
    let image = app
        .engine
        .images()
        .resolve(body.image.as_deref().unwrap_or_default())?;
    let name = match query.get("name").filter(|name| !name.is_empty()) {
        Some(name) => name.trim_start_matches('/').to_owned(),
        None => free_name(&app.engine)?,
    };
    let config = sandbox_config(&name, &body, &image)?;
    let id = app.engine.create(config)?;
    Ok((
        StatusCode::CREATED,
        Json(json!({ "Id": id, "Warnings": [] })),
    )
        .into_response())
}

/// A name for somebody who gave none: an adjective, a part of a ship, a number where needed.
fn free_name(engine: &Engine) -> Result<String, Error> {
    const ADJECTIVES: [&str; 16] = [
        "able", "brave", "brisk", "calm", "clear", "eager", "early", "fair", "keen", "lucky",
        "proud", "quick", "quiet", "ready", "steady", "swift",
    ];
    const PARTS: [&str; 16] = [
        "anchor", "beam", "boom", "bow", "cabin", "deck", "galley", "helm", "hull", "keel", "mast",
        "prow", "rudder", "sail", "spar", "stern",
    ];
    let mut bytes = [0u8; 4];
    getrandom::fill(&mut bytes).map_err(|error| Error::host(format!("draw a name: {error}")))?;
    let [adjective, part, low, high] = bytes;
    let adjective = ADJECTIVES[usize::from(adjective) % ADJECTIVES.len()];
    let name = format!("{adjective}_{}", PARTS[usize::from(part) % PARTS.len()]);
    if engine.get(&name).is_err() {
        return Ok(name);
    }
    Ok(format!("{name}_{}", u16::from_le_bytes([low, high])))
}

pub(crate) async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let record = app.engine.get(&id)?;
    let execs = app
        .execs
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let exec_ids = execs
        .iter()
        .filter(|(_, exec)| exec.sandbox == record.id)
        .map(|(id, _)| id.clone())
        .collect();
    Ok(Json(inspect::inspect(&app.engine, &record, exec_ids)))
}

pub(crate) async fn start(State(app): State<App>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let started = app.engine.start(&id).await?;
    Ok(if started {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_MODIFIED
    })
}

fn stop_options(query: &HashMap<String, String>) -> Result<StopOptions, Error> {
    let timeout = match query.get("t").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match text.parse::<i64>() {
            // Docker: wait for ever. A day is long enough for any grace period.
            Ok(-1) => Some(Duration::from_secs(86_400)),
            Ok(seconds) if seconds >= 0 => Some(Duration::from_secs(seconds.unsigned_abs())),
            _ => return Err(Error::invalid(format!("'{text}' is no number of seconds"))),
        },
    };
    let signal = match query.get("signal").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(parse_signal(text)?),
    };
    Ok(StopOptions { timeout, signal })
}

pub(crate) async fn stop(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> ApiResult<StatusCode> {
    let stopped = app.engine.stop(&id, stop_options(&query)?).await?;
    Ok(if stopped {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_MODIFIED
    })
}

pub(crate) async fn restart(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> ApiResult<StatusCode> {
    app.engine.restart(&id, stop_options(&query)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn kill(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> ApiResult<StatusCode> {
    let signal = query
        .get("signal")
        .map(String::as_str)
        .filter(|text| !text.is_empty());
    app.engine
        .kill(&id, parse_signal(signal.unwrap_or("KILL"))?)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn pause(State(app): State<App>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    app.engine.pause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn unpause(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    app.engine.resume(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn rename(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> ApiResult<StatusCode> {
    let name = query.get("name").map(String::as_str).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty").into());
    }
    app.engine
        .rename(&id, &checked_name(name.trim_start_matches('/'))?)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> ApiResult<StatusCode> {
    app.engine
        .remove(&id, is_true(query.get("force")), is_true(query.get("v")))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Answers the header at once, so that a client knows that it waits, and the body at the end.
pub(crate) async fn wait(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Parameters,
) -> ApiResult<Response> {
    let until = match query
        .get("condition")
        .map(String::as_str)
        .unwrap_or_default()
    {
        "" | "not-running" => WaitFor::NotRunning,
        "next-exit" => WaitFor::NextExit,
        "removed" => WaitFor::Removed,
        other => return Err(Error::invalid(format!("invalid condition: \"{other}\"")).into()),
    };
    let record = app.engine.get(&id)?;
    let waiting = async move {
        let line = match app.engine.wait(&record.id, until).await {
            Ok(exit) => json!({ "StatusCode": exit.code }),
            Err(error) => json!({ "StatusCode": 125, "Error": { "Message": error.to_string() } }),
        };
        Ok::<_, std::convert::Infallible>(Bytes::from(format!("{line}\n")))
    };
    let body = Body::from_stream(futures_util::stream::once(waiting));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

pub(crate) async fn prune(
    State(app): State<App>,
    Query(query): Parameters,
) -> ApiResult<Json<Value>> {
    let filters = Filters::parse(query.get("filters"))?;
    let mut deleted = Vec::new();
    for record in app.engine.list() {
        let idle = matches!(record.state, SandboxState::Created | SandboxState::Exited);
        if idle && filters.labels(&record.config.labels) {
            match app.engine.remove(&record.id, false, false).await {
                Ok(()) => deleted.push(record.id),
                // Started or removed meanwhile.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => {
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(Json(
        json!({ "ContainersDeleted": deleted, "SpaceReclaimed": 0 }),
    ))
}
