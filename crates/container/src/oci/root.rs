//! The container's root: mounted where the configuration says, made the root of the mount
//! namespace at the end (config.md, "Root"; config-linux.md, "Rootfs Mount Propagation").

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_model::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};

use crate::failure::Context;
use crate::resolve::Root;
use crate::sys;

use super::host_mounts;
use super::mount_maker::{FromHost, Part};
use super::plan::Plan;

/// Mounts the root filesystem onto its own path, with what is mounted in it.
pub(super) fn mount(plan: &Plan, host: Option<&FromHost>) -> Result<Root> {
    if !plan.has(libc::CLONE_NEWNS) {
        return mount_on_host(plan);
    }
    let meanwhile = match plan.propagation {
        None => (libc::MS_SLAVE, true),
        // Nothing could be bound from what is unbindable.
        Some((libc::MS_UNBINDABLE, recursive)) => (libc::MS_PRIVATE, recursive),
        Some(propagation) => propagation,
    };
    propagate("/", meanwhile)?;
    match host {
        Some(host) if plan.from_host => host.get(Part::Root),
        _ => attach(plan),
    }
    .map(Root::of)
}

/// Without a mount namespace of the container's its mounts are the host's, and stay when it is
/// gone: they are for whoever asked for that to take away.
fn mount_on_host(plan: &Plan) -> Result<Root> {
    let tree = attach(plan)?;
    sys::change_mount(tree.as_fd(), true, 0, 0, libc::MS_PRIVATE)
        .host(|| "root.path: make the mounts private".into())?;
    Ok(Root::of(tree))
}

/// Takes the mounts of a container without a mount namespace from the host.
pub(super) fn unmount_from_host(rootfs: &Path) {
    // There may be none yet.
    let _ = unmount(rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
}

/// Attaches a copy of the root filesystem to its own path in this mount namespace.
pub(super) fn attach(plan: &Plan) -> Result<OwnedFd> {
    let path = &plan.rootfs;
    let doing = || format!("root.path: mount {}", path.display());
    if matches!(
        plan.propagation,
        Some((libc::MS_SHARED | libc::MS_UNBINDABLE, _))
    ) {
        // Else the mount would reach the host, and pivot_root(2) refuses a root that lies in a
        // shared mount; and of an unbindable one there is no copy.
        make_parent_private(path)?;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags).host(doing)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(&tree, "", CWD, path, flags).host(doing)?;
    Ok(tree)
}

/// Makes the mount in which `path` lies private.
fn make_parent_private(path: &Path) -> Result<()> {
    for place in path.ancestors() {
        match mount_change(place, MountPropagationFlags::PRIVATE) {
            // It is no mount point.
            Err(Errno::INVAL) => {}
            result => {
                return result
                    .host(|| format!("root.path: make the mount {} private", place.display()));
            }
        }
    }
    Err(Error::host(format!(
        "root.path: {} lies in no mount",
        path.display()
    )))
}

fn propagate(path: &str, (flag, recursive): (u64, bool)) -> Result<()> {
    let mut flags = MountPropagationFlags::from_bits_retain(flag as u32);
    if recursive {
        flags |= MountPropagationFlags::REC;
    }
    mount_change(path, flags).host(|| "linux.rootfsPropagation: set the propagation".into())
}

/// Makes `root` the root of this mount namespace and lets go of the host's.
pub(super) fn enter(root: &Root, plan: &Plan) -> Result<()> {
    if plan.read_only {
        sys::mount_setattr(root.as_fd(), false, sys::MOUNT_ATTR_RDONLY)
            .host(|| "root.readonly: make the root read-only".into())?;
    }
    let doing = || "change to the container's root".to_owned();
    rustix::process::fchdir(root).host(doing)?;
    if !plan.has(libc::CLONE_NEWNS) {
        rustix::process::chroot(".").host(doing)?;
        return rustix::process::chdir("/").host(doing);
    }
    if plan.no_pivot {
        host_mounts::hide_proc_and_sys(&plan.rootfs)?;
        rustix::mount::mount_move(".", "/").host(doing)?;
        rustix::process::chroot(".").host(doing)?;
    } else {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let old = rustix::fs::open("/", flags, Mode::empty()).host(doing)?;
        // The old root ends up on top of the new one (pivot_root(2), NOTES).
        rustix::process::pivot_root(".", ".").host(doing)?;
        rustix::process::fchdir(old).host(doing)?;
        // What is unmounted here must not be unmounted on the host.
        mount_change(
            ".",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .host(doing)?;
        unmount(".", UnmountFlags::DETACH).host(doing)?;
    }
    rustix::process::chdir("/").host(doing)?;
    match plan.propagation {
        Some(propagation) => propagate("/", propagation),
        None => Ok(()),
    }
}
