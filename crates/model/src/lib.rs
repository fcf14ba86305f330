//! The nouns of Bulkhead: what a sandbox is, what it is made of, and the traits that both kinds
//! of sandbox carry out.
//!
//! Invariant: no I/O, no wire format and no word of Docker's in here. Everything else in the
//! workspace may depend on this crate; it depends on nothing of ours. The feature `wire` adds
//! serde's derives and nothing else (`docs/decisions/0002-serde-in-model.md`).

pub mod capability;
mod error;
mod sandbox;
mod spec;
pub mod spelling;
#[cfg(feature = "testing")]
pub mod testing;
mod units;
pub mod user;

pub use error::{Error, ErrorKind, Result};
pub use sandbox::{
    Backend, Ending, Exec, ExitStatus, Pause, Process, ProcessIo, Sandbox, Stats, StatsSource,
    Update,
};
pub use spec::{
    Endpoint, EtcFiles, Kind, Mount, MountSource, NetworkMode, ProcessSpec, Resources,
    RootFilesystem, SandboxSpec, Seccomp, Security, TerminalSize, Ulimit,
};
pub use units::ByteSize;
