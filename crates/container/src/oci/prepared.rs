//! Mounts that the container's init cannot make by itself, made by the runtime and handed to it
//! as descriptors: id-mapped ones, which need the privileges of the host, and, for a container
//! with a user namespace, all that comes from the host, whose root may reach paths that the
//! container's may not.
//!
//! Invariant: these mounts are detached; they are gone with the last descriptor.

use std::os::fd::{AsFd, OwnedFd};

use bulkhead_model::{Error, Result};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::failure::Context;
use crate::sys;

use super::plan::{Mount, MountKind, Plan};
use super::user_namespace::{self, Mappings};

/// What the descriptors stand for, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Root,
    /// The mount of this index.
    Mount(usize),
}

/// The descriptors with what they stand for.
#[derive(Debug, Default)]
pub(super) struct Prepared(Vec<(Part, OwnedFd)>);

impl Prepared {
    /// Makes what this plan needs of the runtime. Legal in a process with one thread.
    ///
    /// # Errors
    /// Names the field of the mount.
    pub(super) fn new(plan: &Plan) -> Result<Self> {
        let mut prepared = Vec::new();
        let from_host = plan.has(libc::CLONE_NEWUSER)
            && plan.new & libc::CLONE_NEWNS != 0
            && rustix::process::geteuid().is_root();
        if from_host {
            let root = open_root(plan)?;
            become_slave(&root)?;
            prepared.push((Part::Root, root));
        }
        for (index, mount) in plan.mounts.iter().enumerate() {
            let MountKind::Bind = mount.kind else {
                continue;
            };
            if !from_host && mount.id_map.is_none() {
                continue;
            }
            let made = prepare(plan, mount, from_host).map_err(|error| {
                Error::new(error.kind(), format!("mounts[{index}]: {}", mount.target))
                    .with_source(error)
            })?;
            prepared.push((Part::Mount(index), made));
        }
        Ok(Self(prepared))
    }

    /// Takes the mount for `part` out, if it is among them.
    pub(super) fn take(&mut self, part: Part) -> Option<OwnedFd> {
        let index = self.0.iter().position(|(known, _)| *known == part)?;
        Some(self.0.swap_remove(index).1)
    }
}

/// A detached copy of the root filesystem with all that is mounted in it.
pub(super) fn open_root(plan: &Plan) -> Result<OwnedFd> {
    open_tree(
        CWD,
        &plan.rootfs,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .host(|| format!("root.path: copy the mount of {}", plan.rootfs.display()))
}

/// A detached copy of the source of a bind mount, with the mount's attributes.
pub(super) fn bind_source(mount: &Mount) -> Result<OwnedFd> {
    let options = &mount.options;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let copy =
        open_tree(CWD, mount.source.as_str(), flags).host(|| format!("bind {}", mount.source))?;
    if options.set | options.clear != 0 {
        sys::change_mount(copy.as_fd(), false, options.set, options.clear, 0)
            .host(|| format!("set the options of the bind mount of {}", mount.source))?;
    }
    Ok(copy)
}

fn prepare(plan: &Plan, mount: &Mount, from_host: bool) -> Result<OwnedFd> {
    let copy = bind_source(mount)?;
    if from_host {
        become_slave(&copy)?;
    }
    let Some(id_map) = &mount.id_map else {
        return Ok(copy);
    };
    let namespace = if id_map.users.is_empty() {
        match plan.joined_path(libc::CLONE_NEWUSER) {
            Some(path) => std::fs::File::open(path)
                .host(|| format!("open {}", path.display()))?
                .into(),
            None => user_namespace::make(plan.mappings())?,
        }
    } else {
        user_namespace::make(Mappings {
            users: &id_map.users,
            groups: &id_map.groups,
        })?
    };
    sys::map_mount_ids(copy.as_fd(), id_map.recursive, namespace.as_fd()).host(|| {
        format!(
            "map the ids of {}: its filesystem must be one that allows id-mapped mounts",
            mount.source
        )
    })?;
    Ok(copy)
}

/// What the container mounts in its copy is not to reach the host's original: the kernel makes
/// mounts slaves where it copies them for a user namespace, and knows nothing of these.
fn become_slave(copy: &OwnedFd) -> Result<()> {
    sys::change_mount(copy.as_fd(), true, 0, 0, libc::MS_SLAVE)
        .host(|| "set the propagation of a mount of the host".into())
}
