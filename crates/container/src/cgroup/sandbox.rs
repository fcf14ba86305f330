//! The control group of a sandbox of our own: `PARENT/ID` below the root of each hierarchy.
//!
//! Invariant: the directory `PARENT` exists only while it holds a sandbox's group.

use std::path::Path;
use std::time::Instant;

use bulkhead_model::{Error, Resources, Result, Stats};

use crate::failure::Context;

use super::{
    Cgroup, Directory, Hierarchy, Layout, PATIENCE, View, device_filter, v1, v2, wait_until,
};

impl Cgroup {
    /// Makes the group with its limits. A group of this name that a crash left behind is killed
    /// and made anew.
    ///
    /// # Errors
    /// `Unsupported` if a limit needs a controller that this host does not have; nothing is left
    /// behind.
    pub fn create(parent: &str, id: &str, resources: &Resources) -> Result<Self> {
        let layout = Layout::detect()?;
        let group = Self::at(&layout, parent, id);
        if group.exists() {
            group.kill()?;
            group.remove()?;
        }
        let made = group
            .make(&layout, parent)
            .and_then(|()| group.update(resources));
        if let Err(error) = made {
            // The first failure is the one to tell about.
            let _ = group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// The group of that name, which may be there or not; for what a crash left behind.
    pub fn open(parent: &str, id: &str) -> Result<Self> {
        Ok(Self::at(&Layout::detect()?, parent, id))
    }

    pub(super) fn at(layout: &Layout, parent: &str, id: &str) -> Self {
        let v2 = matches!(layout, Layout::Unified(_));
        let parents = layout
            .hierarchies()
            .map(|hierarchy| hierarchy.mount_point.join(parent));
        let directory = |hierarchy: &Hierarchy| Directory {
            controllers: hierarchy.controllers.clone(),
            path: hierarchy.mount_point.join(parent).join(id),
            unified: v2,
        };
        Self {
            v2,
            directories: layout.hierarchies().map(directory).collect(),
            dispensable: false,
            unit: None,
            parents: parents.collect(),
        }
    }

    pub(super) fn make(&self, layout: &Layout, parent: &str) -> Result<()> {
        for (directory, hierarchy) in self.directories.iter().zip(layout.hierarchies()) {
            make_directory(&directory.path, || match layout {
                Layout::Unified(_) => v2::delegate(&hierarchy.mount_point, parent),
                Layout::Legacy { .. } => v1::inherit_cpuset(&directory.path),
            })?;
        }
        Ok(())
    }

    /// Sets all limits to these; `None` takes a limit away.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        match self.sandbox_v2() {
            Some(path) => v2::set_limits(path, resources),
            None => v1::set_limits(self, resources),
        }
    }

    pub fn stats(&self) -> Result<Stats> {
        match self.sandbox_v2() {
            Some(path) => v2::stats(path),
            None => v1::stats(self),
        }
    }

    /// Lets the group use the devices that every container has and no others.
    pub(crate) fn restrict_devices(&self) -> Result<()> {
        match self.sandbox_v2() {
            Some(path) => device_filter::attach(path),
            None => v1::restrict_devices(self),
        }
    }

    /// What the sandbox mounts below its `/sys/fs/cgroup`.
    pub(crate) fn views(&self) -> Vec<View> {
        let view = |directory: &Directory| View {
            controllers: (!self.v2).then(|| directory.controllers.join(",")),
            host: None,
        };
        self.directories.iter().map(view).collect()
    }

    fn sandbox_v2(&self) -> Option<&Path> {
        self.unified().filter(|_| self.v2)
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use bulkhead_model::ErrorKind;

    use super::*;

    /// A v2 group on this host, which may have controllers or not; `None` if it cannot be had.
    fn unified(id: &str) -> Option<Cgroup> {
        let hierarchy = match Layout::detect() {
            Ok(Layout::Unified(hierarchy)) => hierarchy,
            Ok(Layout::Legacy {
                unified: Some(hierarchy),
                ..
            }) => hierarchy,
            _ => {
                eprintln!("skipped: no cgroup v2 is mounted");
                return None;
            }
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: cgroups need root");
            return None;
        }
        let layout = Layout::Unified(hierarchy);
        let parent = format!("bulkhead-unit-{}", std::process::id());
        let group = Cgroup::at(&layout, &parent, id);
        group.make(&layout, &parent).expect("make");
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
        let has_memory = group.unified().expect("v2").join("memory.max").exists();
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
