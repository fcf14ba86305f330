use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bulkhead_engine::{Action, Event, Subject};
use bulkhead_model::Error;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::query::Filters;
use crate::app::App;
use crate::error::ApiResult;

/// Streams events from now on. Earlier ones are not kept.
pub(crate) async fn events(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
) -> ApiResult<Response> {
    let filters = Filters::parse(query.get("filters"))?;
    let mut events = app.engine.events();
    let over = tokio::time::sleep(match super::logs::parse_time(query.get("until"))? {
        // Tokio's own longest time: for ever.
        None => Duration::MAX,
        Some(until) => until.duration_since(SystemTime::now()).unwrap_or_default(),
    });
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Error>>(16);
    tokio::spawn(async move {
        tokio::pin!(over);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = &mut over => return,
                () = sender.closed() => return,
            };
            let event = match event {
                Ok(event) => event,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "a slow listener missed events");
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            if matches(&event, &filters) && sender.send(Ok(render(&event))).await.is_err() {
                return;
            }
        }
    });
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn matches(event: &Event, filters: &Filters) -> bool {
    let name = event
        .attributes
        .get("name")
        .map(String::as_str)
        .unwrap_or_default();
    filters.any("type", |kind| kind == subject(event.subject))
        && filters.any("event", |wanted| {
            action(event).split(':').next() == Some(wanted)
        })
        && filters.any("container", |wanted| {
            event.id.starts_with(wanted) || name == wanted
        })
        && filters.labels(&event.attributes)
}

fn subject(subject: Subject) -> &'static str {
    match subject {
        Subject::Sandbox => "container",
        Subject::Network => "network",
        Subject::Volume => "volume",
    }
}

fn action(event: &Event) -> String {
    let word = match event.action {
        Action::Create => "create",
        Action::Start => "start",
        Action::Die => "die",
        Action::Kill => "kill",
        Action::Stop => "stop",
        Action::Restart => "restart",
        Action::Pause => "pause",
        Action::Resume => "unpause",
        Action::Rename => "rename",
        Action::Update => "update",
        Action::OutOfMemory => "oom",
        Action::Remove => "destroy",
        Action::Health => {
            let health = event.attributes.get("health").map(String::as_str);
            return format!("health_status: {}", health.unwrap_or_default());
        }
    };
    word.to_owned()
}

fn render(event: &Event) -> Bytes {
    let since = event
        .time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let action = action(event);
    let line = json!({
        "status": action,
        "id": event.id,
        "from": event.attributes.get("image"),
        "Type": subject(event.subject),
        "Action": action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": since.as_secs(),
        "timeNano": u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
    });
    Bytes::from(format!("{line}\n"))
}
