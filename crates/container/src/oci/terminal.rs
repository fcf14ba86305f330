//! Where a terminal's master goes: to a console socket, or to the caller's own terminal.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bulkhead_model::{Error, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

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
    let (Some(master), Some(path)) = (&master, socket) else {
        return Ok(master);
    };
    let doing = || format!("send the terminal to the console socket {}", path.display());
    let stream = UnixStream::connect(path).host(doing)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    // The bytes are the name that the receiver gives the file, as with runc.
    let name = IoSlice::new(b"/dev/ptmx");
    sendmsg(&stream, &[name], &mut ancillary, SendFlags::NOSIGNAL).host(doing)?;
    Ok(None)
}
