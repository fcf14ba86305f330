//! The container's root: mounted where the configuration says, made the root of the mount
//! namespace at the end (config.md, "Root"; config-linux.md, "Rootfs Mount Propagation").

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_model::{Error, Result};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};

use crate::failure::Context;
use crate::resolve::Root;
use crate::sys;

use super::host_mounts;
use super::plan::Plan;
use super::prepared::{self, Part, Prepared};

/// Mounts the root filesystem onto its own path.
pub(super) fn mount(plan: &Plan, prepared: &mut Prepared) -> Result<Root> {
    let propagation = plan.propagation.unwrap_or((libc::MS_SLAVE, true));
    propagate("/", propagation)?;
    if propagation.0 == libc::MS_SHARED {
        // Else the mount of the root would reach the host, and pivot_root(2) refuses a root on a
        // shared mount.
        make_parent_private(&plan.rootfs)?;
    }
    let tree = match prepared.take(Part::Root) {
        Some(tree) => tree,
        None => prepared::open_root(plan)?,
    };
    attach(&tree, &plan.rootfs)?;
    Ok(Root::of(tree))
}

fn attach(tree: &OwnedFd, path: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    match move_mount(tree, "", CWD, path, flags) {
        // The root of a user namespace may not reach it; any other place does as well, as it is
        // left for good at the end.
        Err(Errno::ACCESS) => move_mount(tree, "", CWD, "/", flags),
        result => result,
    }
    .host(|| format!("root.path: mount {}", path.display()))
}

/// Makes the mount in which `path` lies private.
fn make_parent_private(path: &Path) -> Result<()> {
    for place in path.ancestors() {
        match mount_change(place, MountPropagationFlags::PRIVATE) {
            // It is no mount point, or out of reach for the root of a user namespace.
            Err(Errno::INVAL | Errno::ACCESS) => {}
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
    if plan.no_pivot {
        host_mounts::hide_proc_and_sys(&plan.rootfs)?;
        rustix::mount::mount_move(".", "/").host(doing)?;
        rustix::process::chroot(".").host(doing)?;
    } else {
        // The old root ends up on top of the new one (pivot_root(2), NOTES).
        rustix::process::pivot_root(".", ".").host(doing)?;
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
