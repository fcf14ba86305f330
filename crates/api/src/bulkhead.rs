//! The types of the endpoints under `/bulkhead/`: projects, what is particular to sandboxes, and the
//! daemon itself.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /bulkhead/projects/{name}/up` | [`ProjectUp`] | [`ProgressLine`]s, `application/x-ndjson` |
//! | `POST /bulkhead/projects/{name}/down` | [`ProjectDown`] | [`ProgressLine`]s, `application/x-ndjson` |
//! | `GET /bulkhead/projects` | | [`ProjectSummary`] list |
//! | `GET /bulkhead/projects/{name}` | | [`ProjectStatus`] |
//! | `GET /bulkhead/sandboxes/{id}` | | [`SandboxDetails`] |
//! | `GET /bulkhead/sandboxes/{id}/console` | | what the guest's kernel has said, `text/plain` |
//! | `GET /bulkhead/info` | | [`BulkheadInfo`] |
//! | `POST /bulkhead/shutdown` | [`Shutdown`] | 204 |
//!
//! An error is Docker's `{"message": "…"}`, here as everywhere.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::docker::ContainerCreateBody;

/// Asks for a project to be as `spec` says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectUp {
    pub spec: ProjectSpec,
    /// The names to bring up, with what they depend on; empty for all.
    pub services: Vec<String>,
    /// Leave alone what `services` depend on.
    pub no_deps: bool,
    /// Answer when everything is healthy, instead of when everything is started.
    pub wait: bool,
    pub wait_timeout_seconds: Option<u64>,
    /// Replace sandboxes whose configuration has not changed, too.
    pub force_recreate: bool,
    /// Keep sandboxes whose configuration has changed.
    pub no_recreate: bool,
    /// Create, but do not start.
    pub no_start: bool,
    /// Remove the sandboxes of services that the project no longer has.
    pub remove_orphans: bool,
    /// How long a sandbox that is replaced may take to stop; its own grace period if `None`.
    pub timeout_seconds: Option<u64>,
}

/// A project with every reference and default resolved by the client.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectSpec {
    pub name: String,
    pub working_directory: String,
    pub config_files: Vec<String>,
    pub networks: Vec<NetworkSpec>,
    pub volumes: Vec<VolumeSpec>,
    pub services: Vec<ServiceSpec>,
}

/// A network of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Its name in the Compose file.
    pub key: String,
    /// Its name on the machine: `PROJECT_KEY` unless the file says otherwise.
    pub name: String,
    /// No way out of it.
    pub internal: bool,
    /// Must exist already; neither made nor removed.
    pub external: bool,
    /// `10.5.0.0/24`; chosen by the daemon if `None`.
    pub subnet: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// A named volume of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeSpec {
    /// Its name in the Compose file.
    pub key: String,
    /// Its name on the machine: `PROJECT_KEY` unless the file says otherwise.
    pub name: String,
    /// Must exist already; neither made nor removed.
    pub external: bool,
    pub labels: BTreeMap<String, String>,
}

/// A service: a template for sandboxes, and how many of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    pub name: String,
    /// What `POST /containers/create` would get for one replica, without the labels and names
    /// that differ from replica to replica.
    pub container: ContainerCreateBody,
    /// The sandbox's name instead of `PROJECT-SERVICE-NUMBER`; only with one replica.
    pub container_name: Option<String>,
    pub replicas: u32,
    pub depends_on: Vec<Dependency>,
    /// Changes exactly when a sandbox has to be replaced for the new configuration.
    pub config_hash: String,
    pub stop_grace_period_seconds: Option<u64>,
    /// In order; the first has the default route. Empty where `HostConfig.NetworkMode` is not a
    /// network of the project.
    pub networks: Vec<ServiceNetwork>,
}

/// What must have happened to another service before this one starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub service: String,
    pub condition: DependencyCondition,
    /// Whether the other service's absence or failure fails this one.
    #[serde(default = "yes")]
    pub required: bool,
    /// Restart this service when the other is replaced or restarted.
    #[serde(default)]
    pub restart: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    #[default]
    Started,
    Healthy,
    CompletedSuccessfully,
}

/// A service's place on a network of its project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceNetwork {
    /// [`NetworkSpec::key`].
    pub key: String,
    /// Names that lead to the service on this network, besides its own.
    pub aliases: Vec<String>,
    pub ipv4_address: Option<String>,
}

/// Asks for a project's sandboxes and networks to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectDown {
    /// Its named volumes too.
    pub volumes: bool,
    pub remove_orphans: bool,
    pub timeout_seconds: Option<u64>,
    /// Only these; empty for all, and then the networks go too.
    pub services: Vec<String>,
}

/// One line of the answer to `up` and `down`. The last line, and no other, is [`Self::Done`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ProgressLine {
    Done { done: Outcome },
    Event(ProgressEvent),
}

impl ProgressLine {
    /// The last line of an operation that succeeded.
    pub fn succeeded() -> Self {
        Self::Done {
            done: Outcome::default(),
        }
    }

    /// The last line of an operation that failed; `code` is the HTTP status that fits it.
    pub fn failed(message: impl Into<String>, code: u16) -> Self {
        Self::Done {
            done: Outcome {
                error: Some(Failure {
                    message: message.into(),
                    code,
                }),
            },
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub error: Option<Failure>,
}

/// Why an operation failed, after its answer had already begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub message: String,
    /// The HTTP status that the answer would have had.
    pub code: u16,
}

/// Something happened to an object of the project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProgressEvent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A sandbox's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// A network's or a volume's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    pub stage: Stage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What is being done to an object, or was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Pulling,
    Building,
    #[default]
    Creating,
    Created,
    Starting,
    Started,
    Healthy,
    Stopping,
    Stopped,
    Removing,
    Removed,
    /// It ran already and was left as it was.
    Running,
    /// It waits for what it depends on, or to become healthy.
    Waiting,
    Failed,
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Stage::Pulling => "pulling",
            Stage::Building => "building",
            Stage::Creating => "creating",
            Stage::Created => "created",
            Stage::Starting => "starting",
            Stage::Started => "started",
            Stage::Healthy => "healthy",
            Stage::Stopping => "stopping",
            Stage::Stopped => "stopped",
            Stage::Removing => "removing",
            Stage::Removed => "removed",
            Stage::Running => "running",
            Stage::Waiting => "waiting",
            Stage::Failed => "failed",
        })
    }
}

/// A project in the list of all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectSummary {
    pub name: String,
    /// As Compose writes it: `running(3)`, `exited(1), running(2)`.
    pub status: String,
    pub config_files: Vec<String>,
    pub services: u32,
    pub sandboxes: u32,
}

/// A project as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectStatus {
    pub name: String,
    pub services: Vec<ServiceStatus>,
    /// Names on the machine.
    pub networks: Vec<String>,
    /// Names on the machine.
    pub volumes: Vec<String>,
}

/// A service as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceStatus {
    pub name: String,
    /// `container` or `microvm`.
    pub kind: String,
    pub image: String,
    pub replicas_desired: u32,
    pub replicas_running: u32,
    pub replicas_healthy: u32,
    /// `healthy`, `unhealthy`, `starting`, or empty where there is no health check.
    pub health: String,
    /// Of all replicas together.
    pub memory_bytes: Option<u64>,
    /// From the request to start until the workload runs, of the slowest replica.
    pub start_milliseconds: Option<u64>,
    /// From the request to start until it is healthy, of the slowest replica.
    pub ready_milliseconds: Option<u64>,
    /// Where the gateway serves it.
    pub urls: Vec<String>,
    /// Published ports as `docker ps` writes them.
    pub ports: Vec<String>,
    pub sandboxes: Vec<SandboxStatus>,
}

/// A sandbox as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxStatus {
    pub id: String,
    pub name: String,
    /// `created`, `running`, `paused`, `restarting`, `exited` or `dead`.
    pub state: String,
    /// As [`ServiceStatus::health`].
    pub health: String,
    /// Of the last run; `None` while there was none.
    pub exit_code: Option<i64>,
    pub kind: String,
    pub memory_bytes: Option<u64>,
    pub start_milliseconds: Option<u64>,
    pub ready_milliseconds: Option<u64>,
    pub address: Option<String>,
}

/// What Docker's inspect cannot say about a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxDetails {
    pub kind: String,
    /// `kvm` or `tcg`: of a micro VM that runs, what it runs with, else what its next start would
    /// take. Empty for a container, and where no micro VM can run.
    pub accelerator: String,
    /// How that was chosen, or why there is none; empty for a container.
    pub accelerator_reason: String,
}

/// What Docker's `/info` cannot say about the daemon and its host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BulkheadInfo {
    pub version: String,
    /// The directory given with `--root`; empty for the default paths.
    pub root: String,
    pub pid: u32,
    /// `127.0.0.1:8080`; `None` where the gateway does not listen.
    pub gateway_address: Option<String>,
    /// `kvm` or `tcg`; empty where no micro VM can run.
    pub accelerator: String,
    /// How that was found out.
    pub accelerator_reason: String,
    /// The path of the guest kernel.
    pub kernel: Option<String>,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup_layout: String,
    pub data_plane_pid: Option<u32>,
    pub run_directory: String,
    pub state_directory: String,
    pub cache_directory: String,
}

/// Asks the daemon and its data plane to end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Shutdown {
    /// Even while sandboxes run: they are stopped first.
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_told_from_the_others() {
        let last = serde_json::to_string(&ProgressLine::succeeded()).expect("line");
        assert_eq!(last, r#"{"done":{"error":null}}"#);
        let failed: ProgressLine =
            serde_json::from_str(r#"{"done":{"error":{"message":"no such image","code":404}}}"#)
                .expect("line");
        assert_eq!(failed, ProgressLine::failed("no such image", 404));

        let event: ProgressLine =
            serde_json::from_str(r#"{"service":"db","stage":"healthy"}"#).expect("line");
        let expected = ProgressEvent {
            service: Some("db".into()),
            stage: Stage::Healthy,
            ..ProgressEvent::default()
        };
        assert_eq!(event, ProgressLine::Event(expected));
    }

    #[test]
    fn a_request_may_leave_out_what_it_does_not_use() {
        let up: ProjectUp =
            serde_json::from_str(r#"{"spec":{"name":"shop"},"wait":true}"#).expect("request");
        assert!(up.wait && up.services.is_empty() && up.spec.name == "shop");
    }
}
