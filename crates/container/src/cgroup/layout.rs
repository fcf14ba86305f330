//! Finds which hierarchies are mounted where.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use bulkhead_model::{Error, Result};

use crate::failure::Context;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
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
        unified: Option<PathBuf>,
    },
}

/// What a sandbox's group is made of; `net_cls`, `perf_event` and such are left alone.
const CONTROLLERS: [&str; 8] = [
    "memory", "cpu", "cpuacct", "cpuset", "pids", "freezer", "devices", "blkio",
];

impl Layout {
    pub(crate) fn detect() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .host(|| "read /proc/self/mountinfo".into())?;
        let mut layout = parse(&mounts).ok_or_else(|| {
            Error::unsupported(
                "no cgroup hierarchy is mounted: mount one with \
                 'mount -t cgroup2 none /sys/fs/cgroup'",
            )
        })?;
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

    pub fn controllers(&self) -> impl Iterator<Item = &str> {
        self.hierarchies()
            .flat_map(|hierarchy| hierarchy.controllers.iter().map(String::as_str))
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

/// Reads `/proc/self/mountinfo` (proc(5)): `… MOUNT_POINT OPTIONS [TAGS…] - TYPE SOURCE SUPER`.
fn parse(mounts: &str) -> Option<Layout> {
    let mut unified = None;
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount_point) = mount.split(' ').nth(4) else {
            continue;
        };
        let mut fields = filesystem.split(' ');
        match fields.next() {
            Some("cgroup2") if unified.is_none() => unified = Some(PathBuf::from(mount_point)),
            Some("cgroup") => {
                let options = fields.nth(1).unwrap_or_default();
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| CONTROLLERS.contains(option))
                    .map(str::to_owned)
                    .collect();
                let known = |hierarchy: &Hierarchy| hierarchy.controllers == controllers;
                if !controllers.is_empty() && !hierarchies.iter().any(known) {
                    hierarchies.push(Hierarchy {
                        mount_point: mount_point.into(),
                        controllers,
                    });
                }
            }
            _ => {}
        }
    }
    match (hierarchies.is_empty(), unified) {
        (false, unified) => Some(Layout::Legacy {
            hierarchies,
            unified,
        }),
        (true, Some(mount_point)) => Some(Layout::Unified(Hierarchy {
            mount_point,
            controllers: Vec::new(),
        })),
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
            35 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let layout = parse(legacy).expect("v1");
        assert_eq!(layout.to_string(), "v1");
        assert_eq!(
            layout.controllers().collect::<Vec<_>>(),
            ["cpu", "cpuacct", "memory"]
        );

        let hybrid =
            format!("{legacy}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        assert_eq!(parse(&hybrid).expect("hybrid").to_string(), "hybrid");
        assert_eq!(parse("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }
}
