//! Stays with a process until it ends: passes signals on, and joins its terminal with ours.

use std::fs::File;
use std::io::{Read, Write, copy};
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_model::Result;
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::failure::Context;
use crate::sys;

/// Keeps signals for [`wait`]; to be called before the process runs, so that none comes between.
pub(super) fn hold_signals() {
    sys::block_signals();
}

/// Waits for a child process; its exit code, 128 plus the signal if one ended it.
/// Legal after [`hold_signals`], which the threads inherit.
pub(super) fn wait(pid: u32, terminal: Option<OwnedFd>) -> Result<u8> {
    let session = terminal.map(Session::start).transpose()?;
    let code = loop {
        if let Some((_, status)) =
            sys::wait_process(pid as i32, libc::WNOHANG).host(|| "wait for the container".into())?
        {
            break sys::exit_code(status);
        }
        match sys::wait_for_signal() {
            Ok(libc::SIGCHLD) | Err(_) => {}
            Ok(libc::SIGWINCH) if session.is_some() => {
                session.iter().for_each(Session::resize);
            }
            // It may have ended just now; SIGCHLD then comes next.
            Ok(signal) => drop(sys::kill(pid as i32, signal)),
        }
    };
    if let Some(session) = session {
        session.end();
    }
    Ok(code as u8)
}

/// Our terminal in raw mode, copied to and from the container's.
struct Session {
    master: File,
    before: Option<Termios>,
    output: std::thread::JoinHandle<()>,
}

impl Session {
    fn start(master: OwnedFd) -> Result<Self> {
        let doing = || "join the terminals".to_owned();
        let master = File::from(master);
        let stdin = rustix::stdio::stdin();
        let mut before = None;
        if isatty(stdin) {
            let settings = tcgetattr(stdin).host(doing)?;
            let mut raw = settings.clone();
            raw.make_raw();
            tcsetattr(stdin, OptionalActions::Now, &raw).host(doing)?;
            before = Some(settings);
        }
        let (mut reader, mut writer) = (
            master.try_clone().host(doing)?,
            master.try_clone().host(doing)?,
        );
        let output = std::thread::Builder::new()
            .spawn(move || {
                let mut buffer = [0; 16 << 10];
                let mut stdout = std::io::stdout();
                // Ends with EIO when the last holder of the other end is gone.
                while let Ok(count @ 1..) = reader.read(&mut buffer) {
                    if stdout
                        .write_all(&buffer[..count])
                        .and_then(|()| stdout.flush())
                        .is_err()
                    {
                        break;
                    }
                }
            })
            .host(doing)?;
        // Blocked in a read of our stdin at the end, it goes with the process.
        std::thread::Builder::new()
            .spawn(move || drop(copy(&mut std::io::stdin(), &mut writer)))
            .host(doing)?;
        let session = Self {
            master,
            before,
            output,
        };
        session.resize();
        Ok(session)
    }

    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin())
            && size.ws_row > 0
        {
            let _ = tcsetwinsize(self.master.as_fd(), size);
        }
    }

    fn end(self) {
        let _ = self.output.join();
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}
