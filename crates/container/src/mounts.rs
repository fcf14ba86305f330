//! The system's own mounts (`/proc`, `/sys`, `/dev`, …), what Docker masks in them, and the
//! sandbox's own mounts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_model::{ErrorKind, Mount, MountSource, Result, SandboxSpec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

use crate::cgroup::View;
use crate::devices;
use crate::failure::Context;
use crate::resolve::{self, Root};
use crate::sys;

/// Hidden from the workload, as Docker does; below `/proc`.
const MASKED_IN_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
/// Hidden from the workload; below `/sys`.
const MASKED_IN_SYS: [&str; 2] = ["devices/virtual/powercap", "firmware"];
const READ_ONLY_IN_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Handles of what has been mounted and is still needed for the set-up.
#[derive(Debug)]
pub(crate) struct System {
    /// The root of a procfs that is known to be one: what is written below `/proc` is written
    /// through it, so that no decoy is hit (CVE-2025-52881).
    pub(crate) proc: OwnedFd,
    pub(crate) sys: OwnedFd,
    pub(crate) dev: OwnedFd,
    pub(crate) devpts: OwnedFd,
}

/// A fresh tmpfs.
#[derive(Debug, Default)]
pub(crate) struct Tmpfs {
    pub(crate) size: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) attributes: u64,
}

impl Tmpfs {
    pub(crate) fn make(&self) -> Result<OwnedFd> {
        let mut options = Vec::new();
        options.extend(self.size.map(|size| ("size", size.to_string())));
        options.extend(self.mode.map(|mode| ("mode", format!("{mode:o}"))));
        filesystem("tmpfs", &options, &[], self.attributes).host(|| "mount a tmpfs".into())
    }
}

pub(crate) const NOTHING_SPECIAL: u64 =
    sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;

/// A new filesystem, mounted nowhere yet.
pub(crate) fn filesystem(
    kind: &str,
    options: &[(&str, String)],
    flags: &[&str],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // What df and mount show in the first column.
    let source = options.iter().any(|(name, _)| *name == "source");
    if !source {
        fsconfig_set_string(&context, "source", kind)?;
    }
    for (name, value) in options {
        fsconfig_set_string(&context, *name, value.as_str())?;
    }
    for flag in flags {
        fsconfig_set_flag(&context, *flag)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

pub(crate) fn mount_system(root: &Root, spec: &SandboxSpec, views: &[View]) -> Result<System> {
    let privileged = spec.security.privileged;
    let onto = |path: &str, mount: OwnedFd| -> Result<OwnedFd> {
        let target = root.system_directory(path)?;
        resolve::attach(&mount, &target).host(|| format!("mount {path}"))?;
        Ok(mount)
    };
    let proc = filesystem("proc", &[], &[], NOTHING_SPECIAL).host(|| "mount /proc".into())?;
    let proc = onto("/proc", proc)?;

    let read_only = if privileged {
        0
    } else {
        sys::MOUNT_ATTR_RDONLY
    };
    let sysfs =
        filesystem("sysfs", &[], &[], NOTHING_SPECIAL | read_only).host(|| "mount /sys".into())?;
    let sysfs = onto("/sys", sysfs)?;
    mount_cgroups(root, "/sys/fs/cgroup", views, NOTHING_SPECIAL | read_only)?;

    let dev = Tmpfs {
        size: Some(64 << 20),
        mode: Some(0o755),
        attributes: sys::MOUNT_ATTR_NOSUID,
    };
    let dev = onto("/dev", dev.make()?)?;
    devices::fill(&dev, privileged)?;
    let options = ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let devpts = devpts(&options).host(|| "mount /dev/pts".into())?;
    let devpts = onto("/dev/pts", devpts)?;
    let shm = Tmpfs {
        size: Some(spec.shm_size.bytes()),
        mode: Some(0o1777),
        attributes: NOTHING_SPECIAL,
    };
    onto("/dev/shm", shm.make()?)?;
    match filesystem("mqueue", &[], &[], NOTHING_SPECIAL) {
        // A kernel without POSIX message queues.
        Err(Errno::NODEV) => {}
        result => drop(onto(
            "/dev/mqueue",
            result.host(|| "mount /dev/mqueue".into())?,
        )?),
    }
    Ok(System {
        proc,
        sys: sysfs,
        dev,
        devpts,
    })
}

fn devpts(options: &[&str]) -> Result<OwnedFd, Errno> {
    let (flags, options): (Vec<&str>, Vec<&str>) =
        options.iter().partition(|option| !option.contains('='));
    let options: Vec<_> = options
        .iter()
        .filter_map(|option| option.split_once('='))
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    filesystem(
        "devpts",
        &options,
        &flags,
        sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NOEXEC,
    )
}

/// In the container's own cgroup namespace each hierarchy shows the container's group as root.
/// Without a namespace the host's directory of the group is bound.
pub(crate) fn mount_cgroups(
    root: &Root,
    base: &str,
    views: &[View],
    attributes: u64,
) -> Result<()> {
    let doing = || format!("mount {base}");
    let mounted = |view: &View, kind: &str, flags: &[&str]| -> Result<OwnedFd> {
        let Some(host) = &view.host else {
            return filesystem(kind, &[], flags, attributes).host(doing);
        };
        let copy = clone_mount(CWD, host).host(|| format!("bind {}", host.display()))?;
        sys::mount_setattr(copy.as_fd(), true, attributes).host(doing)?;
        Ok(copy)
    };
    let attach = |path: &str, mount: OwnedFd| -> Result<()> {
        let target = root
            .find(path, OFlags::PATH | OFlags::DIRECTORY)
            .host(doing)?;
        resolve::attach(mount, target).host(doing)
    };
    if let [
        view @ View {
            controllers: None, ..
        },
    ] = views
    {
        return attach(base, mounted(view, "cgroup2", &[])?);
    }
    let stage = Tmpfs {
        mode: Some(0o755),
        attributes: NOTHING_SPECIAL,
        ..Tmpfs::default()
    };
    let stage = stage.make()?;
    for controllers in views.iter().filter_map(|view| view.controllers.as_ref()) {
        let name = controllers.trim_start_matches("name=");
        rustix::fs::mkdirat(&stage, name, Mode::from_raw_mode(0o755)).host(doing)?;
        // Programs look for each of several controllers by its own name.
        for alias in name.split(',').filter(|alias| *alias != name) {
            rustix::fs::symlinkat(name, &stage, alias).host(doing)?;
        }
    }
    let stage_handle = stage.as_fd().try_clone_to_owned().host(doing)?;
    attach(base, stage)?;
    for view in views {
        let Some(controllers) = &view.controllers else {
            continue;
        };
        let mount = match (controllers.strip_prefix("name="), &view.host) {
            (Some(name), None) => {
                let data = [("name", name.to_owned())];
                filesystem("cgroup", &data, &["none"], attributes).host(doing)?
            }
            _ => mounted(view, "cgroup", &controllers.split(',').collect::<Vec<_>>())?,
        };
        let name = controllers.trim_start_matches("name=");
        attach(&format!("{base}/{name}"), mount)?;
    }
    sys::mount_setattr(stage_handle.as_fd(), false, attributes).host(doing)
}

/// Hides and write-protects what Docker does. To be done last, when nothing is left to write.
pub(crate) fn mask(system: &System) -> Result<()> {
    for (parent, name, paths) in [
        (&system.proc, "/proc", MASKED_IN_PROC.as_slice()),
        (&system.sys, "/sys", &MASKED_IN_SYS),
    ] {
        for path in paths {
            let doing = || format!("mask {name}/{path}");
            let Some(target) = below(parent, path).host(doing)? else {
                continue;
            };
            let cover = if resolve::is_directory(&target).host(doing)? {
                let empty = Tmpfs {
                    attributes: NOTHING_SPECIAL | sys::MOUNT_ATTR_RDONLY,
                    ..Tmpfs::default()
                };
                empty.make()?
            } else {
                devices::null_mount(&system.dev)?
            };
            resolve::attach(cover, target).host(doing)?;
        }
    }
    for path in READ_ONLY_IN_PROC {
        let doing = || format!("make /proc/{path} read-only");
        let Some(target) = below(&system.proc, path).host(doing)? else {
            continue;
        };
        let copy = clone_mount(&system.proc, path).host(doing)?;
        sys::mount_setattr(copy.as_fd(), true, sys::MOUNT_ATTR_RDONLY).host(doing)?;
        resolve::attach(copy, target).host(doing)?;
    }
    Ok(())
}

/// What is at `path` below a handle, through no link and no other mount; `None` if nothing is.
fn below(parent: &OwnedFd, path: &str) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(parent, path, flags, Mode::empty(), resolve) {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A detached copy of what is mounted at `path`, with everything below it.
pub(crate) fn clone_mount(
    parent: impl AsFd,
    path: impl rustix::path::Arg,
) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(parent, path, flags)
}

/// Mounts one of the sandbox's own mounts.
pub(crate) fn mount_one(root: &Root, mount: &Mount) -> Result<()> {
    let doing = || format!("mount {}", mount.target);
    let (copy, directory) = match &mount.source {
        MountSource::Bind(source) => bind_source(source, &mount.target)?,
        MountSource::Tmpfs { size, mode } => {
            let tmpfs = Tmpfs {
                size: size.map(|size| size.bytes()),
                mode: Some(mode.unwrap_or(0o1777)),
                attributes: NOTHING_SPECIAL,
            };
            (tmpfs.make()?, true)
        }
    };
    if mount.read_only {
        sys::mount_setattr(copy.as_fd(), true, sys::MOUNT_ATTR_RDONLY).host(doing)?;
    }
    let target = if directory {
        root.directory(&mount.target)?
    } else {
        root.file(&mount.target)?
    };
    resolve::attach(copy, target).kind(ErrorKind::InvalidInput, || {
        let (source, other) = if directory {
            ("directory", "file")
        } else {
            ("file", "directory")
        };
        format!(
            "mount a {source} at {}: is there a {other} in the image?",
            mount.target
        )
    })
}

/// A copy of the host's mount at `source`, and whether it is a directory.
pub(crate) fn bind_source(source: &Path, target: &str) -> Result<(OwnedFd, bool)> {
    let copy = clone_mount(CWD, source).kind(ErrorKind::InvalidInput, || {
        format!("bind {} to {target}", source.display())
    })?;
    let directory = resolve::is_directory(&copy).host(|| format!("bind {}", source.display()))?;
    Ok((copy, directory))
}
