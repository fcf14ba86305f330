//! What a Compose file describes, with everything resolved: paths are absolute, defaults are
//! filled in, short forms are gone.
//!
//! `Serialize` writes the canonical Compose form, so that what `bulkhead config` prints can be
//! loaded again.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use bulkhead_model::{ByteSize, Kind};
use serde::Serialize;

use crate::serial;

/// A project: the whole of one or several merged Compose files.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Project {
    /// Lower-case letters, digits, `-` and `_`; begins with a letter or a digit.
    pub name: String,
    /// The directory that relative paths start from; absolute.
    #[serde(skip)]
    pub directory: PathBuf,
    /// The files it was read from, in the order of merging.
    #[serde(skip)]
    pub files: Vec<PathBuf>,
    /// The services of the active profiles.
    pub services: BTreeMap<String, Service>,
    /// The services that no active profile switches on.
    #[serde(skip)]
    pub disabled_services: BTreeMap<String, Service>,
    /// By key in the file; includes `default` where a service uses it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, Network>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Volume>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, FileObject>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, FileObject>,
}

/// One service. `None` and empty mean: as the image says, or Docker's default.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Service {
    #[serde(skip)]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// `container` or `microvm`.
    #[serde(rename = "runtime", serialize_with = "serial::display")]
    pub kind: Kind,
    /// `Some` and empty clears the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// `Some` and empty clears the image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// With `env_file` read in, and without the variables that have no value anywhere.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<ExposedPort>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<ServiceMount>,
    /// Without `tmpfs:` in `volumes`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<FileMount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<FileMount>,
    /// In the order of attachment, by priority, then by name: the first has the default route.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "serial::service_networks"
    )]
    pub networks: Vec<ServiceNetwork>,
    /// `None`: the networks in `networks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<ServiceNetworkMode>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<String, Dependency>,
    /// `None`: the image's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(serialize_with = "serial::display")]
    pub restart: RestartPolicy,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `scale` and the short limits (`mem_limit`, `cpus`, …) are folded into it.
    pub deploy: Deploy,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "serial::is_false")]
    pub tty: bool,
    #[serde(skip_serializing_if = "serial::is_false")]
    pub stdin_open: bool,
    #[serde(skip_serializing_if = "serial::is_false")]
    pub read_only: bool,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::byte_size"
    )]
    pub shm_size: Option<ByteSize>,
    /// `size` alone, as written.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub storage_opt: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, UlimitRange>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    #[serde(skip_serializing_if = "serial::is_false")]
    pub privileged: bool,
    /// As written: `no-new-privileges:true`, `seccomp:unconfined`, `seccomp:/path` (absolute).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_opt: Vec<String>,
    #[serde(skip_serializing_if = "serial::is_false")]
    pub init: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::duration"
    )]
    pub stop_grace_period: Option<Duration>,
    /// Host name and address (`host-gateway` is left as it is).
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "serial::extra_hosts"
    )]
    pub extra_hosts: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset: Option<String>,
    /// Memory plus swap, in bytes; `None` is Docker's default.
    #[serde(
        rename = "memswap_limit",
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::byte_size"
    )]
    pub memory_swap_limit: Option<ByteSize>,
}

/// How a service's image is built.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Build {
    /// Absolute; exists.
    pub context: PathBuf,
    /// Absolute, or relative to `context`; `None` with `dockerfile_inline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile_inline: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further names for the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "serial::is_false")]
    pub no_cache: bool,
}

/// One published port (a range is several of these).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The port in the sandbox.
    pub target: u16,
    /// The ports on the host to choose from, first and last; `None`: any free one.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::port_range"
    )]
    pub published: Option<(u16, u16)>,
    /// The host's address to listen on; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<std::net::IpAddr>,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// A port that the service listens on, for other services and the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExposedPort {
    pub port: u16,
    pub protocol: Protocol,
}

/// A mount of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServiceMount {
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        target: String,
        #[serde(skip_serializing_if = "serial::is_false")]
        read_only: bool,
        #[serde(rename = "bind")]
        options: BindOptions,
    },
    Volume {
        /// Key in [`Project::volumes`]; `None` is an anonymous volume.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        target: String,
        #[serde(skip_serializing_if = "serial::is_false")]
        read_only: bool,
        #[serde(rename = "volume", skip_serializing_if = "VolumeOptions::is_default")]
        options: VolumeOptions,
    },
    Tmpfs {
        target: String,
        #[serde(rename = "tmpfs", skip_serializing_if = "TmpfsOptions::is_default")]
        options: TmpfsOptions,
    },
}

impl ServiceMount {
    /// The path in the sandbox.
    pub fn target(&self) -> &str {
        match self {
            ServiceMount::Bind { target, .. }
            | ServiceMount::Volume { target, .. }
            | ServiceMount::Tmpfs { target, .. } => target,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BindOptions {
    /// Make the source as a directory if it does not exist (always, in the short form).
    pub create_host_path: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct VolumeOptions {
    /// Do not fill an empty volume from the image.
    #[serde(skip_serializing_if = "serial::is_false")]
    pub nocopy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subpath: Option<String>,
}

impl VolumeOptions {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TmpfsOptions {
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::byte_size"
    )]
    pub size: Option<ByteSize>,
    /// Permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

impl TmpfsOptions {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A config or secret in a service: a read-only file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileMount {
    /// Key in [`Project::configs`] or [`Project::secrets`].
    pub source: String,
    /// Absolute path in the sandbox.
    pub target: String,
}

/// A service's attachment to a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ServiceNetwork {
    /// Key in [`Project::networks`].
    #[serde(skip)]
    pub network: String,
    /// Names besides the service's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "serial::is_zero")]
    pub priority: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceNetworkMode {
    None,
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    pub condition: DependencyCondition,
    /// Restart this service when the dependency was restarted.
    #[serde(skip_serializing_if = "serial::is_false")]
    pub restart: bool,
    /// `false`: only warn if the dependency is not there or does not start.
    pub required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum DependencyCondition {
    #[serde(rename = "service_started")]
    Started,
    #[serde(rename = "service_healthy")]
    Healthy,
    #[serde(rename = "service_completed_successfully")]
    CompletedSuccessfully,
}

/// A health check; what is `None` is as the image says, then as Docker does it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Healthcheck {
    /// No check at all, not even the image's.
    #[serde(skip_serializing_if = "serial::is_false")]
    pub disable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<HealthcheckTest>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::duration"
    )]
    pub interval: Option<Duration>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::duration"
    )]
    pub timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::duration"
    )]
    pub start_period: Option<Duration>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::duration"
    )]
    pub start_interval: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthcheckTest {
    /// Program and arguments.
    Command(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

impl HealthcheckTest {
    /// As Docker's API writes it: `["CMD", …]` or `["CMD-SHELL", "…"]`.
    pub fn to_docker(&self) -> Vec<String> {
        match self {
            HealthcheckTest::Command(arguments) => std::iter::once("CMD".to_owned())
                .chain(arguments.iter().cloned())
                .collect(),
            HealthcheckTest::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// At most so many times; `None` is no limit.
    OnFailure(Option<u32>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    Always,
    Never,
    Missing,
    Build,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Deploy {
    pub replicas: u32,
    #[serde(skip_serializing_if = "DeployResources::is_default")]
    pub resources: DeployResources,
    /// Labels of the service, not of its sandboxes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Default for Deploy {
    fn default() -> Self {
        Self {
            replicas: 1,
            resources: DeployResources::default(),
            labels: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct DeployResources {
    pub limits: ResourceLimits,
    #[serde(skip_serializing_if = "ResourceLimits::is_default")]
    pub reservations: ResourceLimits,
}

impl DeployResources {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ResourceLimits {
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::byte_size"
    )]
    pub memory: Option<ByteSize>,
    /// Thousandths of a CPU.
    #[serde(
        rename = "cpus",
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::cpus"
    )]
    pub cpu_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

impl ResourceLimits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Both bounds of one limit; `u64::MAX` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UlimitRange {
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// The name on the machine: `<project>_<key>` if the file does not say.
    pub name: String,
    /// Made by somebody else; must exist.
    #[serde(skip_serializing_if = "serial::is_false")]
    pub external: bool,
    /// No way out of it.
    #[serde(skip_serializing_if = "serial::is_false")]
    pub internal: bool,
    /// Always `bridge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    #[serde(
        rename = "ipam",
        skip_serializing_if = "Option::is_none",
        serialize_with = "serial::ipam"
    )]
    pub subnet: Option<Subnet>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// An address range of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The network's own address: host bits are zero.
    pub address: Ipv4Addr,
    pub prefix_length: u8,
    pub gateway: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// The name on the machine: `<project>_<key>` if the file does not say.
    pub name: String,
    #[serde(skip_serializing_if = "serial::is_false")]
    pub external: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A config or secret: where its content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileObject {
    pub name: String,
    #[serde(flatten)]
    pub source: FileSource,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSource {
    /// Absolute path on the host; exists.
    File(PathBuf),
    /// The text itself.
    Content(String),
    /// The value of a variable, which is not shown.
    Environment(Variable),
}

/// A variable and its value; only the name is ever written.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Variable {
    pub name: String,
    pub value: String,
}

impl From<Variable> for String {
    fn from(variable: Variable) -> Self {
        variable.name
    }
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Variable").field(&self.name).finish()
    }
}
