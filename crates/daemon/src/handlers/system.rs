use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_api::bulkhead::{BulkheadInfo, Shutdown};
use bulkhead_api::{API_VERSION, MINIMUM_API_VERSION};
use bulkhead_engine::State as SandboxState;
use bulkhead_model::Error;
use serde_json::{Value, json};

use super::limits::host_memory;
use crate::app::App;
use crate::error::ApiResult;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) async fn ping() -> Response {
    (
        [(header::CACHE_CONTROL, "no-cache, no-store, must-revalidate")],
        "OK",
    )
        .into_response()
}

/// What every answer of a Docker daemon says of itself.
pub(crate) async fn add_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        ("api-version", API_VERSION),
        ("docker-experimental", "false"),
        ("ostype", "linux"),
        (
            "server",
            concat!("Bulkhead/", env!("CARGO_PKG_VERSION"), " (linux)"),
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "Linux".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}

pub(crate) async fn version() -> Json<Value> {
    Json(json!({
        "Platform": { "Name": "Bulkhead" },
        "Components": [{
            "Name": "Engine",
            "Version": VERSION,
            "Details": {
                "ApiVersion": API_VERSION,
                "MinAPIVersion": MINIMUM_API_VERSION,
                "Os": "linux",
                "Arch": "amd64",
                "KernelVersion": kernel_release(),
                "GoVersion": "none",
                "GitCommit": "",
                "BuildTime": "",
                "Experimental": "false",
            },
        }],
        "Version": VERSION,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MINIMUM_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": "amd64",
        "KernelVersion": kernel_release(),
        "BuildTime": "",
    }))
}

pub(crate) async fn info(State(app): State<App>) -> ApiResult<Json<Value>> {
    let records = app.engine.list();
    let count = |state: SandboxState| {
        records
            .iter()
            .filter(|record| record.state == state)
            .count()
    };
    let running = count(SandboxState::Running) + count(SandboxState::Restarting);
    let paused = count(SandboxState::Paused);
    let images = app.engine.images().list()?.len();
    let layout = bulkhead_container::cgroup::probe()?;
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    Ok(Json(json!({
        "ID": format!("{}", app.paths.state.display()),
        "Containers": records.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": records.len() - running - paused,
        "Images": images,
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "overlayfs"]],
        "Plugins": { "Volume": ["local"], "Network": ["bridge", "host", "none"], "Log": ["json-file"] },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "OomKillDisable": false,
        "IPv4Forwarding": true,
        "Debug": false,
        "NEventsListener": 0,
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": if layout.to_string() == "v2" { "2" } else { "1" },
        "KernelVersion": kernel_release(),
        "OperatingSystem": operating_system(),
        "OSType": "linux",
        "Architecture": "x86_64",
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": host_memory(),
        "DockerRootDir": app.paths.state,
        "Name": hostname,
        "ServerVersion": VERSION,
        "Runtimes": { "container": { "path": "bulkhead" }, "microvm": { "path": "bulkhead" } },
        "DefaultRuntime": "container",
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "bulkhead",
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
        "Warnings": [],
    })))
}

pub(crate) async fn disk_usage(State(app): State<App>) -> ApiResult<Json<Value>> {
    let usage = app.engine.images().disk_usage()?;
    Ok(Json(json!({
        "LayersSize": usage.image_size.bytes(),
        "Images": [],
        "Containers": [],
        "Volumes": [],
        "BuildCache": [],
    })))
}

/// There is no registry to log in to yet.
pub(crate) async fn auth() -> ApiResult<Json<Value>> {
    Err(Error::unsupported("registries are not supported yet").into())
}

pub(crate) async fn bulkhead_info(State(app): State<App>) -> ApiResult<Json<BulkheadInfo>> {
    let applied = app.data_plane.now();
    let microvm = app.launcher.microvm_settings().await;
    let (accelerator, reason, kernel) = match microvm {
        Ok(settings) => (
            settings.accelerator.clone(),
            settings.accelerator_reason.clone(),
            Some(settings.kernel.display().to_string()),
        ),
        Err(error) => (String::new(), error.to_string(), None),
    };
    Ok(Json(BulkheadInfo {
        version: VERSION.to_owned(),
        root: app.root.clone(),
        pid: std::process::id(),
        gateway_address: applied.gateway.map(|address| address.to_string()),
        accelerator,
        accelerator_reason: reason,
        kernel,
        cgroup_layout: bulkhead_container::cgroup::probe()?.to_string(),
        data_plane_pid: (applied.pid != 0).then_some(applied.pid),
        run_directory: app.paths.run.display().to_string(),
        state_directory: app.paths.state.display().to_string(),
        cache_directory: app.paths.cache.display().to_string(),
    }))
}

pub(crate) async fn shutdown(
    State(app): State<App>,
    Json(request): Json<Shutdown>,
) -> ApiResult<StatusCode> {
    let active: Vec<_> = app
        .engine
        .list()
        .into_iter()
        .filter(|record| record.state.is_active())
        .collect();
    if !active.is_empty() && !request.force {
        let names: Vec<_> = active
            .iter()
            .map(|record| record.config.name.as_str())
            .collect();
        return Err(Error::conflict(format!(
            "{} sandboxes run ({}): stop them first, or use force",
            names.len(),
            names.join(", ")
        ))
        .into());
    }
    for record in &active {
        app.engine
            .stop(&record.id, bulkhead_engine::StopOptions::default())
            .await?;
    }
    crate::shutdown::take_down(&app).await?;
    app.shutdown.notify_one();
    Ok(StatusCode::NO_CONTENT)
}
