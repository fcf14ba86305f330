//! What is, as it is kept over restarts of the daemon.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use bulkhead_model::{Endpoint, ExitStatus, SandboxSpec};
use bulkhead_network::{NetworkSpec, PublishedPort};
use serde::{Deserialize, Serialize};

use crate::config::SandboxConfig;

/// How many results of health probes are kept.
const PROBES_KEPT: usize = 5;

/// ```text
/// Created ──▶ Starting ──▶ Running ◀──▶ Paused
///    ▲            │           │ exit
///    └─ failed ───┘           ├──▶ Restarting ──▶ Starting
///                             └──▶ Exited ──────▶ Starting
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Created,
    Starting,
    Running,
    Paused,
    Restarting,
    Exited,
    /// Being removed; it can only be removed again.
    Dead,
}

impl State {
    /// Whether a workload runs.
    pub fn is_running(self) -> bool {
        matches!(self, State::Running | State::Paused)
    }

    /// Whether a workload runs or is about to.
    pub fn is_active(self) -> bool {
        matches!(
            self,
            State::Starting | State::Running | State::Paused | State::Restarting
        )
    }
}

/// Everything known of one sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub config: SandboxConfig,
    pub created_at: SystemTime,
    pub state: State,
    /// The host's process of the running sandbox.
    pub pid: Option<u32>,
    /// Set by a stop and taken back by a start: the restart policy must leave it alone.
    pub stopped_by_user: bool,
    pub restart_count: u32,
    pub started_at: Option<SystemTime>,
    pub finished_at: Option<SystemTime>,
    pub exit: Option<ExitStatus>,
    /// Why the last start failed, or why the sandbox died under its workload.
    pub error: Option<String>,
    /// From the request to start until the workload ran.
    pub start_duration: Option<Duration>,
    /// From the request to start until the first healthy probe.
    pub ready_duration: Option<Duration>,
    pub health: Health,
    /// Of the running sandbox.
    pub attachments: Vec<Attachment>,
    /// Of the running sandbox, with the host's ports that were chosen.
    pub ports: Vec<PublishedPort>,
    /// The names of the volumes that go with the sandbox, in the order of its mounts.
    pub anonymous_volumes: Vec<String>,
    /// Of one that is being removed: whether these volumes go too.
    #[serde(default)]
    pub remove_volumes: bool,
}

/// A sandbox's place on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub network_id: String,
    pub network_name: String,
    pub endpoint: Endpoint,
    pub aliases: Vec<String>,
}

impl Record {
    pub(crate) fn new(id: String, config: SandboxConfig) -> Self {
        Self {
            id,
            config,
            created_at: SystemTime::now(),
            state: State::Created,
            pid: None,
            stopped_by_user: false,
            restart_count: 0,
            started_at: None,
            finished_at: None,
            exit: None,
            error: None,
            start_duration: None,
            ready_duration: None,
            health: Health::default(),
            attachments: Vec::new(),
            ports: Vec::new(),
            anonymous_volumes: Vec::new(),
            remove_volumes: false,
        }
    }

    /// The first twelve digits of the id.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// Whether it can be sent requests: it runs and its health check, if it has one, says so.
    pub fn is_ready(&self) -> bool {
        self.state == State::Running
            && (self.config.health.is_none() || self.health.status == HealthStatus::Healthy)
    }

    pub fn exit_code(&self) -> i32 {
        self.exit.map_or(0, |exit| exit.code)
    }

    /// Whether it counts as a replica of the service.
    pub fn is_replica_of(&self, project: &str, service: &str) -> bool {
        self.config.replica.as_ref().is_some_and(|replica| {
            !replica.one_off && replica.project == project && replica.service == service
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HealthStatus {
    /// There is no health check.
    #[default]
    None,
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    pub failing_streak: u32,
    pub probes: VecDeque<Probe>,
}

/// The result of one run of a health check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    pub started_at: SystemTime,
    pub ended_at: SystemTime,
    /// -1 if it could not be run or took too long.
    pub exit_code: i32,
    pub output: String,
}

impl Health {
    pub(crate) fn of_new_run(config: &SandboxConfig) -> Self {
        let status = match config.health {
            Some(_) => HealthStatus::Starting,
            None => HealthStatus::None,
        };
        Self {
            status,
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, probe: Probe) {
        if self.probes.len() == PROBES_KEPT {
            self.probes.pop_front();
        }
        self.probes.push_back(probe);
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub spec: NetworkSpec,
    pub labels: BTreeMap<String, String>,
    pub created_at: SystemTime,
}

impl NetworkRecord {
    pub fn id(&self) -> &str {
        &self.spec.id
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn gateway(&self) -> Ipv4Addr {
        self.spec.gateway
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub created_at: SystemTime,
    /// Whether its first content (the image's files) is in it.
    pub filled: bool,
}

/// What a start has decided; used up by the launcher.
pub(crate) struct Resolved {
    pub spec: SandboxSpec,
    pub attachments: Vec<Attachment>,
    pub ports: Vec<PublishedPort>,
}
