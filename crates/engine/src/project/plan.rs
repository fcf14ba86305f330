use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::SandboxConfig;
use crate::networks::NetworkRequestNew;

/// What a project should be.
#[derive(Debug, Clone)]
pub struct ProjectPlan {
    pub name: String,
    pub networks: Vec<PlannedNetwork>,
    pub volumes: Vec<PlannedVolume>,
    /// All services, also those that this `up` leaves alone.
    pub services: Vec<ServicePlan>,
    /// The request in the client's own form; kept for the client, never read here.
    pub form: String,
}

#[derive(Debug, Clone)]
pub struct PlannedNetwork {
    pub request: NetworkRequestNew,
    /// Must be there already.
    pub external: bool,
}

#[derive(Debug, Clone)]
pub struct PlannedVolume {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Must be there already.
    pub external: bool,
}

#[derive(Debug, Clone)]
pub struct ServicePlan {
    pub name: String,
    /// For each replica, except for its name and number.
    pub template: SandboxConfig,
    /// Instead of `PROJECT-SERVICE-NUMBER`.
    pub sandbox_name: Option<String>,
    pub replicas: u32,
    pub depends_on: Vec<DependsOn>,
    pub config_hash: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DependsOn {
    pub service: String,
    pub condition: Condition,
    /// Whether this service fails if the other does.
    pub required: bool,
    /// Whether this service is restarted when the other is replaced.
    pub restart: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    Started,
    Healthy,
    CompletedSuccessfully,
}

#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// Empty: all.
    pub services: Vec<String>,
    pub without_dependencies: bool,
    pub wait: bool,
    pub wait_timeout: Option<Duration>,
    pub force_recreate: bool,
    pub no_recreate: bool,
    pub no_start: bool,
    pub remove_orphans: bool,
    /// Instead of the configured grace period, for what is replaced.
    pub stop_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
pub struct DownOptions {
    pub volumes: bool,
    pub stop_timeout: Option<Duration>,
    /// Empty: all.
    pub services: Vec<String>,
}

/// One step of an `up` or `down`.
#[derive(Debug, Clone)]
pub struct Progress {
    pub service: Option<String>,
    pub sandbox: Option<String>,
    /// A network's or a volume's name.
    pub object: Option<String>,
    pub stage: Stage,
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Creating,
    Created,
    Starting,
    Started,
    Healthy,
    Stopping,
    Stopped,
    Removing,
    Removed,
    Running,
    Waiting,
    Failed,
}

/// A project as it was last brought up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProjectRecord {
    pub name: String,
    pub services: BTreeMap<String, ProjectService>,
    /// Names of the networks and volumes that are the project's own.
    pub networks: Vec<String>,
    pub volumes: Vec<String>,
    pub form: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProjectService {
    pub replicas: u32,
    pub depends_on: Vec<String>,
}
