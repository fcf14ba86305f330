//! Mounts that the container's init cannot make by itself: id-mapped ones, which need the
//! privileges of the host, and, for a container with a user namespace, all that comes from the
//! host, whose root may reach paths that the container's may not.
//!
//! ```text
//! init                                maker, a child of the runtime
//!    ├── Part, its mount namespace ──▶│ joins the namespace once, with the host's privileges
//!    │◀──────────── detached mount ───┤
//! ```
//! Each is made when its turn comes, as a mount may have its source in an earlier one.
//!
//! Invariant: the maker ends with the set-up, and nothing of the container's runs before it has.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_model::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, Report};
use crate::failure::Context;
use crate::{spawn, sys};

use super::mount_options::MountOptions;
use super::plan::{Mount, Plan};
use super::root;
use super::user_namespace::{self, Mappings};

/// What the maker is asked for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Part {
    /// The root filesystem, attached at its path.
    Root,
    /// The source of the mount of this index, detached.
    Mount(usize),
}

/// The process that makes them; it is ended with the value.
#[derive(Debug)]
pub(super) struct Maker(u32);

impl Maker {
    /// Starts it if the plan needs it, and gives init's end. Legal in a process with one thread.
    pub(super) fn start(plan: &Plan) -> Result<Option<(Self, FromHost)>> {
        let needed = plan.from_host || plan.mounts.iter().any(|mount| plan.is_from_host(mount));
        if !needed {
            return Ok(None);
        }
        let (ours, theirs) = Channel::pair()?;
        let made = sys::clone_process(0).host(|| "make the process that mounts".into())?;
        let Some(pid) = made else {
            drop(theirs);
            serve(plan, &ours)
        };
        Ok(Some((Self(pid), FromHost(theirs))))
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        spawn::end(self.0);
    }
}

/// Init's end.
#[derive(Debug)]
pub(super) struct FromHost(Channel);

impl FromHost {
    pub(super) fn get(&self, part: Part) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty())
            .host(|| "open the container's mount namespace".into())?;
        self.0.send(&part, &[namespace.as_fd()])?;
        match self.0.report()? {
            Some((Report::Ready, mut descriptors)) => descriptors.pop(),
            _ => None,
        }
        .ok_or_else(|| Error::channel("the process that mounts has ended"))
    }
}

fn serve(plan: &Plan, channel: &Channel) -> ! {
    let mut joined = false;
    // Ends with the runtime, which ends it, or with init's end of the channel.
    while let Ok(Some((part, namespaces))) = channel.receive::<Part>() {
        let made = match namespaces.first() {
            Some(namespace) if !joined => join(namespace.as_fd()),
            _ => Ok(()),
        }
        .and_then(|()| make(plan, part));
        joined = true;
        let sent = match made {
            Ok(mount) => channel.send(&Report::Ready, &[mount.as_fd()]),
            Err(error) => channel.send(&Report::Failed(error.into()), &[]),
        };
        if sent.is_err() {
            break;
        }
    }
    sys::exit_now(0)
}

fn join(namespace: BorrowedFd<'_>) -> Result<()> {
    sys::setns(namespace, libc::CLONE_NEWNS).host(|| "join the container's mounts".into())
}

fn make(plan: &Plan, part: Part) -> Result<OwnedFd> {
    let mount = match part {
        Part::Root => return root::attach(plan),
        Part::Mount(index) => plan.mounts.get(index),
    };
    let mount = mount.ok_or_else(|| Error::channel("there is no mount of this index"))?;
    let copy = bind_source(mount)?;
    map_ids(plan, mount, &copy)?;
    Ok(copy)
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
    if options.explicit {
        set_attributes(&copy, options).map_err(|error| {
            let doing = format!("set the options of the bind mount of {}", mount.source);
            Error::new(error.kind(), doing).with_source(error)
        })?;
    }
    Ok(copy)
}

/// What is not asked for is cleared, as by mount(8); what a user namespace has locked stays, and
/// cannot be cleared (mount_namespaces(7), "Restrictions on mount namespaces").
fn set_attributes(copy: &OwnedFd, options: &MountOptions) -> Result<()> {
    const LOCKABLE: u64 = sys::MOUNT_ATTR_RDONLY
        | sys::MOUNT_ATTR_NOSUID
        | sys::MOUNT_ATTR_NODEV
        | sys::MOUNT_ATTR_NOEXEC;
    let clear = options.clear | (LOCKABLE | sys::MOUNT_ATTR_NOSYMFOLLOW) & !options.set;
    let doing = || "mount_setattr(2)".to_owned();
    match sys::change_mount(copy.as_fd(), false, options.set, clear, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        result => return result.host(doing),
    }
    // The flags of statfs(2) have the same bits.
    let present = rustix::fs::fstatfs(copy).host(doing)?.f_flags as u64 & LOCKABLE;
    let kept = present & !options.clear & !options.set;
    match sys::change_mount(copy.as_fd(), false, options.set, clear & !kept, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(Error::invalid(
            "operation not permitted: an option of the source that the host has set cannot be \
             taken away in a user namespace",
        )),
        result => result.host(doing),
    }
}

fn map_ids(plan: &Plan, mount: &Mount, copy: &OwnedFd) -> Result<()> {
    let Some(id_map) = &mount.id_map else {
        return Ok(());
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
    })
}
