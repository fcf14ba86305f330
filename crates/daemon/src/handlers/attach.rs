use std::collections::HashMap;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use bulkhead_api::docker::ContainerCreateBody;
use bulkhead_engine::{Attached, Record};
use bulkhead_model::{Error, TerminalSize};

use super::query::{Size, is_true};
use super::stream::{Wanted, hijack};
use crate::app::App;
use crate::error::ApiResult;

pub(crate) async fn attach(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    request: Request<Body>,
) -> ApiResult<Response> {
    let record = app.engine.get(&id)?;
    let terminal = record.config.process.terminal.is_some();
    let stdin = is_true(query.get("stdin")) && record.config.process.stdin;
    let streams = is_true(query.get("stream"));
    let wanted = Wanted {
        stdout: streams && is_true(query.get("stdout")),
        stderr: streams && is_true(query.get("stderr")),
    };
    let attached = app.engine.attach_soon(&record.id, stdin).await?;
    let session = async move {
        match attached {
            Attached::Now(session) => Ok(session),
            Attached::Later(pending) => pending
                .await
                .map_err(|_| Error::conflict("the sandbox was not started")),
        }
    };
    hijack(
        request,
        terminal,
        stdin_once(&record),
        wanted,
        session,
        |_| {},
    )
}

/// Whether the workload's stdin ends with its first client, as `docker run -i` asks for.
fn stdin_once(record: &Record) -> bool {
    serde_json::from_str::<ContainerCreateBody>(&record.config.source)
        .is_ok_and(|body| body.stdin_once.unwrap_or(false))
}

pub(crate) async fn resize(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(size): Query<Size>,
) -> ApiResult<StatusCode> {
    app.engine
        .resize(
            &id,
            TerminalSize {
                rows: size.rows,
                columns: size.columns,
            },
        )
        .await?;
    Ok(StatusCode::OK)
}
