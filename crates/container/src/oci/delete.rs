//! `delete`: removes what a stopped container holds; with `--force`, which is runc's, whatever its
//! state is (runtime.md, "Delete").

use std::os::fd::AsFd;
use std::path::Path;

use bulkhead_model::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::failure::Context;
use crate::{sys, trace};

use super::arguments::{Arguments, Flag, flag};
use super::config::Config;
use super::container::{self, Container, Status, start_time};
use super::{Global, hooks};

pub(super) const FLAGS: &[Flag] = &[flag("force", Some('f'))];

/// How long the init may take to end.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let force = arguments.is_set("force");
    let id = arguments.only_container()?;
    // Two deletes at once must not run the hooks twice, nor remove what a create has made anew.
    let lock = container::lock(&global.root, id)?;
    let container = match Container::load(&global.root, id) {
        Err(error) if force && error.kind() == ErrorKind::NotFound => {
            // A directory without a state is what a kill in the middle of a create leaves.
            return match lock {
                Some(_) => container::remove(&global.root.join(id)),
                None => Ok(()),
            };
        }
        result => result?,
    };
    match container.status() {
        Status::Stopped | Status::Created => {}
        _ if force => {}
        status => {
            return Err(Error::conflict(format!(
                "cannot delete container {id} that is not stopped: {}: stop it, or use --force",
                status.name()
            )));
        }
    }
    destroy(&container)
}

/// Removes a container of our own making, unless somebody else has done so.
pub(super) fn destroy_own(root: &Path, container: &Container) -> Result<()> {
    let id = &container.record.id;
    let Some(_lock) = container::lock(root, id)? else {
        return Ok(());
    };
    let process = |container: &Container| (container.record.pid, container.record.start_time);
    match Container::load(root, id) {
        Ok(now) if process(&now) == process(container) => destroy(container),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Kills what runs, removes everything and runs the hooks `poststop`.
fn destroy(container: &Container) -> Result<()> {
    end_init(container)?;
    container.cgroup().destroy()?;
    if let Some(rdt) = &container.record.rdt {
        rdt.remove()?;
    }
    if container.record.pid == 0 {
        container.unmount_unfinished();
    }
    trace::phase("groups removed");
    let config: Config = container.config()?;
    // The rest has to go whatever a hook says (runtime.md, "Lifecycle").
    let hooked = hooks::run(
        "poststop",
        &config.hooks.poststop,
        &container.state(Status::Stopped).to_json()?,
    );
    container.remove()?;
    trace::phase("state removed");
    hooked
}

/// Kills the init, and returns when it has ended.
fn end_init(container: &Container) -> Result<()> {
    let record = &container.record;
    let Some(pid) = Pid::from_raw(record.pid as i32) else {
        return Ok(());
    };
    let Ok(init) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    // The descriptor is of this process whatever becomes of the number.
    if start_time(record.pid) != Some(record.start_time) {
        return Ok(());
    }
    // It may end by itself at this moment.
    let _ = sys::pidfd_send_signal(init.as_fd(), libc::SIGKILL);
    if container.cgroup().is_frozen() {
        // What is frozen on cgroup v1 dies when it thaws.
        container.cgroup().thaw()?;
    }
    let ended = poll(&mut [PollFd::new(&init, PollFlags::IN)], Some(&PATIENCE))
        .host(|| "wait for the end of the container's init".into())?;
    if ended == 0 {
        return Err(Error::host("the container's init does not end: see dmesg"));
    }
    Ok(())
}
