//! The minimal init: PID 1 that passes signals on to the workload and reaps orphans.

use std::os::fd::AsFd;

use bulkhead_model::Result;
use rustix::process::Pid;

use crate::failure::Context;
use crate::sys;

/// Forks: the child returns and becomes the workload, the parent stays here until that ends. It
/// has the workload's user, capabilities and filter already.
pub(crate) fn stay_as_init(has_terminal: bool) -> Result<()> {
    // Before the fork, so that no signal is lost between it and the first wait.
    sys::block_signals();
    match sys::clone_process(0).host(|| "start the workload under init".into())? {
        Some(child) => reap(child as i32),
        None => {
            if has_terminal {
                // A group of its own, in the foreground: the terminal's signals go to it alone.
                let own = || "take the terminal".to_owned();
                rustix::process::setpgid(None, None).host(own)?;
                let group = rustix::process::getpid();
                rustix::termios::tcsetpgrp(rustix::stdio::stdin().as_fd(), group as Pid)
                    .host(own)?;
            }
            sys::reset_signals();
            Ok(())
        }
    }
}

fn reap(child: i32) -> ! {
    // The streams' other ends must see end of file when the workload closes them; and the
    // channel's, when it execs.
    let _ = sys::close_from(0, false);
    loop {
        match sys::wait_for_signal() {
            Ok(libc::SIGCHLD) => {
                while let Ok(Some((pid, status))) = sys::wait_process(-1, libc::WNOHANG) {
                    if pid as i32 == child {
                        sys::exit_now(sys::exit_code(status));
                    }
                }
            }
            // The workload may have ended just now; SIGCHLD then comes next.
            Ok(signal) => drop(sys::kill(child, signal)),
            Err(_) => {}
        }
    }
}
