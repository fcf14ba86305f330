//! What runs a micro VM's virtual hardware, behind one trait.
//!
//! Invariant: a guest sees the same devices under every monitor: virtio over MMIO, one console
//! port for the agent, two disks known by their serial numbers, and a serial port for the kernel.

mod qemu;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::str::FromStr;

use bulkhead_model::{Error, Result};

pub use qemu::Qemu;

use crate::launch::StagedFile;

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// Software.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

impl FromStr for Accelerator {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => Err(Error::invalid(format!(
                "unknown accelerator '{other}': use 'kvm' or 'tcg'"
            ))),
        }
    }
}

/// The virtual hardware of one guest.
#[derive(Debug)]
pub(crate) struct Machine {
    pub accelerator: Accelerator,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// The read-only image.
    pub image: PathBuf,
    /// The sandbox's own disk.
    pub disk: PathBuf,
    pub memory_mib: u64,
    pub cpus: u64,
    /// How fast the processors' time stamp counters run, where the guest must be told.
    pub tsc_khz: Option<u64>,
    pub shares: Vec<Share>,
    pub staged: Vec<StagedFile>,
    pub interfaces: Vec<Interface>,
    /// `cgroup.procs` files for the monitor to write itself into.
    pub control_groups: Vec<PathBuf>,
}

/// A directory of the host that the guest can mount.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pub tag: String,
    pub path: PathBuf,
    pub read_only: bool,
}

#[derive(Debug)]
pub(crate) struct Interface {
    pub tap: OwnedFd,
    pub mac: [u8; 6],
}

/// A monitor that runs. It ends with the thread that started it.
pub(crate) struct Running {
    pub process: Child,
    /// The host's end of the agent's channel; does not block.
    pub agent: OwnedFd,
    /// What the guest's kernel says; does not block.
    pub console: OwnedFd,
    /// What the monitor itself says; does not block.
    pub errors: OwnedFd,
    pub control: Box<dyn Control>,
}

/// Orders to a monitor that runs.
pub(crate) trait Control: Send {
    /// Stops all of the guest, its clocks included.
    fn pause(&mut self) -> Result<()>;
    fn resume(&mut self) -> Result<()>;
}

/// Starts guests.
pub(crate) trait Monitor: Send + Sync {
    fn start(&self, machine: Machine) -> Result<Running>;
}
