//! Control groups at a path that the caller names, for the OCI command line: made where nothing
//! runs yet, limited by single files, and removed without their parents.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use bulkhead_model::{Error, Result};

use super::{Cgroup, DeviceRule, Directory, Layout, Setting, device_filter, files, v1};
use crate::failure::Context;

const V2_CONTROLLERS: [&str; 8] = [
    "memory", "cpu", "pids", "io", "cpuset", "hugetlb", "rdma", "misc",
];

impl Cgroup {
    /// The group at `path`: an absolute one is below the root of each hierarchy, a relative one
    /// below this process's own group (on v2 its parent, as processes may only be in leaves).
    pub(crate) fn at_path(path: &str) -> Result<Self> {
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
        let layout = Layout::detect()?;
        let own =
            fs::read_to_string("/proc/self/cgroup").host(|| "read /proc/self/cgroup".into())?;
        let directories = layout
            .hierarchies()
            .map(|hierarchy| {
                let relative = match path.strip_prefix('/') {
                    Some(below_root) => PathBuf::from(below_root),
                    None => {
                        let own = own_group(&own, &layout, &hierarchy.controllers);
                        Path::new(own.trim_start_matches('/')).join(path)
                    }
                };
                Directory {
                    controllers: hierarchy.controllers.clone(),
                    path: hierarchy.mount_point.join(relative),
                }
            })
            .collect();
        Ok(Self {
            layout,
            parent: String::new(),
            directories,
        })
    }

    /// The group of directories that an earlier process has made.
    pub(crate) fn of_directories(directories: Vec<Directory>) -> Result<Self> {
        Ok(Self {
            layout: Layout::detect()?,
            parent: String::new(),
            directories,
        })
    }

    pub(crate) fn directories(&self) -> &[Directory] {
        &self.directories
    }

    pub(crate) fn is_v2(&self) -> bool {
        matches!(self.layout, Layout::Unified(_))
    }

    /// The files by which a thread moves itself into the group on v1; none on v2, where a process
    /// is put there by [`Self::add_process`].
    pub(crate) fn tasks_files(&self) -> Vec<PathBuf> {
        if self.is_v2() {
            return Vec::new();
        }
        let directories = self.directories.iter();
        directories
            .map(|directory| directory.path.join("tasks"))
            .collect()
    }

    /// Makes the group, or takes it as it is if no process is in it.
    pub(crate) fn make_at_path(&self) -> Result<()> {
        for directory in &self.directories {
            // In any hierarchy: what is in there would be killed with the container.
            let occupied = files::descendants(&directory.path).iter().any(|path| {
                let processes = fs::read_to_string(path.join("cgroup.procs"));
                processes.is_ok_and(|text| !text.trim().is_empty())
            });
            if occupied {
                return Err(Error::conflict(format!(
                    "linux.cgroupsPath: the cgroup {} is not empty: processes are in it",
                    directory.path.display()
                )));
            }
        }
        for (directory, hierarchy) in self.directories.iter().zip(self.layout.hierarchies()) {
            let below = directory
                .path
                .strip_prefix(&hierarchy.mount_point)
                .unwrap_or(&directory.path);
            let mut path = hierarchy.mount_point.clone();
            for name in below.components() {
                if self.is_v2() {
                    delegate(&path);
                }
                let parent = path.clone();
                path.push(name);
                match fs::create_dir(&path) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                        return Err(error).host(|| format!("make the cgroup {}", path.display()));
                    }
                    _ => {}
                }
                inherit_cpuset(&parent, &path)?;
            }
        }
        Ok(())
    }

    /// Writes settings in their order.
    ///
    /// # Errors
    /// Each names the setting's field; `Unsupported` if its controller is not there.
    pub(crate) fn apply(&self, settings: &[Setting]) -> Result<()> {
        for setting in settings {
            let directory = if self.is_v2() {
                Some(self.unified())
            } else {
                self.v1(setting.controller)
            };
            let path = directory
                .map(|directory| directory.join(&setting.file))
                .filter(|path| path.exists())
                .ok_or_else(|| {
                    Error::unsupported(format!(
                        "{}: this host has no {} in the cgroup controller '{}': enable it, or \
                         leave the field out",
                        setting.field, setting.file, setting.controller
                    ))
                })?;
            files::write(&path, &setting.value)
                .map_err(|error| Error::host(setting.field.clone()).with_source(error))?;
        }
        Ok(())
    }

    /// The trimmed text of a file of the group; `None` if it is not there.
    pub(crate) fn value(&self, controller: &str, file: &str) -> Option<String> {
        let directory = if self.is_v2() {
            self.unified()
        } else {
            self.v1(controller)?
        };
        let text = fs::read_to_string(directory.join(file)).ok()?;
        Some(text.trim().to_owned())
    }

    pub(crate) fn is_frozen(&self) -> bool {
        if self.is_v2() {
            self.value("", "cgroup.freeze").as_deref() == Some("1")
        } else {
            matches!(
                self.value("freezer", "freezer.state").as_deref(),
                Some("FROZEN" | "FREEZING")
            )
        }
    }

    /// Puts a device policy into force: nothing but what the rules allow.
    pub(crate) fn set_device_rules(&self, rules: &[DeviceRule]) -> Result<()> {
        if self.is_v2() {
            return device_filter::attach_rules(self.unified(), rules);
        }
        let path = self
            .v1("devices")
            .ok_or_else(|| super::missing("linux.resources.devices", "devices"))?;
        for rule in rules {
            let file = if rule.allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            files::write(&path.join(file), &v1::device_rule(rule))?;
        }
        Ok(())
    }
}

/// This process's group in the hierarchy of these controllers.
fn own_group(own: &str, layout: &Layout, controllers: &[String]) -> String {
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        match layout {
            Layout::Unified(_) if names.is_empty() => {
                let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
                return parent.to_string_lossy().into_owned();
            }
            Layout::Legacy { .. }
                if names
                    .split(',')
                    .any(|name| controllers.iter().any(|c| c == name)) =>
            {
                return path.to_owned();
            }
            _ => {}
        }
    }
    "/".into()
}

/// Hands what controllers there are down; one that cannot be had is missed by whoever needs it.
fn delegate(path: &Path) {
    let available = files::read(&path.join("cgroup.controllers")).unwrap_or_default();
    for name in V2_CONTROLLERS {
        if available.split_whitespace().any(|word| word == name) {
            let _ = files::write(&path.join("cgroup.subtree_control"), &format!("+{name}"));
        }
    }
}

/// An empty cpuset of v1 takes no process.
fn inherit_cpuset(parent: &Path, path: &Path) -> Result<()> {
    if !parent.join("cpuset.cpu_exclusive").exists() {
        return Ok(());
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if files::read(&path.join(file))?.trim().is_empty() {
            files::write(&path.join(file), files::read(&parent.join(file))?.trim())?;
        }
    }
    Ok(())
}
