//! The minimal init that runs as PID 1 of a workload that asked for one (`init: true`).

use bulkhead_model::{Error, Result};
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::sys;

/// Forks: the child goes on as the workload, this process passes signals on to it, reaps orphans
/// and ends as the child does.
pub fn become_init() -> Result<()> {
    let failed = |error| Error::host("fork the workload from its init").with_source(error);
    sys::block_all_signals().map_err(failed)?;
    let Some(child) = sys::fork(0).map_err(failed)? else {
        return Ok(());
    };
    sys::close_all_descriptors();
    loop {
        let signal = sys::wait_for_signal();
        if signal == libc::SIGCHLD {
            reap(child);
        } else {
            // It may have ended already; its SIGCHLD is then next.
            let _ = sys::kill(child, signal);
        }
    }
}

fn reap(child: Pid) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == child {
            sys::exit(exit_code(status));
        }
    }
}

/// The exit code, or 128 plus the signal's number.
pub fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}
