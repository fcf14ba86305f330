//! The control group of an OCI container: at the path that its configuration names, in every
//! hierarchy that is mounted (config-linux.md, "Cgroups Path"), and removed without its parents.
//!
//! Invariant: what is in a group before the container's first process is not the container's, so
//! that such a group is not taken.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use bulkhead_model::{Error, Result};

use super::{
    Cgroup, DeviceRule, Directory, Hierarchy, Layout, Placeholder, Setting, Unit, device_filter,
    files, v1, v1_devices, v2,
};
use crate::failure::Context;

impl Cgroup {
    /// The group at `path`: an absolute one is below the root of each hierarchy, a relative one
    /// below this process's own group (on v2 its parent, as processes may only be in leaves).
    /// Without a path it is the container's `id`, relatively; and then, for a `rootless` caller,
    /// it may be missing where it cannot be made.
    pub(crate) fn at_path(path: Option<&str>, id: &str, rootless: bool) -> Result<Self> {
        let dispensable = path.is_none() && rootless;
        let path = path.unwrap_or(id);
        if Path::new(path)
            .components()
            .any(|part| part == Component::ParentDir)
        {
            return Err(Error::invalid(format!(
                "linux.cgroupsPath: '{path}' contains '..'"
            )));
        }
        if path.trim_matches('/').is_empty() {
            return Err(Error::invalid(
                "linux.cgroupsPath: '/' is the group of the whole host",
            ));
        }
        let layout = match Layout::detect() {
            Err(_) if dispensable => return Ok(Self::none()),
            result => result?,
        };
        let v2 = matches!(layout, Layout::Unified(_));
        let own = if path.starts_with('/') {
            String::new()
        } else {
            fs::read_to_string("/proc/self/cgroup").host(|| "read /proc/self/cgroup".into())?
        };
        let directory = |hierarchy: &Hierarchy, unified: bool| {
            let path = match path.strip_prefix('/') {
                Some(below_root) => hierarchy.mount_point.join(below_root),
                None => hierarchy
                    .directory_of(&own_group(&own, &hierarchy.controllers, v2))
                    .join(path),
            };
            Directory {
                controllers: hierarchy.controllers.clone(),
                path,
                unified,
            }
        };
        let legacy = layout.hierarchies().chain(layout.others());
        let mut directories: Vec<Directory> =
            legacy.map(|hierarchy| directory(hierarchy, v2)).collect();
        directories.extend(layout.beside().map(|hierarchy| directory(hierarchy, true)));
        Ok(Self {
            v2,
            directories,
            dispensable,
            unit: None,
            parents: Vec::new(),
        })
    }

    /// The group of a unit of systemd.
    pub(crate) fn at_unit(unit: Unit) -> Result<Self> {
        let layout = Layout::detect()?;
        let v2 = matches!(layout, Layout::Unified(_));
        let group = unit.group()?;
        if !v2 && unit.is_of_user() {
            return Err(Error::unsupported(
                "--systemd-cgroup: cannot use rootless systemd cgroups manager on cgroup v1",
            ));
        }
        let directory = |hierarchy: &Hierarchy, unified| Directory {
            controllers: hierarchy.controllers.clone(),
            path: hierarchy.directory_of(&group.to_string_lossy()),
            unified,
        };
        let legacy = layout.hierarchies().chain(layout.others());
        let mut directories: Vec<Directory> =
            legacy.map(|hierarchy| directory(hierarchy, v2)).collect();
        directories.extend(layout.beside().map(|hierarchy| directory(hierarchy, true)));
        Ok(Self {
            v2,
            directories,
            dispensable: false,
            unit: Some(unit),
            parents: Vec::new(),
        })
    }

    /// No group at all: every operation on it does nothing or says that there is none.
    pub(crate) fn none() -> Self {
        Self {
            v2: false,
            directories: Vec::new(),
            dispensable: true,
            unit: None,
            parents: Vec::new(),
        }
    }

    /// Another group of the same hierarchies.
    pub(crate) fn with_directories(&self, directories: Vec<Directory>) -> Self {
        Self {
            directories,
            ..self.clone()
        }
    }

    /// The directory of v2 in which a process is.
    pub(crate) fn unified_of(pid: u32) -> Option<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        match Layout::detect().ok()? {
            Layout::Unified(hierarchy) => Some(hierarchy.directory_of(group)),
            Layout::Legacy { unified, .. } => Some(unified?.directory_of(group)),
        }
    }

    pub(crate) fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// Whether there is no group, as the user may make none.
    pub(crate) fn is_absent(&self) -> bool {
        self.directories.is_empty()
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.v2
    }

    /// # Errors
    /// `Conflict` if processes are in the group already, or if it is frozen: it is another's, and
    /// would be killed with the container.
    pub(crate) fn check_vacant(&self) -> Result<()> {
        for directory in &self.directories {
            if !directory.path.join("cgroup.procs").exists() {
                continue;
            }
            let count: usize = files::descendants(&directory.path)
                .iter()
                .map(|path| files::processes(path).len())
                .sum();
            if count > 0 {
                return Err(Error::conflict(format!(
                    "linux.cgroupsPath: container's cgroup is not empty: {count} process(es) \
                     found in {}",
                    directory.path.display()
                )));
            }
        }
        if self.is_frozen() {
            return Err(Error::conflict(
                "linux.cgroupsPath: container's cgroup unexpectedly frozen: thaw or remove it",
            ));
        }
        Ok(())
    }

    /// Makes the group; `annotations` may have properties for its unit. `settings` and `devices`
    /// are told to systemd, and have to be set afterwards all the same. What is given has to be
    /// kept until a process is in the group.
    ///
    /// # Errors
    /// Nothing of the group is left then.
    pub(crate) fn make_at_path(
        &mut self,
        settings: &[Setting],
        devices: &[DeviceRule],
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<Placeholder>> {
        let placeholder = match &mut self.unit {
            Some(unit) => Some(unit.start(settings, devices, annotations)?),
            None => None,
        };
        if let Err(error) = self.make_directories(!settings.is_empty()) {
            drop(placeholder);
            if let Some(unit) = &self.unit {
                // The first failure is the one to tell about.
                let _ = unit.stop();
            }
            return Err(error);
        }
        Ok(placeholder)
    }

    /// `limited` tells whether the group is needed for a limit.
    fn make_directories(&mut self, limited: bool) -> Result<()> {
        let mut made = Vec::new();
        let mut denied = Vec::new();
        for (index, directory) in self.directories.iter().enumerate() {
            let result = if directory.unified {
                make_unified(&directory.path, self.v2)
            } else {
                make_legacy(directory)
            };
            if result.is_err() {
                // It may have failed after the directory was made.
                files::remove_empty(&directory.path);
            }
            match result {
                Ok(()) => made.push(&directory.path),
                // Nothing is limited through these.
                Err(_) if !self.v2 && (directory.unified || is_named(directory)) => {
                    denied.push(index);
                }
                Err(error) if self.dispensable && is_denied(&error) && !(self.v2 && limited) => {
                    denied.push(index);
                }
                Err(error) => {
                    for path in made {
                        files::remove_empty(path);
                    }
                    let reason = if self.dispensable && limited {
                        "rootless needs no limits + no cgrouppath when no permission is granted \
                         for cgroups: "
                    } else {
                        ""
                    };
                    let denied = if is_denied(&error) {
                        "permission denied: "
                    } else {
                        ""
                    };
                    return Err(error).host(|| {
                        format!(
                            "linux.cgroupsPath: {reason}unable to apply cgroup configuration: \
                             {denied}make {}",
                            directory.path.display()
                        )
                    });
                }
            }
        }
        for index in denied.into_iter().rev() {
            self.directories.remove(index);
        }
        Ok(())
    }

    /// The trimmed text of a file of the group; `None` if it is not there.
    pub(crate) fn value(&self, controller: &str, file: &str) -> Option<String> {
        let directory = if self.v2 {
            self.unified()
        } else {
            self.v1(controller)
        };
        let text = fs::read_to_string(directory?.join(file)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Whether the group itself is frozen, not only one above it.
    pub(crate) fn is_frozen(&self) -> bool {
        if self.v2 {
            self.value("", "cgroup.freeze").as_deref() == Some("1")
        } else {
            self.value("freezer", "freezer.self_freezing").as_deref() == Some("1")
        }
    }

    /// Lets the user make groups in a group of v2 (cgroups(7), "Cgroups delegation").
    pub(crate) fn give_to(&self, uid: u32) -> Result<()> {
        let (Some(directory), Some(_)) = (self.unified().filter(|_| self.v2), &self.unit) else {
            return Ok(());
        };
        let files = fs::read_to_string("/sys/kernel/cgroup/delegate");
        let files = files.unwrap_or("cgroup.procs\ncgroup.subtree_control\ncgroup.threads".into());
        std::os::unix::fs::chown(directory, Some(uid), None)
            .host(|| format!("give the cgroup to user {uid}"))?;
        for file in files.lines() {
            match std::os::unix::fs::chown(directory.join(file), Some(uid), None) {
                // The kernel lists what any of its controllers may have.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => result.host(|| format!("give {file} to user {uid}"))?,
            }
        }
        Ok(())
    }

    /// Puts a device policy into force: nothing but what the rules allow.
    pub(crate) fn set_device_rules(&self, rules: &[DeviceRule]) -> Result<()> {
        if let Some(unit) = &self.unit {
            unit.set_devices(rules)?;
        }
        if self.v2 {
            return match self.unified() {
                Some(path) => device_filter::attach_rules(path, rules),
                None if self.dispensable => Ok(()),
                None => Err(super::missing("linux.resources.devices", "devices")),
            };
        }
        let path = match self.v1("devices") {
            Some(path) => path,
            // The user who may not make groups may not make device nodes either, and opens only
            // those of the host that are open to that user anyway.
            None if self.dispensable => return Ok(()),
            None => return Err(super::missing("linux.resources.devices", "devices")),
        };
        v1_devices::set_rules(path, rules)
    }
}

/// This process's group in the hierarchy of these controllers (none: v2's). On a host of v2 alone
/// it is the group above, as our own has processes in it.
fn own_group(own: &str, controllers: &[String], v2: bool) -> String {
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        if names.is_empty() && controllers.is_empty() {
            let above = Path::new(path).parent().unwrap_or(Path::new("/"));
            return match v2 {
                true => above.to_string_lossy().into_owned(),
                false => path.to_owned(),
            };
        }
        if names
            .split(',')
            .any(|name| controllers.iter().any(|controller| controller == name))
        {
            return path.to_owned();
        }
    }
    "/".into()
}

fn is_denied(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EACCES | libc::EPERM | libc::EROFS)
    )
}

/// A hierarchy of v1 without controllers, such as systemd's.
fn is_named(directory: &Directory) -> bool {
    directory
        .controllers
        .iter()
        .all(|name| name.starts_with("name=") || name == "misc")
}

/// Makes the directory of a hierarchy of v1, with those above it.
fn make_legacy(directory: &Directory) -> io::Result<()> {
    let path = &directory.path;
    let cpuset = directory.controllers.iter().any(|name| name == "cpuset");
    match fs::create_dir(path) {
        Ok(()) if !cpuset => return Ok(()),
        Ok(()) => return v1::inherit(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return if cpuset { v1::inherit(path) } else { Ok(()) };
        }
        Err(error) => return Err(error),
    }
    let above = Directory {
        path: path.parent().unwrap_or(path).to_owned(),
        ..directory.clone()
    };
    make_legacy(&above)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if cpuset { v1::inherit(path) } else { Ok(()) }
}

/// Makes the directory of v2; with `controlled` it is to have all controllers of the root.
fn make_unified(path: &Path, controlled: bool) -> io::Result<()> {
    let exists = |result: io::Result<()>| match result {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result,
    };
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_unified(path.parent().unwrap_or(path), false)?;
            exists(fs::create_dir(path))?;
        }
        result => exists(result)?,
    }
    if controlled {
        v2::hand_down(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Otherwise;

    /// A group in a place where nobody may make a directory.
    fn denied(v2: bool, dispensable: bool) -> Cgroup {
        let directory = |name: &str, unified| Directory {
            controllers: vec![name.into()],
            path: format!("/sys/bulkhead-{name}").into(),
            unified,
        };
        Cgroup {
            v2,
            directories: match v2 {
                true => vec![directory("", true)],
                false => vec![directory("pids", false), directory("", true)],
            },
            dispensable,
            unit: None,
            parents: Vec::new(),
        }
    }

    #[test]
    fn a_user_without_the_right_to_make_a_group_has_none_if_no_limit_was_asked_for() {
        for v2 in [false, true] {
            let mut group = denied(v2, true);
            group.check_vacant().expect("vacant");
            group.make_directories(false).expect("none is needed");
            assert!(group.is_absent());
            group.set_device_rules(&[]).expect("devices");
            group.destroy().expect("destroy");
            assert!(group.processes().is_empty() && !group.is_frozen() && !group.exists());
            group.freeze().expect_err("nothing to freeze");
        }
    }

    #[test]
    fn a_limit_or_a_path_that_was_asked_for_is_missed_by_its_name() {
        let error = denied(true, true)
            .make_directories(true)
            .expect_err("a limit");
        assert!(
            error.to_string().contains("rootless needs no limits"),
            "{error}"
        );
        for v2 in [false, true] {
            let error = denied(v2, false)
                .make_directories(false)
                .expect_err("a path");
            assert!(error.to_string().contains("linux.cgroupsPath"), "{error}");
        }
        let mut group = denied(false, true);
        group.make_directories(true).expect("v1 is asked below");
        let limit = Setting {
            field: "linux.resources.pids.limit".into(),
            controller: "pids",
            file: "pids.max".into(),
            value: "1".into(),
            otherwise: Otherwise::Fail,
        };
        let error = group.apply(&[limit]).expect_err("limit").to_string();
        assert!(
            error.contains("linux.resources.pids.limit: cannot set pids limit"),
            "{error}"
        );
    }

    #[test]
    fn a_relative_path_is_below_the_own_group() {
        let own = "9:name=systemd:/\n4:cpu,cpuacct:/a/b\n0::/c/d\n";
        let group = |names: &[&str], v2| {
            let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
            own_group(own, &names, v2)
        };
        assert_eq!(group(&["cpu", "cpuacct"], false), "/a/b");
        assert_eq!(group(&["memory"], false), "/");
        assert_eq!(group(&[], false), "/c/d");
        assert_eq!(group(&[], true), "/c");
    }
}
