//! What the two sides say to each other.
//!
//! ```text
//! agent                                  supervisor
//!   ── Hello ───────────────────────────────▶
//!   ◀─────────────────── Hello, Configure ──      root, network, mounts
//!   ── Configured ──────────────────────────▶
//!   ◀──────────────── Request(Start|Exec|…) ──
//!   ── Reply ───────────────────────────────▶
//!   ◀──── Data, Credit, Close (any time) ────▶
//!   ── Exited ──────────────────────────────▶
//! ```

use std::collections::BTreeMap;

use bulkhead_model::{Endpoint, Error, ErrorKind, EtcFiles, ProcessSpec, TerminalSize, Ulimit};

use crate::codec::{Malformed, Wire, take, wire_enum, wire_struct};

/// Names a stream: four numbers belong to each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream(pub u32);

impl Stream {
    pub fn stdin(process: u32) -> Self {
        Self(process.wrapping_mul(4))
    }

    /// On a terminal: all that it shows.
    pub fn stdout(process: u32) -> Self {
        Self(process.wrapping_mul(4) | 1)
    }

    pub fn stderr(process: u32) -> Self {
        Self(process.wrapping_mul(4) | 2)
    }
}

impl Wire for Stream {
    fn encode(&self, bytes: &mut Vec<u8>) {
        self.0.encode(bytes);
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        u32::decode(bytes).map(Self)
    }
}

/// One frame's content.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    Hello {
        version: u32,
    },
    Configure {
        configuration: Box<Configuration>,
    },
    Configured {
        reply: Reply,
    },
    Request {
        id: u32,
        request: Request,
    },
    Reply {
        id: u32,
        reply: Reply,
    },
    /// A process has ended. What it wrote before may still be on its way.
    Exited {
        process: u32,
        code: i32,
        oom_killed: bool,
    },
    /// Bytes of a stream; never more than the receiver gave credit for.
    Data {
        stream: Stream,
        bytes: Payload,
    },
    /// The receiver of a stream can take so many bytes more.
    Credit {
        stream: Stream,
        bytes: u32,
    },
    /// The sender of a stream has reached its end.
    Close {
        stream: Stream,
    },
}

wire_enum!(Message {
    1 => Hello { version },
    2 => Configure { configuration },
    3 => Configured { reply },
    4 => Request { id, request },
    5 => Reply { id, reply },
    6 => Exited { process, code, oom_killed },
    7 => Data { stream, bytes },
    8 => Credit { stream, bytes },
    9 => Close { stream },
});

/// The rest of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

impl Wire for Payload {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.0);
    }

    fn decode(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let length = bytes.len();
        take(bytes, length).map(|rest| Self(rest.to_vec()))
    }
}

/// All that the guest is told about the sandbox, before anything runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    pub hostname: String,
    pub process: ProcessSpec,
    /// In the order in which they are mounted.
    pub mounts: Vec<GuestMount>,
    pub endpoints: Vec<Endpoint>,
    pub etc: EtcFiles,
    pub sysctls: BTreeMap<String, String>,
    /// Bytes.
    pub shm_size: u64,
    pub root_read_only: bool,
    /// Bytes for the workload; the guest's memory is larger than that.
    pub memory_limit: Option<u64>,
    pub cpu_millis: Option<u64>,
    pub pids_limit: Option<u64>,
    pub ulimits: Vec<Ulimit>,
    pub oom_score_adj: Option<i32>,
    pub privileged: bool,
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub no_new_privileges: bool,
    /// Run a minimal init as PID 1 of the workload.
    pub init: bool,
    /// The host's clock, in nanoseconds since 1970.
    pub unix_time_nanoseconds: u64,
    /// Random bytes of the host, no two guests' the same.
    pub random_seed: Vec<u8>,
}

wire_struct!(Configuration {
    hostname,
    process,
    mounts,
    endpoints,
    etc,
    sysctls,
    shm_size,
    root_read_only,
    memory_limit,
    cpu_millis,
    pids_limit,
    ulimits,
    oom_score_adj,
    privileged,
    capabilities_add,
    capabilities_drop,
    no_new_privileges,
    init,
    unix_time_nanoseconds,
    random_seed,
});

/// One mount besides the root and the system's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestMount {
    pub target: String,
    pub source: GuestMountSource,
    pub read_only: bool,
}

wire_struct!(GuestMount {
    target,
    source,
    read_only
});

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestMountSource {
    /// A directory of the host, shared by the 9P protocol under this tag; if `file` is given, the
    /// one file of that name in it.
    Shared { tag: String, file: Option<String> },
    Tmpfs {
        size: Option<u64>,
        mode: Option<u32>,
    },
}

wire_enum!(GuestMountSource {
    1 => Shared { tag, file },
    2 => Tmpfs { size, mode },
});

/// What the supervisor asks of the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Runs the workload of the configuration as process [`crate::WORKLOAD`].
    Start {},
    /// Runs one more process, under a number that the supervisor chose.
    Exec {
        process: u32,
        spec: ProcessSpec,
    },
    Signal {
        process: u32,
        signal: i32,
    },
    Resize {
        process: u32,
        size: TerminalSize,
    },
    /// What the workload uses, seen from inside.
    Stats {},
    /// Changes the workload's limits; what is `None` stays.
    Limit {
        memory: Option<u64>,
        cpu_millis: Option<u64>,
        pids: Option<u64>,
    },
}

wire_enum!(Request {
    1 => Start {},
    2 => Exec { process, spec },
    3 => Signal { process, signal },
    4 => Resize { process, size },
    5 => Stats {},
    6 => Limit { memory, cpu_millis, pids },
});

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Done {},
    /// The process id inside the sandbox.
    Started {
        pid: u32,
    },
    Stats {
        cpu_user_microseconds: u64,
        cpu_system_microseconds: u64,
        memory_bytes: u64,
        pids: u64,
    },
    Failed {
        kind: u8,
        message: String,
    },
}

wire_enum!(Reply {
    1 => Done {},
    2 => Started { pid },
    3 => Stats { cpu_user_microseconds, cpu_system_microseconds, memory_bytes, pids },
    4 => Failed { kind, message },
});

/// The kinds of error that cross the channel; a kind's place is its number.
const ERROR_KINDS: [ErrorKind; 8] = [
    ErrorKind::Host,
    ErrorKind::InvalidInput,
    ErrorKind::NotFound,
    ErrorKind::Conflict,
    ErrorKind::CommandNotFound,
    ErrorKind::CommandNotExecutable,
    ErrorKind::Unsupported,
    ErrorKind::Channel,
];

impl Reply {
    pub fn failed(error: &Error) -> Self {
        let place = ERROR_KINDS.iter().position(|kind| *kind == error.kind());
        Self::Failed {
            kind: place.unwrap_or(0) as u8,
            message: error.to_string(),
        }
    }

    /// Turns a failure into the error that it stands for.
    ///
    /// # Errors
    /// The guest's own error, with its kind.
    pub fn into_result(self) -> bulkhead_model::Result<Self> {
        match self {
            Self::Failed { kind, message } => {
                let kind = ERROR_KINDS.get(usize::from(kind));
                Err(Error::new(*kind.unwrap_or(&ErrorKind::Host), message))
            }
            other => Ok(other),
        }
    }
}

wire_struct!(ProcessSpec {
    args,
    env,
    cwd,
    user,
    terminal,
    stdin,
    privileged
});
wire_struct!(TerminalSize { rows, columns });
wire_struct!(Ulimit { name, soft, hard });
wire_struct!(EtcFiles {
    hosts,
    resolv_conf,
    hostname
});
wire_struct!(Endpoint {
    bridge,
    host_device,
    interface,
    mac,
    address,
    prefix_length,
    gateway,
    mtu,
});
