//! The mounts, devices, masks and read-only paths of a configuration.

use std::os::fd::{AsFd, OwnedFd};

use bulkhead_model::{Error, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, fstatfs, makedev, mknodat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::cgroup::View;
use crate::devices::{self, LINKS, NODES};
use crate::failure::Context;
use crate::mounts::{self, Tmpfs};
use crate::resolve::{self, Root};
use crate::sys;

use super::config::Device;
use super::plan::{Mount, MountKind, PROC_EXCEPTIONS, Plan};
use super::setup::CreateTask;

/// `PROC_SUPER_MAGIC`.
const PROCFS: i64 = 0x9fa0;

pub(super) fn mount_all(root: &Root, task: &CreateTask) -> Result<()> {
    for (index, mount) in task.plan.mounts.iter().enumerate() {
        mount_one(root, mount, task).map_err(|error| {
            Error::new(error.kind(), format!("mounts[{index}]: {}", mount.target))
                .with_source(error)
        })?;
    }
    Ok(())
}

fn mount_one(root: &Root, mount: &Mount, task: &CreateTask) -> Result<()> {
    let options = &mount.options;
    let doing = || "mount".to_owned();
    let copy = match &mount.kind {
        MountKind::Cgroup => return mount_cgroups(root, mount, task),
        MountKind::Bind => {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            if options.recursive {
                flags |= OpenTreeFlags::AT_RECURSIVE;
            }
            let copy = open_tree(CWD, mount.source.as_str(), flags)
                .host(|| format!("bind {}", mount.source))?;
            if options.set | options.clear != 0 {
                sys::change_mount(copy.as_fd(), false, options.set, options.clear, 0)
                    .host(doing)?;
            }
            copy
        }
        MountKind::Filesystem(kind) => filesystem(root, mount, kind)?,
    };
    if options.recursive_set | options.recursive_clear != 0 {
        let (set, clear) = (options.recursive_set, options.recursive_clear);
        sys::change_mount(copy.as_fd(), true, set, clear, 0).host(doing)?;
    }
    let target = if resolve::is_directory(&copy).host(doing)? {
        match &mount.kind {
            // Kernel filesystems and `/dev` must not be led elsewhere by a link in the image.
            MountKind::Filesystem(kind) if kind == "proc" || kind == "sysfs" => {
                root.system_directory(&mount.target)?
            }
            _ if mount.target.trim_end_matches('/') == "/dev" => root.system_directory("/dev")?,
            _ => root.directory(&mount.target)?,
        }
    } else {
        root.file(&mount.target)?
    };
    let onto_proc = fstatfs(&target).host(doing)?.f_type as i64 == PROCFS;
    if onto_proc && !PROC_EXCEPTIONS.contains(&mount.target.as_str()) {
        return Err(Error::invalid(
            "this is inside /proc, where only lxcfs's files may be mounted",
        ));
    }
    resolve::attach(&copy, &target).host(|| "attach: is the other a directory?".into())?;
    for (flag, recursive) in &options.propagation {
        sys::change_mount(copy.as_fd(), *recursive, 0, 0, *flag).host(doing)?;
    }
    Ok(())
}

fn filesystem(root: &Root, mount: &Mount, kind: &str) -> Result<OwnedFd> {
    let options = &mount.options;
    let mut data: Vec<(&str, String)> = options
        .data
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    if kind == "tmpfs" && !data.iter().any(|(name, _)| *name == "mode") {
        // As the directory that it covers has it.
        let covered = root
            .find(&mount.target, OFlags::PATH | OFlags::DIRECTORY)
            .ok()
            .and_then(|directory| fstat(&directory).ok());
        data.extend(covered.map(|status| ("mode", format!("{:o}", status.st_mode & 0o7777))));
    }
    if !mount.source.is_empty() {
        data.push(("source", mount.source.clone()));
    }
    let flags: Vec<&str> = options.flags.iter().map(String::as_str).collect();
    mounts::filesystem(kind, &data, &flags, options.set).host(|| format!("make a {kind}"))
}

/// The container's own groups: through its cgroup namespace, or without one as binds.
fn mount_cgroups(root: &Root, mount: &Mount, task: &CreateTask) -> Result<()> {
    let plan = &task.plan;
    let has_namespace = plan.new & libc::CLONE_NEWCGROUP != 0
        || plan
            .joined
            .iter()
            .any(|(flag, _)| *flag == libc::CLONE_NEWCGROUP);
    let views: Vec<View> = task
        .cgroup
        .iter()
        .map(|directory| View {
            controllers: (!task.cgroup_v2).then(|| directory.controllers.join(",")),
            host: (!has_namespace).then(|| directory.path.clone()),
        })
        .collect();
    root.directory(&mount.target)?;
    let target = mount.target.trim_end_matches('/');
    mounts::mount_cgroups(root, target, &views, mount.options.set)
}

/// Makes the default devices and those of the configuration (config-linux.md, "Devices" and
/// "Default Devices"), and gives the handle of `/dev`.
pub(super) fn make_devices(root: &Root, plan: &Plan) -> Result<OwnedFd> {
    let dev = root.directory("/dev")?;
    let from_host = plan.mounts.iter().any(|mount| {
        matches!(mount.kind, MountKind::Bind) && mount.target.trim_end_matches('/') == "/dev"
    });
    if from_host {
        return Ok(dev);
    }
    for device in &plan.devices {
        make_device(root, device).map_err(|error| {
            Error::host(format!("linux.devices: {}", device.path)).with_source(error)
        })?;
    }
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        let number = makedev(major, minor);
        exists_or(mknodat(&dev, name, FileType::CharacterDevice, mode, number))
            .host(|| format!("make /dev/{name}"))?;
    }
    for (target, name) in LINKS {
        if name == "ptmx" {
            match unlinkat(&dev, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error).host(|| "replace /dev/ptmx".into()),
            }
        }
        exists_or(symlinkat(target, &dev, name)).host(|| format!("make /dev/{name}"))?;
    }
    Ok(dev)
}

fn exists_or(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

fn make_device(root: &Root, device: &Device) -> Result<()> {
    let (parent, name) = device.path.rsplit_once('/').unwrap_or(("", &device.path));
    let parent = root.directory(if parent.is_empty() { "/" } else { parent })?;
    let kind = match device.kind.as_str() {
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
    let number = makedev(device.major as u32, device.minor as u32);
    let doing = || "make the node".to_owned();
    match mknodat(&parent, name, kind, mode, number) {
        Err(Errno::EXIST) => return Ok(()),
        result => result.host(doing)?,
    }
    let owner = Some(Uid::from_raw(device.uid.unwrap_or(0)));
    let group = Some(Gid::from_raw(device.gid.unwrap_or(0)));
    chownat(&parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).host(doing)
}

/// Hides and write-protects paths, when nothing is left to write.
pub(super) fn protect(root: &Root, plan: &Plan, dev: &OwnedFd) -> Result<()> {
    for path in &plan.read_only_paths {
        let doing = || format!("linux.readonlyPaths: {path}");
        let Some(target) = existing(root, path).host(doing)? else {
            continue;
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let copy = open_tree(&target, "", flags).host(doing)?;
        sys::mount_setattr(copy.as_fd(), true, sys::MOUNT_ATTR_RDONLY).host(doing)?;
        resolve::attach(copy, target).host(doing)?;
    }
    for path in &plan.masked {
        let doing = || format!("linux.maskedPaths: {path}");
        let Some(target) = existing(root, path).host(doing)? else {
            continue;
        };
        let cover = if resolve::is_directory(&target).host(doing)? {
            let empty = Tmpfs {
                attributes: mounts::NOTHING_SPECIAL | sys::MOUNT_ATTR_RDONLY,
                ..Tmpfs::default()
            };
            empty.make()?
        } else {
            devices::null_mount(dev)?
        };
        resolve::attach(cover, target).host(doing)?;
    }
    Ok(())
}

fn existing(root: &Root, path: &str) -> Result<Option<OwnedFd>, Errno> {
    match root.find(path, OFlags::PATH) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}
