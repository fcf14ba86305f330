//! Control groups: of a sandbox at `PARENT/ID` below the root of each hierarchy ([`sandbox`]), of
//! an OCI container where its configuration says ([`path`]).
//!
//! Invariant: a limit that was asked for is either in force or an error.

mod device_filter;
mod entrance;
mod files;
mod layout;
mod notification;
mod path;
mod sandbox;
mod setting;
mod systemd;
mod v1;
mod v1_devices;
mod v2;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_model::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::sys;

pub(crate) use entrance::OpenEntrance;
pub use layout::{Hierarchy, Layout};
pub(crate) use notification::Notice;
pub(crate) use setting::{Otherwise, Setting};
pub(crate) use systemd::{Placeholder, Unit};
pub(crate) use v2::weight as cpu_weight;

/// How long the kernel may take to freeze a group or to let go of its dead processes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the host offers, for `doctor`.
///
/// # Errors
/// `Unsupported` if no hierarchy is mounted, with the remedy.
pub fn probe() -> Result<Layout> {
    Layout::detect_with_controllers()
}

/// A control group on this host: one directory on v2, one per hierarchy on v1; none where a
/// user who may not make groups has asked for no limit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cgroup {
    /// Whether the controllers are those of v2.
    v2: bool,
    directories: Vec<Directory>,
    /// Without the right to make it the group may be missing: the user is not root, and no path
    /// was asked for.
    dispensable: bool,
    /// The unit by which systemd makes and removes the group.
    #[serde(default)]
    unit: Option<Unit>,
    /// Directories above the group, which vanish with the last group in them.
    #[serde(skip)]
    parents: Vec<PathBuf>,
}

/// A group's directory in one hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Directory {
    /// Those of the hierarchy on v1; on v2 what is asked for is found by its file.
    pub(crate) controllers: Vec<String>,
    pub(crate) path: PathBuf,
    /// In the hierarchy of v2.
    pub(crate) unified: bool,
}

/// One rule of a device policy; `None` is every number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    pub(crate) allow: bool,
    /// `a`, `b` or `c`.
    pub(crate) kind: char,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    /// Some of `rwm`.
    pub(crate) access: String,
}

/// A mounted hierarchy, as a container is to see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct View {
    /// `None` for v2, which is mounted at `/sys/fs/cgroup` itself.
    pub(crate) controllers: Option<String>,
    /// The group's directory on the host, for a container without a cgroup namespace.
    pub(crate) host: Option<PathBuf>,
}

impl Cgroup {
    pub fn exists(&self) -> bool {
        self.directories
            .iter()
            .any(|directory| directory.path.exists())
    }

    /// Puts a process into the group.
    pub fn add_process(&self, pid: u32) -> Result<()> {
        for directory in &self.directories {
            files::write(&directory.path.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// The files into which a process writes its id to join the group.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        let directories = self.directories.iter();
        directories
            .map(|directory| directory.path.join("cgroup.procs"))
            .collect()
    }

    /// How many processes of the group the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.v2 {
            self.unified().map(|path| path.join("memory.events"))
        } else {
            self.v1("memory")
                .map(|path| path.join("memory.oom_control"))
        };
        file.and_then(|file| files::keyed(&file, "oom_kill").ok().flatten())
            .unwrap_or(0)
    }

    /// Stops all processes of the group, and returns when they stand still.
    ///
    /// # Errors
    /// `Unsupported` without the freezer; `Host` if the processes do not freeze in ten seconds.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        match (self.v2, self.unified()) {
            (true, Some(path)) => v2::set_frozen(path, frozen),
            (true, None) => Err(no_freezer()),
            (false, _) => v1::set_frozen(self, frozen),
        }
    }

    /// Kills every process of the group, frozen or not, and returns when none is left.
    pub fn kill(&self) -> Result<()> {
        if let Some(path) = self.unified() {
            // Linux 5.14; all at once, so that no fork escapes. Otherwise one by one as below.
            let _ = files::write(&path.join("cgroup.kill"), "1");
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pids = self.all_processes();
            if pids.is_empty() {
                return Ok(());
            }
            let mut ends = Vec::new();
            for pid in pids {
                // One that has ended meanwhile is what is wanted.
                ends.extend(Pid::from_raw(pid).and_then(|pid| {
                    let end = pidfd_open(pid, PidfdFlags::empty()).ok()?;
                    let _ = sys::kill(pid.as_raw_nonzero().get(), libc::SIGKILL);
                    Some(end)
                }));
            }
            // Frozen processes of v1 die when they thaw.
            let _ = self.thaw();
            await_ends(&ends, deadline);
            wait_until(deadline, || {
                Error::host("kill the processes of a control group: some do not end; see dmesg")
            })?;
        }
    }

    /// The processes of the group and of those below it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let first = self
            .v1("devices")
            .or_else(|| self.directories.first().map(|first| first.path.as_path()));
        let directories = first.map(files::descendants).unwrap_or_default();
        directories
            .iter()
            .flat_map(|path| files::processes(path))
            .collect()
    }

    /// Also those that have left the group in some hierarchies and are in it in others.
    fn all_processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .directories
            .iter()
            .flat_map(|directory| files::descendants(&directory.path))
            .flat_map(|path| files::processes(&path))
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes the group with the groups that its processes have made in it. Legal when no
    /// process is left, also if the group is gone already.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for directory in &self.directories {
            files::remove(&directory.path, deadline)?;
        }
        // Fails while another sandbox is in there, and should.
        for parent in &self.parents {
            let _ = std::fs::remove_dir(parent);
        }
        Ok(())
    }

    /// Kills what is in the group, if anything, and removes it.
    pub(crate) fn destroy(&self) -> Result<()> {
        let mut gone = true;
        for directory in &self.directories {
            gone &= files::remove_empty(&directory.path);
        }
        if !gone {
            self.kill()?;
            self.remove()?;
        }
        match &self.unit {
            Some(unit) => unit.stop(),
            None => Ok(()),
        }
    }

    /// The group's directory in the hierarchy of v2, where there is one.
    pub(crate) fn unified(&self) -> Option<&Path> {
        let directory = self.directories.iter().find(|directory| directory.unified);
        directory.map(|directory| directory.path.as_path())
    }

    /// The group's directory in the v1 hierarchy that has `controller`.
    pub(crate) fn v1(&self, controller: &str) -> Option<&Path> {
        self.directories
            .iter()
            .find(|directory| directory.controllers.iter().any(|name| name == controller))
            .map(|directory| directory.path.as_path())
    }
}

/// Returns when all of these processes have ended, or at the deadline.
fn await_ends(ends: &[OwnedFd], deadline: Instant) {
    for end in ends {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        // Interrupted, it is looked after again by the caller's loop.
        let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], left.as_ref());
    }
}

/// Sleeps a moment; fails after the deadline.
fn wait_until(deadline: Instant, error: impl FnOnce() -> Error) -> Result<()> {
    if Instant::now() > deadline {
        return Err(error());
    }
    std::thread::sleep(Duration::from_micros(200));
    Ok(())
}

/// The message for a limit that cannot be enforced.
fn missing(limit: &str, controller: &str) -> Error {
    Error::unsupported(format!(
        "the {limit} limit needs the cgroup controller '{controller}', which this host does not \
         offer: enable it (kernel command line, or cgroup.subtree_control of the parent), or \
         leave the limit out"
    ))
}

fn no_freezer() -> Error {
    Error::unsupported(
        "pause needs the cgroup controller 'freezer', which this host does not offer or the \
         container has no group of",
    )
}
