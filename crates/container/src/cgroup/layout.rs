//! Finds which hierarchies are mounted where.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};

use crate::failure::Context;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    /// Which group of the hierarchy is mounted there: not `/` in a container without a cgroup
    /// namespace.
    pub root: PathBuf,
    pub controllers: Vec<String>,
}

/// Which hierarchies this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// cgroup v2 with all controllers.
    Unified(Hierarchy),
    /// The controllers in hierarchies of v1. With `unified` the host is a hybrid: v2 is mounted
    /// too, and has no controller that we use.
    Legacy {
        hierarchies: Vec<Hierarchy>,
        /// What limits nothing of a sandbox: `net_cls`, `perf_event`, `name=systemd` and such.
        others: Vec<Hierarchy>,
        unified: Option<Hierarchy>,
    },
}

/// What a sandbox's group is made of.
const CONTROLLERS: [&str; 8] = [
    "memory", "cpu", "cpuacct", "cpuset", "pids", "freezer", "devices", "blkio",
];
/// The other controllers of v1 (cgroups(7)).
const OTHER_CONTROLLERS: [&str; 6] = [
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
];

impl Layout {
    pub(crate) fn detect() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .host(|| "read /proc/self/mountinfo".into())?;
        parse(&mounts).ok_or_else(|| {
            Error::unsupported(
                "no cgroup hierarchy is mounted: mount one with \
                 'mount -t cgroup2 none /sys/fs/cgroup'",
            )
        })
    }

    /// As [`Self::detect`], with the names of v2's controllers.
    pub(crate) fn detect_with_controllers() -> Result<Self> {
        let mut layout = Self::detect()?;
        if let Layout::Unified(hierarchy) = &mut layout {
            let path = hierarchy.mount_point.join("cgroup.controllers");
            let names = fs::read_to_string(&path).host(|| format!("read {}", path.display()))?;
            hierarchy.controllers = names.split_whitespace().map(str::to_owned).collect();
        }
        Ok(layout)
    }

    /// The hierarchies in which a sandbox has a group.
    pub fn hierarchies(&self) -> impl Iterator<Item = &Hierarchy> {
        match self {
            Layout::Unified(hierarchy) => std::slice::from_ref(hierarchy),
            Layout::Legacy { hierarchies, .. } => hierarchies,
        }
        .iter()
    }

    /// The hierarchies that limit nothing of a sandbox, in which an OCI container has a group
    /// nevertheless.
    pub fn others(&self) -> impl Iterator<Item = &Hierarchy> {
        match self {
            Layout::Unified(_) => &[],
            Layout::Legacy { others, .. } => others.as_slice(),
        }
        .iter()
    }

    /// The hierarchy of v2 beside those of v1.
    pub fn beside(&self) -> Option<&Hierarchy> {
        match self {
            Layout::Unified(_) => None,
            Layout::Legacy { unified, .. } => unified.as_ref(),
        }
    }

    pub fn controllers(&self) -> impl Iterator<Item = &str> {
        self.hierarchies()
            .flat_map(|hierarchy| hierarchy.controllers.iter().map(String::as_str))
    }
}

impl Hierarchy {
    /// The directory of a group that `/proc/PID/cgroup` names.
    pub(super) fn directory_of(&self, group: &str) -> PathBuf {
        let group = Path::new(group);
        let below = group
            .strip_prefix(&self.root)
            .or_else(|_| group.strip_prefix("/"))
            .unwrap_or(group);
        self.mount_point.join(below)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Layout::Unified(_) => "v2",
            Layout::Legacy {
                unified: Some(_), ..
            } => "hybrid",
            Layout::Legacy { unified: None, .. } => "v1",
        })
    }
}

/// Reads `/proc/self/mountinfo` (proc(5)):
/// `ID PARENT DEVICE ROOT MOUNT_POINT OPTIONS [TAGS…] - TYPE SOURCE SUPER`.
fn parse(mounts: &str) -> Option<Layout> {
    let mut unified = None;
    let (mut hierarchies, mut others): (Vec<Hierarchy>, Vec<Hierarchy>) = (Vec::new(), Vec::new());
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mut place = mount.split(' ').skip(3);
        let (Some(root), Some(mount_point)) = (place.next(), place.next()) else {
            continue;
        };
        let hierarchy = |controllers| Hierarchy {
            mount_point: mount_point.into(),
            root: root.into(),
            controllers,
        };
        let mut fields = filesystem.split(' ');
        match fields.next() {
            Some("cgroup2") if unified.is_none() => unified = Some(hierarchy(Vec::new())),
            Some("cgroup") => {
                let options = fields.nth(1).unwrap_or_default();
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| {
                        CONTROLLERS.contains(option)
                            || OTHER_CONTROLLERS.contains(option)
                            || option.starts_with("name=")
                    })
                    .map(str::to_owned)
                    .collect();
                let limits = controllers
                    .iter()
                    .any(|name| CONTROLLERS.contains(&name.as_str()));
                let list = if limits {
                    &mut hierarchies
                } else {
                    &mut others
                };
                let known = |hierarchy: &Hierarchy| hierarchy.controllers == controllers;
                if !controllers.is_empty() && !list.iter().any(known) {
                    list.push(hierarchy(controllers));
                }
            }
            _ => {}
        }
    }
    match (hierarchies.is_empty(), unified) {
        (false, unified) => Some(Layout::Legacy {
            hierarchies,
            others,
            unified,
        }),
        (true, Some(hierarchy)) => Some(Layout::Unified(hierarchy)),
        (true, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_layouts_are_told_apart() {
        let unified =
            "25 30 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(parse(unified).expect("v2").to_string(), "v2");

        let legacy = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            34 31 0:31 / /other/memory rw - cgroup cgroup rw,memory\n\
            35 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            36 31 0:39 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio\n";
        let layout = parse(legacy).expect("v1");
        assert_eq!(layout.to_string(), "v1");
        assert_eq!(
            layout.controllers().collect::<Vec<_>>(),
            ["cpu", "cpuacct", "memory"]
        );
        let others: Vec<_> = layout
            .others()
            .flat_map(|hierarchy| &hierarchy.controllers)
            .collect();
        assert_eq!(others, ["name=systemd", "net_cls", "net_prio"]);

        let hybrid =
            format!("{legacy}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        assert_eq!(parse(&hybrid).expect("hybrid").to_string(), "hybrid");
        assert_eq!(parse("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn a_group_is_found_below_what_is_mounted() {
        let inner = "33 31 0:30 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let layout = parse(inner).expect("v1");
        let hierarchy = layout.hierarchies().next().expect("memory");
        for (group, directory) in [
            ("/docker/x", "/sys/fs/cgroup/memory"),
            ("/docker/x/y", "/sys/fs/cgroup/memory/y"),
            ("/y", "/sys/fs/cgroup/memory/y"),
        ] {
            assert_eq!(hierarchy.directory_of(group), Path::new(directory));
        }
    }
}
