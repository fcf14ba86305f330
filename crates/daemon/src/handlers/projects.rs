use std::collections::BTreeMap;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bulkhead_api::bulkhead::{
    ProgressLine, ProjectDown, ProjectSpec, ProjectStatus, ProjectSummary, ProjectUp,
    SandboxStatus, ServiceStatus,
};
use bulkhead_engine::{DownOptions, HealthStatus, Progress, Record};
use bulkhead_model::{Error, Result};
use std::time::Duration;
use tokio::sync::mpsc;

use crate::app::App;
use crate::convert::inspect::{has_health, port_text};
use crate::convert::project::{plan, progress_event, up_options};
use crate::convert::status::{health_word, state_word};
use crate::dataplane::{gateway_urls, http_port};
use crate::error::{ApiResult, message_of, status_of};

/// How many steps a client may be behind.
const PROGRESS_QUEUE: usize = 256;

pub(crate) async fn up(
    State(app): State<App>,
    Path(name): Path<String>,
    body: Bytes,
) -> ApiResult<Response> {
    let mut up: ProjectUp = serde_json::from_slice(&body)
        .map_err(|error| Error::invalid("read the request").with_source(error))?;
    up.spec.name = name;
    let plan = plan(&app.engine, &up.spec)?;
    if plan
        .services
        .iter()
        .any(|service| has_kind(&service.template, bulkhead_model::Kind::Microvm))
    {
        // Before anything is made: a host without QEMU or kernel says so at once.
        app.launcher.microvm_settings().await?;
    }
    let (progress, events) = mpsc::channel(PROGRESS_QUEUE);
    let work = async move {
        app.engine.up(plan, up_options(&up), progress).await?;
        let applied = app.data_plane.settle(&app.engine).await;
        let routed = app.engine.list().iter().any(|record| {
            let replica = record.config.replica.as_ref();
            replica.is_some_and(|replica| replica.project == up.spec.name)
                && http_port(record).is_some()
        });
        match applied.gateway_error {
            Some(reason) if routed => Err(Error::conflict(format!(
                "the services run, but the gateway does not: {reason}"
            ))),
            _ => Ok(()),
        }
    };
    Ok(stream(work, events))
}

fn has_kind(config: &bulkhead_engine::SandboxConfig, kind: bulkhead_model::Kind) -> bool {
    config.kind == kind
}

pub(crate) async fn down(
    State(app): State<App>,
    Path(name): Path<String>,
    body: Bytes,
) -> ApiResult<Response> {
    let down: ProjectDown = if body.is_empty() {
        ProjectDown::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| Error::invalid("read the request").with_source(error))?
    };
    let (progress, events) = mpsc::channel(PROGRESS_QUEUE);
    let work = async move {
        let options = DownOptions {
            volumes: down.volumes,
            stop_timeout: down.timeout_seconds.map(Duration::from_secs),
            services: down.services,
        };
        app.engine.down(&name, options, progress).await?;
        app.data_plane.settle(&app.engine).await;
        Ok(())
    };
    Ok(stream(work, events))
}

/// Answers with lines of progress and, at the end, how it went. The work goes on if the client
/// goes away.
fn stream(
    work: impl Future<Output = Result<()>> + Send + 'static,
    mut events: mpsc::Receiver<Progress>,
) -> Response {
    let (lines, receiver) = mpsc::unbounded_channel::<Result<Bytes, Error>>();
    let send = {
        let lines = lines.clone();
        move |line: &ProgressLine| {
            let mut text = serde_json::to_vec(line).unwrap_or_default();
            text.push(b'\n');
            if lines.send(Ok(text.into())).is_err() {
                tracing::trace!("the client is gone");
            }
        }
    };
    tokio::spawn(async move {
        let working = tokio::spawn(work);
        while let Some(progress) = events.recv().await {
            send(&ProgressLine::Event(progress_event(progress)));
        }
        let last = match working.await {
            Ok(Ok(())) => ProgressLine::succeeded(),
            Ok(Err(error)) => {
                ProgressLine::failed(message_of(&error), status_of(error.kind()).as_u16())
            }
            Err(error) => ProgressLine::failed(format!("a task of the daemon died: {error}"), 500),
        };
        send(&last);
    });
    let body = Body::from_stream(tokio_stream::wrappers::UnboundedReceiverStream::new(
        receiver,
    ));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

pub(crate) async fn list(State(app): State<App>) -> Json<Vec<ProjectSummary>> {
    let mut projects: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in app.engine.list() {
        if let Some(replica) = &record.config.replica {
            projects
                .entry(replica.project.clone())
                .or_default()
                .push(record);
        }
    }
    for project in app.engine.projects() {
        if !project.services.is_empty() {
            projects.entry(project.name).or_default();
        }
    }
    let summaries = projects.into_iter().map(|(name, records)| {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for record in &records {
            *states.entry(state_word(record.state)).or_default() += 1;
        }
        let status: Vec<String> = states
            .iter()
            .map(|(state, count)| format!("{state}({count})"))
            .collect();
        let spec = spec_of(&app, &name);
        let services: std::collections::BTreeSet<_> = records
            .iter()
            .filter_map(|record| {
                record
                    .config
                    .replica
                    .as_ref()
                    .map(|replica| &replica.service)
            })
            .collect();
        ProjectSummary {
            status: status.join(", "),
            config_files: spec.map(|spec| spec.config_files).unwrap_or_default(),
            services: u32::try_from(services.len()).unwrap_or(u32::MAX),
            sandboxes: u32::try_from(records.len()).unwrap_or(u32::MAX),
            name,
        }
    });
    Json(summaries.collect())
}

fn spec_of(app: &App, project: &str) -> Option<ProjectSpec> {
    let record = app.engine.project(project)?;
    serde_json::from_str(&record.form).ok()
}

pub(crate) async fn status(
    State(app): State<App>,
    Path(name): Path<String>,
) -> ApiResult<Json<ProjectStatus>> {
    let project = app.engine.project(&name);
    let mut services: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in app.engine.list() {
        if let Some(replica) = &record.config.replica
            && replica.project == name
            && !replica.one_off
        {
            services
                .entry(replica.service.clone())
                .or_default()
                .push(record);
        }
    }
    let Some(project) = project.or_else(|| (!services.is_empty()).then(Default::default)) else {
        return Err(
            Error::not_found(format!("there is no project {name}: bring it up first")).into(),
        );
    };
    let mut statuses = Vec::new();
    for (service, mut records) in services {
        records.sort_by_key(|record| record.config.replica.as_ref().map_or(0, |r| r.number));
        let desired = project
            .services
            .get(&service)
            .map_or(0, |service| service.replicas);
        statuses.push(service_status(&app, service, desired, &records).await);
    }
    Ok(Json(ProjectStatus {
        name,
        services: statuses,
        networks: project.networks,
        volumes: project.volumes,
    }))
}

async fn service_status(
    app: &App,
    name: String,
    desired: u32,
    records: &[Record],
) -> ServiceStatus {
    let mut sandboxes = Vec::new();
    for record in records {
        sandboxes.push(sandbox_status(app, record).await);
    }
    let count = |met: fn(&Record) -> bool| {
        u32::try_from(records.iter().filter(|record| met(record)).count()).unwrap_or(u32::MAX)
    };
    let memory: Vec<u64> = sandboxes
        .iter()
        .filter_map(|sandbox| sandbox.memory_bytes)
        .collect();
    let worst = [
        HealthStatus::Unhealthy,
        HealthStatus::Starting,
        HealthStatus::Healthy,
    ];
    let health = worst
        .into_iter()
        .find(|status| {
            records
                .iter()
                .any(|record| has_health(record) && record.health.status == *status)
        })
        .map(|status| health_word(status).to_owned())
        .unwrap_or_default();
    let first = records.first();
    ServiceStatus {
        kind: first
            .map(|record| record.config.kind.to_string())
            .unwrap_or_default(),
        image: first
            .map(|record| record.config.image.clone())
            .unwrap_or_default(),
        replicas_desired: desired,
        replicas_running: count(|record| record.state.is_running()),
        replicas_healthy: count(Record::is_ready),
        health,
        memory_bytes: (!memory.is_empty()).then(|| memory.iter().sum()),
        start_milliseconds: sandboxes.iter().filter_map(|s| s.start_milliseconds).max(),
        ready_milliseconds: sandboxes.iter().filter_map(|s| s.ready_milliseconds).max(),
        urls: first
            .zip(app.data_plane.gateway())
            .map(|(record, gateway)| gateway_urls(record, gateway))
            .unwrap_or_default(),
        ports: records
            .iter()
            .flat_map(|record| record.ports.iter().map(port_text))
            .collect(),
        sandboxes,
        name,
    }
}

async fn sandbox_status(app: &App, record: &Record) -> SandboxStatus {
    let memory = if record.state.is_running() {
        app.engine
            .stats(&record.id)
            .await
            .ok()
            .map(|stats| stats.memory.bytes())
    } else {
        None
    };
    let milliseconds = |duration: Option<Duration>| {
        duration.and_then(|duration| u64::try_from(duration.as_millis()).ok())
    };
    let health = if has_health(record) {
        health_word(record.health.status)
    } else {
        ""
    };
    SandboxStatus {
        id: record.id.clone(),
        name: record.config.name.clone(),
        state: state_word(record.state).to_owned(),
        health: health.to_owned(),
        exit_code: record.exit.map(|exit| i64::from(exit.code)),
        kind: record.config.kind.to_string(),
        memory_bytes: memory,
        start_milliseconds: milliseconds(record.start_duration),
        ready_milliseconds: milliseconds(record.ready_duration),
        address: record
            .attachments
            .first()
            .map(|a| a.endpoint.address.to_string()),
    }
}
