//! Control groups: one per sandbox, at `PARENT/ID` below the root of each hierarchy.
//!
//! Invariant: the directory `PARENT` exists only while it holds a sandbox's group, and a limit
//! that was asked for is either in force or an error.

mod device_filter;
mod files;
mod layout;
mod path;
mod v1;
mod v2;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_model::{Error, Resources, Result, Stats};
use serde::{Deserialize, Serialize};

use crate::failure::Context;
use crate::sys;

pub use layout::{Hierarchy, Layout};

/// How long the kernel may take to freeze a group or to let go of its dead processes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the host offers, for `doctor`.
///
/// # Errors
/// `Unsupported` if no hierarchy is mounted, with the remedy.
pub fn probe() -> Result<Layout> {
    Layout::detect()
}

/// One sandbox's control group on this host.
#[derive(Debug)]
pub struct Cgroup {
    layout: Layout,
    parent: String,
    /// The group's directories: one on v2, one per hierarchy on v1.
    directories: Vec<Directory>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Directory {
    pub(crate) controllers: Vec<String>,
    pub(crate) path: PathBuf,
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

/// A value for a file of a group, with the name of the setting that asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) field: String,
    /// The controller whose hierarchy has the file, on v1.
    pub(crate) controller: &'static str,
    pub(crate) file: String,
    pub(crate) value: String,
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
    /// Makes the group with its limits. A group of this name that a crash left behind is killed
    /// and made anew.
    ///
    /// # Errors
    /// `Unsupported` if a limit needs a controller that this host does not have; nothing is left
    /// behind.
    pub fn create(parent: &str, id: &str, resources: &Resources) -> Result<Self> {
        let group = Self::at(Layout::detect()?, parent, id);
        if group.exists() {
            group.kill()?;
            group.remove()?;
        }
        let made = group.make().and_then(|()| group.update(resources));
        if let Err(error) = made {
            // The first failure is the one to tell about.
            let _ = group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// The group of that name, which may be there or not; for what a crash left behind.
    pub fn open(parent: &str, id: &str) -> Result<Self> {
        Ok(Self::at(Layout::detect()?, parent, id))
    }

    fn at(layout: Layout, parent: &str, id: &str) -> Self {
        let directories = layout
            .hierarchies()
            .map(|hierarchy| Directory {
                controllers: hierarchy.controllers.clone(),
                path: hierarchy.mount_point.join(parent).join(id),
            })
            .collect();
        Self {
            layout,
            parent: parent.to_owned(),
            directories,
        }
    }

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

    /// Sets all limits to these; `None` takes a limit away.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        match &self.layout {
            Layout::Unified(_) => v2::set_limits(self.unified(), resources),
            Layout::Legacy { .. } => v1::set_limits(self, resources),
        }
    }

    pub fn stats(&self) -> Result<Stats> {
        match &self.layout {
            Layout::Unified(_) => v2::stats(self.unified()),
            Layout::Legacy { .. } => v1::stats(self),
        }
    }

    /// How many processes of the group the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match &self.layout {
            Layout::Unified(_) => Some(self.unified().join("memory.events")),
            Layout::Legacy { .. } => self
                .v1("memory")
                .map(|path| path.join("memory.oom_control")),
        };
        file.and_then(|file| files::keyed(&file, "oom_kill").ok().flatten())
            .unwrap_or(0)
    }

    /// Lets the group use the devices that every container has and no others.
    pub(crate) fn restrict_devices(&self) -> Result<()> {
        match &self.layout {
            Layout::Unified(_) => device_filter::attach(self.unified()),
            Layout::Legacy { .. } => v1::restrict_devices(self),
        }
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
        match &self.layout {
            Layout::Unified(_) => v2::set_frozen(self.unified(), frozen),
            Layout::Legacy { .. } => v1::set_frozen(self, frozen),
        }
    }

    /// Kills every process of the group, frozen or not, and returns when none is left.
    pub fn kill(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        if let Layout::Unified(_) = &self.layout {
            // Linux 5.14; all at once, so that no fork escapes. Otherwise one by one as below.
            let _ = files::write(&self.unified().join("cgroup.kill"), "1");
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pids = self.processes();
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                // One that has ended meanwhile is what is wanted.
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            // Frozen processes of v1 die when they thaw.
            let _ = self.thaw();
            wait_until(deadline, || {
                Error::host("kill the processes of a control group: some do not end; see dmesg")
            })?;
        }
    }

    pub(crate) fn processes(&self) -> Vec<i32> {
        let Some(first) = self
            .directories
            .iter()
            .find(|directory| directory.path.exists())
        else {
            return Vec::new();
        };
        files::descendants(&first.path)
            .iter()
            .filter_map(|path| std::fs::read_to_string(path.join("cgroup.procs")).ok())
            .flat_map(|text| {
                text.lines()
                    .filter_map(|line| line.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Removes the group with the groups that its processes have made in it. Legal when no
    /// process is left, also if the group is gone already.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for directory in &self.directories {
            for path in files::descendants(&directory.path) {
                loop {
                    match std::fs::remove_dir(&path) {
                        Ok(()) => break,
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                        // A process that has ended is counted for a moment longer.
                        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                            wait_until(deadline, || {
                                Error::host(format!("remove the control group {}", path.display()))
                                    .with_source(error)
                            })?;
                        }
                        result => {
                            result
                                .host(|| format!("remove the control group {}", path.display()))?;
                        }
                    }
                }
            }
        }
        if self.parent.is_empty() {
            return Ok(());
        }
        // Fails while another sandbox is in there, and should.
        for hierarchy in self.layout.hierarchies() {
            let _ = std::fs::remove_dir(hierarchy.mount_point.join(&self.parent));
        }
        Ok(())
    }

    fn make(&self) -> Result<()> {
        for (directory, hierarchy) in self.directories.iter().zip(self.layout.hierarchies()) {
            make_directory(&directory.path, || match &self.layout {
                Layout::Unified(_) => v2::delegate(&hierarchy.mount_point, &self.parent),
                Layout::Legacy { .. } => v1::inherit_cpuset(&directory.path),
            })?;
        }
        Ok(())
    }

    fn unified(&self) -> &Path {
        &self.directories[0].path
    }

    /// The group's directory in the v1 hierarchy that has `controller`.
    fn v1(&self, controller: &str) -> Option<&Path> {
        self.directories
            .iter()
            .find(|directory| directory.controllers.iter().any(|name| name == controller))
            .map(|directory| directory.path.as_path())
    }

    /// What the container mounts below its `/sys/fs/cgroup`.
    pub(crate) fn views(&self) -> Vec<View> {
        match &self.layout {
            Layout::Unified(_) => vec![View {
                controllers: None,
                host: None,
            }],
            Layout::Legacy { .. } => self
                .directories
                .iter()
                .map(|directory| View {
                    controllers: Some(directory.controllers.join(",")),
                    host: None,
                })
                .collect(),
        }
    }
}

/// Makes `PARENT/ID`; another sandbox's end may remove `PARENT` in between, hence the loop.
fn make_directory(path: &Path, prepare: impl Fn() -> Result<()>) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match std::fs::create_dir(parent) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).host(|| {
                    format!("make the control group {}: run as root, with the hierarchy mounted writable", parent.display())
                });
            }
            _ => {}
        }
        let made = std::fs::create_dir(path);
        match made {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                wait_until(deadline, || {
                    Error::host(format!("make the control group {}", path.display()))
                })?;
            }
            result => {
                result.host(|| format!("make the control group {}", path.display()))?;
                // With the group in it, the parent cannot vanish any more.
                return prepare();
            }
        }
    }
}

/// Sleeps a moment; fails after the deadline.
fn wait_until(deadline: Instant, error: impl FnOnce() -> Error) -> Result<()> {
    if Instant::now() > deadline {
        return Err(error());
    }
    std::thread::sleep(Duration::from_micros(500));
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use bulkhead_model::ErrorKind;

    use super::*;

    /// A v2 group on this host, which may have controllers or not; `None` if it cannot be had.
    fn unified(id: &str) -> Option<Cgroup> {
        let mount_point = match Layout::detect() {
            Ok(Layout::Unified(hierarchy)) => hierarchy.mount_point,
            Ok(Layout::Legacy {
                unified: Some(mount_point),
                ..
            }) => mount_point,
            _ => {
                eprintln!("skipped: no cgroup v2 is mounted");
                return None;
            }
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: cgroups need root");
            return None;
        }
        let layout = Layout::Unified(Hierarchy {
            mount_point,
            controllers: Vec::new(),
        });
        let parent = format!("bulkhead-unit-{}", std::process::id());
        let group = Cgroup::at(layout, &parent, id);
        group.make().expect("make");
        Some(group)
    }

    #[test]
    fn a_v2_group_freezes_kills_and_vanishes() {
        let Some(group) = unified("freeze") else {
            return;
        };
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        group.add_process(child.id()).expect("add");
        group.freeze().expect("freeze");
        group.stats().expect("stats");
        group.thaw().expect("thaw");
        group.freeze().expect("freeze again");
        let killer = std::thread::spawn(move || child.wait().expect("wait"));
        group.kill().expect("kill what is frozen");
        killer.join().expect("killed");
        group.remove().expect("remove");
        group.remove().expect("remove again");
        assert!(!group.exists());
    }

    #[test]
    fn a_v2_group_restricts_devices() {
        let Some(group) = unified("devices") else {
            return;
        };
        let script = "read x; head -c 1 /dev/kmsg > /dev/null 2>&1 && echo open || echo refused; \
                      head -c 1 /dev/zero | wc -c";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        group.add_process(child.id()).expect("add");
        group.restrict_devices().expect("restrict");
        child
            .stdin
            .take()
            .expect("stdin")
            .write_all(b"\n")
            .expect("write");
        let output = BufReader::new(child.stdout.take().expect("stdout"));
        let lines: Vec<String> = output.lines().map(|line| line.expect("line")).collect();
        child.wait().expect("wait");
        group.remove().expect("remove");
        assert_eq!(lines, ["refused", "1"]);
    }

    #[test]
    fn a_limit_without_its_controller_is_an_error_and_nothing_else_is() {
        let Some(group) = unified("limits") else {
            return;
        };
        let has_memory = group.unified().join("memory.max").exists();
        let limited = Resources {
            memory: Some(bulkhead_model::ByteSize::from_mib(64)),
            ..Resources::default()
        };
        let result = group.update(&limited);
        let unlimited = group.update(&Resources::default());
        group.remove().expect("remove");
        unlimited.expect("no limit needs no controller");
        match result {
            Ok(()) => assert!(has_memory),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("'memory'"), "{error}");
            }
        }
    }
}
