//! The end of a process, for any number of threads that wait for it; and processes made by exec.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, PoisonError};

use bulkhead_model::{Error, ExitStatus, Process, Result, TerminalSize};

use crate::{console, spawn, sys};

/// An exit status that is set once.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Ending {
    pub(crate) fn set(&self, status: ExitStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        self.changed.notify_all();
    }

    pub(crate) fn get(&self) -> Option<ExitStatus> {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait(&self) -> ExitStatus {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *status {
                Some(status) => return status,
                None => {
                    status = self
                        .changed
                        .wait(status)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// Waits for a child process of ours and tells how it ended; `oom_kills` is asked after its
/// death for the number of kills for want of memory, which was `before` at its start.
pub(crate) fn reap(pid: u32, before: u64, oom_kills: impl FnOnce() -> u64) -> ExitStatus {
    let code = match sys::wait_process(pid as i32, 0) {
        Ok(Some((_, status))) => sys::exit_code(status),
        // Somebody else has waited for it: how it ended is lost.
        Ok(None) | Err(_) => 255,
    };
    ExitStatus {
        code,
        oom_killed: code != 0 && oom_kills() > before,
    }
}

/// A process made by exec. Its own thread reaps it.
#[derive(Debug)]
pub(crate) struct ExecProcess {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) ending: std::sync::Arc<Ending>,
}

impl Process for ExecProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn signal(&self, signal: i32) -> Result<()> {
        spawn::signal(&self.pidfd, signal)
    }

    fn resize(&self, size: TerminalSize) -> Result<()> {
        resize(self.terminal.as_ref(), size)
    }

    fn wait(&self) -> Result<ExitStatus> {
        Ok(self.ending.wait())
    }
}

pub(crate) fn resize(terminal: Option<&OwnedFd>, size: TerminalSize) -> Result<()> {
    match terminal {
        Some(terminal) => console::resize(terminal.as_fd(), size),
        None => Err(Error::conflict("the process has no terminal")),
    }
}
