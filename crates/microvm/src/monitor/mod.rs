//! What runs a micro VM's virtual hardware, behind one trait.
//!
//! Invariant: a guest sees the same devices under every monitor: virtio over MMIO, one console
//! port for the agent, two disks known by their serial numbers, and a serial port for the kernel.

mod qemu;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::str::FromStr;

use bulkhead_model::{Error, Result};

pub use qemu::{Qemu, find_program};

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
    pub disks: Vec<Disk>,
    pub memory_mib: u64,
    pub cpus: u64,
    /// How fast the processors' time stamp counters run, where the guest must be told.
    pub tsc_khz: Option<u64>,
    pub shares: Vec<Share>,
    pub staged: Vec<StagedFile>,
    pub interfaces: Vec<Interface>,
    /// `cgroup.procs` files for the monitor to write itself into.
    pub control_groups: Vec<PathBuf>,
    pub origin: Origin,
}

/// Where a guest begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// With the boot of its kernel.
    Boot,
    /// With the boot of its kernel, to be [saved](Control::save): its memory is the file, which is
    /// made, and it looks for devices at all places where those that go on from it may have them.
    Prototype(TemplateFiles),
    /// Where the template was saved. The memory that it does not change is the file's pages.
    Template(TemplateFiles),
}

/// A guest that was stopped: its memory, and the state of its processors and devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateFiles {
    pub memory: PathBuf,
    pub state: PathBuf,
}

/// A disk that the guest knows by its serial number.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub serial: &'static str,
    pub path: PathBuf,
    pub read_only: bool,
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
    /// Stops a [prototype](Origin::Prototype) and writes all but its memory to the file, which has
    /// its memory's content when this returns.
    fn save(&mut self, state: OwnedFd) -> Result<()>;
}

/// Starts guests.
pub(crate) trait Monitor: Send + Sync {
    /// Returns while the guest boots; if it goes on from a template, as soon as it does.
    fn start(&self, machine: &Machine) -> Result<Running>;
    /// The program that runs the guests: another one may not read what this one saved.
    fn program(&self) -> io::Result<PathBuf>;
}
