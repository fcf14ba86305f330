//! `delete`: removes what a stopped container holds; with `--force` whatever its state is.

use std::time::{Duration, Instant};

use bulkhead_model::{Error, ErrorKind, Result};

use crate::sys;

use super::arguments::{Arguments, flag};
use super::container::{Container, Status, start_time};
use super::{Global, hooks};

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, &[flag("force", Some('f'))])?;
    let force = arguments.is_set("force");
    let id = arguments.only_container()?;
    let container = match Container::load(&global.root, id) {
        Err(error) if force && error.kind() == ErrorKind::NotFound => {
            // A directory without a state is what a kill in the middle of a create leaves.
            let _ = std::fs::remove_dir_all(global.root.join(id));
            return Ok(());
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

/// Kills what runs and removes everything.
pub(super) fn destroy(container: &Container) -> Result<()> {
    let record = &container.record;
    if record.pid != 0 && start_time(record.pid) == Some(record.start_time) {
        // It may end by itself at this moment.
        let _ = sys::kill(record.pid as i32, libc::SIGKILL);
    }
    let group = container.cgroup()?;
    group.kill()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while record.pid != 0 && start_time(record.pid) == Some(record.start_time) {
        if Instant::now() > deadline {
            return Err(Error::host("the container's init does not end: see dmesg"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    group.remove()?;
    let hooks = container.config()?.hooks.poststop;
    // The rest has to go whatever a hook says (runtime.md, "Lifecycle").
    let hooked = hooks::run(
        "poststop",
        &hooks,
        &container.state(Status::Stopped).to_json()?,
    );
    container.remove();
    hooked
}
