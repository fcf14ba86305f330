//! Makes a process of a container as a copy of this one, whose memory tells it what to do.
//!
//! ```text
//! runtime
//!    ├── clones ───────────────────────────────────▶ process     where no namespace is joined,
//!    │                                                           else:
//!    └── clones ─▶ child that joins namespaces
//!         │◀── Unmapped, Cloned ─┤
//!         │                      └── clones ───────▶ process, a child of the runtime
//!         ├── Go ───────────────────────────────────▶│
//! ```
//! Invariants:
//! - This process has one thread, so that the copy is whole.
//! - It runs from a file through which nobody can write: see [`program::reexecute`].

use std::convert::Infallible;

use bulkhead_model::{Error, Result};

use crate::cgroup::OpenEntrance;
use crate::channel::{Channel, Order, Report};
use crate::failure::Context;
use crate::trace::{self, Role};
use crate::{log, spawn, sys};

/// Clones a process that enters its groups and goes on as `go_on`, in new namespaces of these
/// `CLONE_*` flags.
///
/// Returns its number and the channel to it; it is a child of this process.
pub(super) fn directly<T>(
    mut entrance: OpenEntrance,
    task: T,
    flags: i32,
    go_on: fn(T, Channel) -> Result<Infallible>,
) -> Result<(Channel, u32)> {
    let (ours, theirs) = Channel::pair()?;
    match clone(&mut entrance, flags)? {
        Some(pid) => Ok((ours, pid)),
        None => {
            drop(ours);
            become_process(entrance, task, theirs, go_on)
        }
    }
}

/// As [`directly`], by a child that calls `enter` before; its flags are for the namespaces of the
/// process. `map` writes the mappings of the user namespace that the child of this number has
/// made, if it says so.
pub(super) fn by_child<T>(
    entrance: OpenEntrance,
    task: T,
    enter: impl FnOnce(&T, &Channel) -> Result<i32>,
    map: impl FnOnce(u32) -> Result<()>,
    go_on: fn(T, Channel) -> Result<Infallible>,
) -> Result<(Channel, u32)> {
    let (ours, theirs) = Channel::pair()?;
    let child = sys::clone_process(0).host(|| "make the process that joins namespaces".into())?;
    let Some(child) = child else {
        drop(ours);
        clone_process(entrance, task, theirs, enter, go_on)
    };
    // With the descriptors that are the new process's now.
    drop((theirs, entrance, task));
    let cloned = ours.report().and_then(|report| match report {
        Some((Report::Unmapped, _)) => {
            map(child)?;
            ours.send(&Order::Go, &[])?;
            ours.report()
        }
        other => Ok(other),
    });
    let pid = match cloned {
        Ok(Some((Report::Cloned(pid), _))) => Ok(pid),
        Ok(_) => Err(Error::channel("the joining process ended without a report")),
        Err(error) => Err(error),
    };
    if pid.is_err() {
        // It ends after its report; where there is none, it may be stuck.
        let _ = sys::kill(child as i32, libc::SIGKILL);
    }
    sys::wait_process(child as i32, 0).host(|| "wait for the joining process".into())?;
    let pid = pid?;
    // Two processes must not write at once: this one has waited for the other's last word.
    ours.send(&Order::Go, &[])
        .inspect_err(|_| spawn::end(pid))?;
    Ok((ours, pid))
}

fn clone(entrance: &mut OpenEntrance, flags: i32) -> Result<Option<u32>> {
    entrance
        .clone_process(flags)
        .host(|| "make the container's process".into())
}

fn clone_process<T>(
    mut entrance: OpenEntrance,
    task: T,
    channel: Channel,
    enter: impl FnOnce(&T, &Channel) -> Result<i32>,
    go_on: fn(T, Channel) -> Result<Infallible>,
) -> ! {
    trace::role(Role::Joiner);
    let cloned = protect()
        .and_then(|()| enter(&task, &channel))
        .and_then(|flags| clone(&mut entrance, flags | libc::CLONE_PARENT));
    let report = match cloned {
        Ok(None) => {
            if let Err(error) = channel.await_order() {
                let _ = channel.send(&Report::Failed(error.into()), &[]);
                sys::exit_now(1);
            }
            become_process(entrance, task, channel, go_on)
        }
        Ok(Some(pid)) => Report::Cloned(pid),
        Err(error) => Report::Failed(error.into()),
    };
    let _ = channel.send(&report, &[]);
    sys::exit_now(0)
}

fn become_process<T>(
    entrance: OpenEntrance,
    task: T,
    channel: Channel,
    go_on: fn(T, Channel) -> Result<Infallible>,
) -> ! {
    trace::role(Role::Process);
    trace::phase("cloned");
    let prepared = protect()
        .and_then(|()| entrance.join())
        .and_then(|()| channel.try_clone());
    trace::phase("groups joined");
    let Err(error) = prepared.and_then(|copy| go_on(task, copy));
    let _ = channel.send(&Report::Failed(error.into()), &[]);
    sys::exit_now(1)
}

/// Once in the container's namespaces, its processes must not reach into us.
fn protect() -> Result<()> {
    log::silence();
    sys::set_dumpable(false).host(|| "protect the container's process".into())
}
