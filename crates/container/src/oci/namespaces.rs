//! The namespaces of a process: which its clone makes, and what a child of the runtime joins and
//! makes before it (config-linux.md, "Namespaces" and "Offset for Time Namespace").
//!
//! Invariant: what is made after the user namespace belongs to it, and its root may change it;
//! what is joined may belong to any.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_model::{Error, Result};
use rustix::fs::{Mode, OFlags, openat};

use crate::channel::{Channel, Report};
use crate::failure::Context;
use crate::helper::set_oom_score;
use crate::sys;

use super::plan::Plan;
use super::setup::{CreateTask, ExecTask};
use super::user_namespace;

/// Joins the namespaces that exist, makes a user namespace, and gives the flags for the clone
/// that makes the others.
pub(super) fn make(task: &CreateTask, channel: &Channel) -> Result<i32> {
    let plan = &task.plan;
    // Before a user namespace takes the privilege from us.
    set_oom_score(&task.workload)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Ours, whatever is mounted at /proc in a mount namespace that is joined.
    let own = rustix::fs::open("/proc/self", flags, Mode::empty())
        .host(|| "open /proc/self: mount a procfs there".into())?;
    join(plan)?;
    if plan.new & libc::CLONE_NEWUSER != 0 {
        // The runtime may be an ordinary user, to whom our files must belong meanwhile.
        sys::set_dumpable(true).host(|| "open this process to the runtime".into())?;
        sys::unshare(libc::CLONE_NEWUSER).host(|| {
            "linux.namespaces: make a user namespace: see sysctl user.max_user_namespaces, and \
             kernel.unprivileged_userns_clone for ordinary users"
                .into()
        })?;
        channel.send(&Report::Unmapped, &[])?;
        channel.await_order()?;
        user_namespace::become_root()?;
    }
    if plan.new & libc::CLONE_NEWTIME != 0 {
        sys::unshare(libc::CLONE_NEWTIME).host(|| "make a time namespace".into())?;
        set_time_offsets(plan, &own)?;
    }
    sys::set_dumpable(false).host(|| "protect this process".into())?;
    Ok(clone_flags(plan.new))
}

/// Of these new namespaces those that the clone of the process makes. The cgroup namespace is made
/// when the process is in its group; clone(2) has no flag for the time namespace.
pub(super) fn clone_flags(new: i32) -> i32 {
    new & !(libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME | libc::CLONE_NEWUSER)
}

/// Joins the namespaces of the container whose init is behind `init`.
pub(super) fn join_container(task: &ExecTask, init: BorrowedFd<'_>) -> Result<()> {
    set_oom_score(&task.workload)?;
    sys::setns(init, task.namespaces).host(|| "join the container's namespaces".into())?;
    if task.namespaces & libc::CLONE_NEWUSER != 0 {
        user_namespace::become_root()?;
    }
    Ok(())
}

/// A namespace of the host's can be joined with the host's privileges only, one that belongs to
/// the user namespace that is joined with its: what does not go before goes after.
fn join(plan: &Plan) -> Result<()> {
    let mut opened = Vec::new();
    for (flag, path) in &plan.joined {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open(path, flags, Mode::empty())
            .host(|| format!("linux.namespaces: open {}", path.display()))?;
        opened.push((*flag, path, namespace));
    }
    let join = |(flag, _, namespace): &(i32, _, OwnedFd)| sys::setns(namespace.as_fd(), *flag);
    let (user, others): (Vec<_>, Vec<_>) = opened
        .into_iter()
        .partition(|(flag, _, _)| *flag == libc::CLONE_NEWUSER);
    let mut left = Vec::new();
    for namespace in others {
        match join(&namespace) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && !user.is_empty() => {
                left.push(namespace);
            }
            result => result.host(|| failed(namespace.1))?,
        }
    }
    for namespace in &user {
        join(namespace).host(|| failed(namespace.1))?;
        user_namespace::become_root()?;
    }
    for namespace in &left {
        join(namespace).host(|| failed(namespace.1))?;
    }
    Ok(())
}

fn failed(path: &std::path::Path) -> String {
    format!(
        "linux.namespaces: join {}: is it a namespace of this type?",
        path.display()
    )
}

fn set_time_offsets(plan: &Plan, own: &OwnedFd) -> Result<()> {
    let lines: String = plan
        .time_offsets
        .iter()
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs, offset.nanosecs))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    let doing = || "linux.timeOffsets: set the offsets".to_owned();
    // The change to the root of a user namespace has taken our files from us.
    sys::set_dumpable(true).host(doing)?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(own, "timens_offsets", flags, Mode::empty()).host(doing)?;
    File::from(file)
        .write_all(lines.as_bytes())
        .map_err(|error| Error::host(doing()).with_source(error))
}
