//! What a sandbox can do.
//!
//! ```text
//!            create            start             exit, kill
//!  (nothing) ──────▶ created ──────▶ running ─────────────▶ stopped ──▶ delete
//!                       └─────────────────────────────────────────────▶ delete
//! ```
//!
//! [`Sandbox`] holds the life cycle only. What a kind may be unable to do is a capability trait,
//! reached through a method that answers `None` where the kind has none.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::{ByteSize, Kind, ProcessSpec, Resources, Result, SandboxSpec, TerminalSize};

/// Makes sandboxes of one kind.
pub trait Backend: Send + Sync {
    fn kind(&self) -> Kind;

    /// Makes the sandbox with everything in place and its workload not yet running. For a
    /// container the network namespace exists afterwards, so that the caller can attach it.
    ///
    /// `taps` holds one open TAP device per endpoint of `spec.network` for a micro VM, and
    /// nothing for a container.
    ///
    /// # Errors
    /// Nothing of the sandbox is left behind when it fails.
    fn create(&self, spec: &SandboxSpec, taps: Vec<OwnedFd>) -> Result<Box<dyn Sandbox>>;
}

/// One sandbox: a container or a micro VM. Its methods may be called from several threads.
pub trait Sandbox: Send + Sync {
    fn kind(&self) -> Kind;

    /// The host's process that stands for the sandbox: the container's init, or the monitor.
    fn pid(&self) -> u32;

    /// Runs the workload. Legal once, after create.
    ///
    /// # Errors
    /// `CommandNotFound` and `CommandNotExecutable` if the program cannot be run; the sandbox can
    /// then only be deleted.
    fn start(&self) -> Result<()>;

    /// The workload's standard streams; `Some` at the first call, legal after create.
    fn take_io(&self) -> Option<ProcessIo>;

    /// Sends a signal, by its Linux number, to the workload.
    ///
    /// # Errors
    /// `Conflict` if the workload is not running.
    fn signal(&self, signal: i32) -> Result<()>;

    /// Sets the size of the workload's terminal.
    fn resize(&self, size: TerminalSize) -> Result<()>;

    /// Blocks until the workload has ended. Any number of callers get the same answer.
    fn wait(&self) -> Result<ExitStatus>;

    /// Why the sandbox itself died under its workload, such as the last words of a guest's kernel;
    /// `None` where the workload ended or was killed, or still runs. What a guest has said of it is
    /// bounded, and on one line.
    fn death(&self) -> Option<String> {
        None
    }

    /// Kills what still runs and removes every trace except `spec.root.writable` and volumes.
    /// Legal in any state, any number of times.
    fn delete(&self) -> Result<()>;

    fn exec(&self) -> Option<&dyn Exec> {
        None
    }

    fn stats(&self) -> Option<&dyn StatsSource> {
        None
    }

    fn pause(&self) -> Option<&dyn Pause> {
        None
    }

    fn update(&self) -> Option<&dyn Update> {
        None
    }
}

/// Runs one more process in a running sandbox.
pub trait Exec {
    /// # Errors
    /// `Conflict` if the sandbox is not running; `CommandNotFound`, `CommandNotExecutable`.
    fn exec(&self, process: &ProcessSpec) -> Result<(Box<dyn Process>, ProcessIo)>;
}

/// A process started by [`Exec`].
pub trait Process: Send + Sync {
    /// Its process id inside the sandbox, or on the host where the sandbox has none of its own.
    fn pid(&self) -> u32;
    fn signal(&self, signal: i32) -> Result<()>;
    fn resize(&self, size: TerminalSize) -> Result<()>;
    /// Blocks until the process has ended.
    fn wait(&self) -> Result<ExitStatus>;
}

/// The caller's ends of a process's standard streams.
#[derive(Debug)]
pub struct ProcessIo {
    /// `None` if stdin is not connected. Dropping it is end of file, but not on a terminal.
    pub stdin: Option<File>,
    /// On a terminal: everything that it shows. Ends at end of file or with `EIO`.
    pub stdout: File,
    /// `None` on a terminal.
    pub stderr: Option<File>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct ExitStatus {
    /// The exit code, or 128 plus the number of the signal that ended it.
    pub code: i32,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
}

impl ExitStatus {
    /// Of a process whose end nobody saw, or that was killed with what it ran in.
    pub const KILLED: Self = Self {
        code: 137,
        oom_killed: false,
    };
}

/// How one run of a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct Ending {
    #[cfg_attr(feature = "wire", serde(flatten))]
    pub exit: ExitStatus,
    /// Why the sandbox died under its workload ([`Sandbox::death`]).
    #[cfg_attr(feature = "wire", serde(default))]
    pub error: Option<String>,
}

impl From<ExitStatus> for Ending {
    fn from(exit: ExitStatus) -> Self {
        Self { exit, error: None }
    }
}

/// A reading of what a sandbox has used and uses.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "wire", derive(serde::Serialize, serde::Deserialize))]
pub struct Stats {
    /// CPU time since the start, of all processes (of a micro VM: what the host pays).
    pub cpu: Duration,
    pub cpu_user: Duration,
    pub cpu_system: Duration,
    /// What the host pays, page cache that can be dropped left out.
    pub memory: ByteSize,
    pub memory_limit: Option<ByteSize>,
    pub pids: u64,
    pub block_read: ByteSize,
    pub block_written: ByteSize,
}

/// Reads what a sandbox uses.
pub trait StatsSource {
    fn read(&self) -> Result<Stats>;
}

/// Stops and continues all processes of a sandbox.
pub trait Pause {
    fn pause(&self) -> Result<()>;
    fn resume(&self) -> Result<()>;
}

/// Changes the limits of a running sandbox.
pub trait Update {
    fn update(&self, resources: &Resources) -> Result<()>;
}
