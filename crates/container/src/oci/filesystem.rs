//! The mounts, devices, masks and read-only paths of a configuration.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_model::{Error, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, fstatfs, makedev, mknodat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsPickFlags, OpenTreeFlags, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string,
    fspick, open_tree,
};

use crate::cgroup::View;
use crate::devices::{self, LINKS, NODES};
use crate::failure::Context;
use crate::mounts::{self, Tmpfs};
use crate::resolve::{self, Root};
use crate::sys;

use super::config::Device;
use super::copy_up::copy_up;
use super::mount_maker::{self, FromHost, Part};
use super::plan::{Mount, MountKind, PROC_EXCEPTIONS, Plan};
use super::setup::CreateTask;

/// `PROC_SUPER_MAGIC`.
const PROCFS: i64 = 0x9fa0;

/// Mounts everything, and gives the mounts that are to become read-only when nothing is left to
/// make in them.
pub(super) fn mount_all(
    root: &Root,
    task: &CreateTask,
    host: Option<&FromHost>,
) -> Result<Vec<OwnedFd>> {
    let mut writable = Vec::new();
    for (index, mount) in task.plan.mounts.iter().enumerate() {
        let copy = match host {
            Some(host) if task.plan.is_from_host(mount) => host.get(Part::Mount(index)).map(Some),
            _ => Ok(None),
        };
        let made = copy
            .and_then(|copy| mount_one(root, mount, task, copy))
            .map_err(|error| {
                Error::new(
                    error.kind(),
                    format!("error mounting mounts[{index}]: {}", mount.target),
                )
                .with_source(error)
            })?;
        writable.extend(made.filter(|_| is_filled_later(mount)));
    }
    Ok(writable)
}

/// Whether other mounts and devices are made in it after it: they could not be if it was
/// read-only from the start.
fn is_filled_later(mount: &Mount) -> bool {
    let fresh = matches!(&mount.kind, MountKind::Filesystem(kind) if kind == "tmpfs");
    let is_dev = mount.target.trim_end_matches('/') == "/dev";
    mount.options.set & sys::MOUNT_ATTR_RDONLY != 0
        && (fresh || is_dev && matches!(mount.kind, MountKind::Filesystem(_)))
}

fn mount_one(
    root: &Root,
    mount: &Mount,
    task: &CreateTask,
    copy: Option<OwnedFd>,
) -> Result<Option<OwnedFd>> {
    let options = &mount.options;
    let doing = || "mount".to_owned();
    let copy = match (&mount.kind, copy) {
        (_, Some(copy)) => copy,
        (MountKind::Cgroup, None) => return mount_cgroups(root, mount, task).map(|()| None),
        (MountKind::Remount, None) => return remount(root, mount).map(|()| None),
        (MountKind::Bind, None) => mount_maker::bind_source(mount)?,
        (MountKind::Filesystem(kind), None) => filesystem(root, mount, kind)?,
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
    if options.copy_up {
        copy_up(target.as_fd(), copy.as_fd())?;
    }
    resolve::attach(&copy, &target).host(|| "attach: is the other a directory?".into())?;
    for (flag, recursive) in &options.propagation {
        sys::change_mount(copy.as_fd(), *recursive, 0, 0, *flag).host(doing)?;
    }
    Ok(Some(copy))
}

/// Changes what is mounted at the target: with `bind` the mount alone, otherwise its filesystem
/// (mount(2), "Remounting an existing mount").
fn remount(root: &Root, mount: &Mount) -> Result<()> {
    let options = &mount.options;
    let doing = || "remount".to_owned();
    let target = root
        .find(&mount.target, OFlags::PATH)
        .host(|| "open what is to be remounted".into())?;
    if !options.bind {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(&target, "", flags).host(doing)?;
        let read_only = options.set & sys::MOUNT_ATTR_RDONLY != 0;
        fsconfig_set_flag(&context, if read_only { "ro" } else { "rw" }).host(doing)?;
        for flag in &options.flags {
            fsconfig_set_flag(&context, flag.as_str()).host(doing)?;
        }
        for (name, value) in &options.data {
            fsconfig_set_string(&context, name.as_str(), value.as_str()).host(doing)?;
        }
        fsconfig_reconfigure(&context).host(doing)?;
    }
    sys::change_mount(target.as_fd(), false, options.set, options.clear, 0).host(doing)?;
    let (set, clear) = (options.recursive_set, options.recursive_clear);
    if set | clear != 0 {
        sys::change_mount(target.as_fd(), true, set, clear, 0).host(doing)?;
    }
    for (flag, recursive) in &options.propagation {
        sys::change_mount(target.as_fd(), *recursive, 0, 0, *flag).host(doing)?;
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
    let attributes = if is_filled_later(mount) {
        options.set & !sys::MOUNT_ATTR_RDONLY
    } else {
        options.set
    };
    mounts::filesystem(kind, &data, &flags, attributes).host(|| format!("make a {kind}"))
}

/// The container's own groups: through its cgroup namespace, or without one as binds.
fn mount_cgroups(root: &Root, mount: &Mount, task: &CreateTask) -> Result<()> {
    let plan = &task.plan;
    let has_namespace = plan.has(libc::CLONE_NEWCGROUP);
    let views: Vec<View> = task
        .cgroup
        .iter()
        // A hybrid's v2 has no controllers and is not shown, as runc has it.
        .filter(|directory| task.cgroup_v2 || !directory.unified)
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
    // `/dev/ptmx` is a link to the container's own terminals, whatever is asked for.
    let devices = plan
        .devices
        .iter()
        .filter(|device| device.path != "/dev/ptmx");
    for device in devices {
        if plan.has(libc::CLONE_NEWUSER) {
            bind_device(root, &device.path)?;
            continue;
        }
        make_device(root, device).map_err(|error| {
            Error::host(format!("linux.devices: {}", device.path)).with_source(error)
        })?;
    }
    if plan.has(libc::CLONE_NEWUSER) {
        // The root of a user namespace makes no device nodes (mknod(2)).
        for (name, _, _) in NODES {
            bind_device(root, &format!("/dev/{name}"))?;
        }
        return make_links(&dev).map(|()| dev);
    }
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        let number = makedev(major, minor);
        exists_or(mknodat(&dev, name, FileType::CharacterDevice, mode, number))
            .host(|| format!("make /dev/{name}"))?;
    }
    make_links(&dev)?;
    Ok(dev)
}

fn make_links(dev: &OwnedFd) -> Result<()> {
    for (target, name) in LINKS {
        if name == "ptmx" {
            match unlinkat(dev, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error).host(|| "replace /dev/ptmx".into()),
            }
        }
        exists_or(symlinkat(target, dev, name)).host(|| format!("make /dev/{name}"))?;
    }
    Ok(())
}

/// Binds the host's device of the same path.
fn bind_device(root: &Root, path: &str) -> Result<()> {
    let doing = || format!("bind the host's {path}, as a user namespace can make no device");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(CWD, path, flags).host(doing)?;
    let target = root.file(path)?;
    resolve::attach(copy, target).host(doing)
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

/// Hides and write-protects paths, when nothing is left to write; `writable` are the mounts that
/// have waited for it.
pub(super) fn protect(root: &Root, plan: &Plan, dev: &OwnedFd, writable: &[OwnedFd]) -> Result<()> {
    for mount in writable {
        sys::mount_setattr(mount.as_fd(), false, sys::MOUNT_ATTR_RDONLY)
            .host(|| "mounts: make a tmpfs read-only".into())?;
    }
    for path in &plan.read_only_paths {
        let doing = || format!("linux.readonlyPaths: {path}");
        let Some(target) = existing(root, path).host(doing)? else {
            continue;
        };
        let copy = copy_of(&target, true).host(doing)?;
        sys::mount_setattr(copy.as_fd(), true, sys::MOUNT_ATTR_RDONLY).host(doing)?;
        resolve::attach(copy, target).host(doing)?;
    }
    // One empty filesystem covers all masked directories; the kernel copies what is attached only.
    let mut empty: Option<OwnedFd> = None;
    let mut masked = BTreeSet::new();
    for path in &plan.masked {
        let doing = || format!("linux.maskedPaths: {path}");
        let Some(target) = existing(root, path).host(doing)? else {
            continue;
        };
        if !masked.insert(path) {
            continue;
        }
        if !resolve::is_directory(&target).host(doing)? {
            resolve::attach(devices::null_mount(dev)?, target).host(doing)?;
            continue;
        }
        let cover = match &empty {
            Some(empty) => copy_of(empty, false).host(doing)?,
            None => {
                let tmpfs = Tmpfs {
                    attributes: mounts::NOTHING_SPECIAL | sys::MOUNT_ATTR_RDONLY,
                    ..Tmpfs::default()
                };
                tmpfs.make()?
            }
        };
        resolve::attach(&cover, target).host(doing)?;
        empty.get_or_insert(cover);
    }
    Ok(())
}

/// A detached copy of what is mounted behind a descriptor.
fn copy_of(mount: &OwnedFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(mount, "", flags)
}

fn existing(root: &Root, path: &str) -> Result<Option<OwnedFd>, Errno> {
    match root.find(path, OFlags::PATH) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}
