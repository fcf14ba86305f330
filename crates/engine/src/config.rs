//! What a sandbox should be, in the engine's own words: merged with its image, nothing resolved
//! that may change between two starts (addresses, volume directories).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use bulkhead_model::{ByteSize, Kind, ProcessSpec, Resources, Security};
use bulkhead_network::Protocol;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    pub name: String,
    pub kind: Kind,
    /// The image as the user named it.
    pub image: String,
    pub image_id: String,
    /// Unpacked layers, topmost first.
    pub layers: Vec<PathBuf>,
    pub chain_id: String,
    /// The short id where it is `None`.
    pub hostname: Option<String>,
    pub process: ProcessSpec,
    pub mounts: Vec<MountRequest>,
    pub network: NetworkRequest,
    pub ports: Vec<PortRequest>,
    /// TCP ports that the image or the user says the workload listens on.
    pub exposed: Vec<u16>,
    pub resources: Resources,
    pub security: Security,
    pub read_only_root: bool,
    pub sysctls: BTreeMap<String, String>,
    pub shm_size: ByteSize,
    /// Of the writable part of the root.
    pub root_size: Option<ByteSize>,
    pub health: Option<HealthCheck>,
    pub restart: RestartPolicy,
    pub stop_signal: i32,
    pub stop_timeout: Duration,
    pub labels: BTreeMap<String, String>,
    /// Remove the sandbox when its workload has ended.
    pub auto_remove: bool,
    /// `name:address` pairs for `/etc/hosts`.
    pub extra_hosts: Vec<(String, String)>,
    /// Instead of the network's own name server.
    pub dns: Vec<String>,
    pub replica: Option<Replica>,
    /// The request in the client's own form; kept for the client, never read here.
    pub source: String,
}

/// A sandbox's place in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    pub project: String,
    pub service: String,
    /// From 1.
    pub number: u32,
    pub config_hash: String,
    /// Made by a single command, not a part of the service.
    pub one_off: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    pub target: String,
    pub source: MountRequestSource,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountRequestSource {
    /// A named volume, made if it does not exist; a new one gets the image's files at the target.
    Volume {
        name: String,
        copy_up: bool,
    },
    /// Goes with the sandbox.
    AnonymousVolume,
    Bind {
        path: PathBuf,
        create: bool,
    },
    Tmpfs {
        size: Option<ByteSize>,
        mode: Option<u32>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NetworkRequest {
    #[default]
    None,
    Host,
    /// Not empty; the first has the default route.
    Join(Vec<NetworkJoin>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkJoin {
    /// Name or id.
    pub network: String,
    pub aliases: Vec<String>,
    pub address: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    pub host_address: Ipv4Addr,
    /// 0: any free one.
    pub host_port: u16,
    pub target_port: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Program and arguments, run in the sandbox; exit code 0 is healthy.
    pub test: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures within this time after the start do not count.
    pub start_period: Duration,
    /// The longest pause between two probes until the first success.
    pub start_interval: Duration,
    pub retries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RestartPolicy {
    #[default]
    No,
    /// After an exit code other than 0; at most this often, 0 is without limit.
    OnFailure {
        maximum: u32,
    },
    Always,
    UnlessStopped,
}
