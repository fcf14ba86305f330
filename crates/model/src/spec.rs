use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{ByteSize, Error};

/// How a sandbox is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "wire", serde(rename_all = "lowercase"))]
pub enum Kind {
    /// By namespaces, cgroups, capabilities and seccomp of the host's kernel.
    #[default]
    Container,
    /// By a kernel of its own on virtual hardware.
    Microvm,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Kind::Container => "container",
            Kind::Microvm => "microvm",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "container" => Ok(Kind::Container),
            "microvm" => Ok(Kind::Microvm),
            other => Err(Error::invalid(format!(
                "unknown runtime '{other}': use 'container' or 'microvm'"
            ))),
        }
    }
}

/// Everything that a backend needs to make one sandbox. All references are resolved: no image
/// names, no network names, no defaults left to choose.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct SandboxSpec {
    /// 64 lower-case hexadecimal digits.
    pub id: String,
    /// The name users see, unique on the machine.
    pub name: String,
    pub kind: Kind,
    pub hostname: String,
    pub process: ProcessSpec,
    pub root: RootFilesystem,
    /// In the order in which they are mounted: a mount's parent comes first.
    pub mounts: Vec<Mount>,
    pub network: NetworkMode,
    pub etc: EtcFiles,
    pub resources: Resources,
    pub security: Security,
    /// `net.*`, `kernel.msg*`, … as `sysctl` names them.
    pub sysctls: BTreeMap<String, String>,
    /// Size of the tmpfs at `/dev/shm`.
    pub shm_size: ByteSize,
    /// The sandbox's own directory that lives as long as the sandbox exists, made by the caller.
    pub state_dir: PathBuf,
    /// The sandbox's own directory that lives as long as the machine runs, made by the caller.
    /// Sockets of the backend go here: its path is at most 60 bytes long.
    pub run_dir: PathBuf,
}

/// A process to run in a sandbox: its workload, or one more beside it (exec).
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct ProcessSpec {
    /// Program and arguments; the program is looked up in the `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value`. `HOME` is added from the passwd file where it is not given.
    pub env: Vec<String>,
    /// Absolute; made if it does not exist.
    pub cwd: String,
    /// `""`, `user`, `uid`, `user:group`, … resolved in the sandbox's own passwd and group files.
    pub user: String,
    /// A terminal of this size is made for the process; its stdout and stderr are then one stream.
    pub terminal: Option<TerminalSize>,
    /// Whether stdin is connected; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// All capabilities, no seccomp filter (an exec with `--privileged`).
    pub privileged: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self {
            rows: 24,
            columns: 80,
        }
    }
}

/// The root filesystem of a sandbox: read-only layers under a writable part.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct RootFilesystem {
    /// Unpacked layers, the topmost first, each a directory in overlayfs' own form (whiteouts are
    /// 0/0 character devices, opaque directories have `trusted.overlay.opaque`).
    pub layers: Vec<PathBuf>,
    /// Names the content of `layers` taken together (64 hexadecimal digits); the key under which
    /// an image made of them is cached.
    pub chain_id: String,
    /// Where the sandbox's changes go: a directory that holds `upper` and `work` (made by the
    /// backend) or the backend's own disk image.
    pub writable: PathBuf,
    /// What the sandbox can write to its root at most; `None` is the backend's own default.
    pub size: Option<ByteSize>,
    /// The workload cannot write to its root.
    pub read_only: bool,
}

/// One mount besides the root and the system's own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct Mount {
    /// Absolute path in the sandbox; resolved inside its root, made if it does not exist.
    pub target: String,
    pub source: MountSource,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub enum MountSource {
    /// A file or directory of the host (a bind mount or a named volume's directory).
    Bind(PathBuf),
    /// A fresh tmpfs.
    Tmpfs {
        size: Option<ByteSize>,
        mode: Option<u32>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub enum NetworkMode {
    /// A network namespace with nothing but loopback.
    #[default]
    None,
    /// The host's own network (containers only).
    Host,
    /// One interface per endpoint, `eth0` first; the first endpoint has the default route.
    Bridge(Vec<Endpoint>),
}

impl NetworkMode {
    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            NetworkMode::Bridge(endpoints) => endpoints,
            _ => &[],
        }
    }
}

/// A sandbox's address on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct Endpoint {
    /// The host's bridge device, at most 15 bytes.
    pub bridge: String,
    /// The host's end of the veth pair, or the TAP device; at most 15 bytes.
    pub host_device: String,
    /// The name inside the sandbox: `eth0`, `eth1`, …
    pub interface: String,
    pub mac: [u8; 6],
    pub address: Ipv4Addr,
    pub prefix_length: u8,
    /// The bridge's own address: default route and DNS server.
    pub gateway: Ipv4Addr,
    pub mtu: u32,
}

/// The files below `/etc` that the network decides, as whole texts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct EtcFiles {
    pub hosts: String,
    pub resolv_conf: String,
    pub hostname: String,
}

/// Limits; `None` is no limit (a micro VM then gets its kind's default memory and one CPU).
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct Resources {
    pub memory: Option<ByteSize>,
    /// Memory plus swap.
    pub memory_swap: Option<ByteSize>,
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Relative weight as cgroup v1 has it (2 to 262144; 1024 is normal).
    pub cpu_shares: Option<u64>,
    /// The CPUs to run on, as a list such as `0-1,3`.
    pub cpuset_cpus: Option<String>,
    pub pids: Option<u64>,
    pub ulimits: Vec<Ulimit>,
    pub oom_score_adj: Option<i32>,
}

/// One limit of `setrlimit(2)`, by its lower-case name without `RLIMIT_` (`nofile`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct Ulimit {
    pub name: String,
    /// `u64::MAX` is unlimited.
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct Security {
    /// All capabilities, no seccomp filter, nothing masked or read-only.
    pub privileged: bool,
    /// Capability names with or without `CAP_`, or `ALL`, on top of the default set.
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// Run a minimal init that reaps orphans as PID 1.
    pub init: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            privileged: false,
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            no_new_privileges: true,
            seccomp: Seccomp::Default,
            init: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub enum Seccomp {
    /// The profile that Docker applies by default.
    #[default]
    Default,
    Unconfined,
    /// A profile in Docker's JSON form, as text.
    Profile(String),
}
