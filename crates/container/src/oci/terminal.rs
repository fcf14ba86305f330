//! What is handed out by a socket: a terminal's master, or a pidfd.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bulkhead_model::{Error, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::termios::{OptionalActions, OutputModes, tcgetattr, tcsetattr};

use crate::failure::Context;

/// # Errors
/// `InvalidInput` where terminal, detachment and console socket contradict each other.
pub(super) fn check(terminal: bool, detached: bool, socket: Option<&Path>) -> Result<()> {
    match (terminal, detached, socket) {
        (true, true, None) => Err(Error::invalid(
            "cannot allocate tty if the runtime will detach without setting console socket: give \
             --console-socket, or set process.terminal to false",
        )),
        (false, _, Some(_)) | (_, false, Some(_)) => Err(Error::invalid(
            "cannot use console socket if the runtime will not detach or allocate tty",
        )),
        _ => Ok(()),
    }
}

/// Sends the master to the console socket; gives it back where there is none.
pub(super) fn deliver(master: Option<OwnedFd>, socket: Option<&Path>) -> Result<Option<OwnedFd>> {
    let Some(master) = master else {
        return Ok(None);
    };
    let Some(path) = socket else {
        // What we read of it is written to a terminal or a file of the caller's, whose own
        // settings say how lines end; to be set before the process writes.
        let doing = || "set the terminal".to_owned();
        let mut settings = tcgetattr(&master).host(doing)?;
        settings.output_modes.remove(OutputModes::ONLCR);
        tcsetattr(&master, OptionalActions::Now, &settings).host(doing)?;
        return Ok(Some(master));
    };
    send(path, master.as_fd(), "/dev/ptmx")
        .host(|| format!("send the terminal to the console socket {}", path.display()))?;
    Ok(None)
}

/// Sends a process's pidfd to the socket of `--pidfd-socket`.
pub(super) fn deliver_pidfd(process: u32, path: &Path) -> Result<()> {
    let doing = || format!("send the pidfd to the socket {}", path.display());
    let process = Pid::from_raw(process as i32)
        .ok_or_else(|| Error::host("send the pidfd: there is no process"))?;
    let pidfd = pidfd_open(process, PidfdFlags::empty()).host(doing)?;
    send(path, pidfd.as_fd(), "pidfd").host(doing)
}

/// Sends a descriptor and, as runc does, the name that the receiver gives the file.
fn send(path: &Path, descriptor: BorrowedFd<'_>, name: &str) -> std::io::Result<()> {
    let stream = UnixStream::connect(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let name = IoSlice::new(name.as_bytes());
    sendmsg(&stream, &[name], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
