//! The socket between a runtime and its helper: JSON messages, each after its length, and
//! descriptors beside them.
//!
//! ```text
//! runtime                         helper                 container's process
//!    ├── config + descriptors ──────▶│ clones ───────────────▶│
//!    │◀────────────────── Cloned ────┤ exits                  │
//!    ├── Go (it is in its cgroup) ───────────────────────────▶│ sets itself up
//!    │◀───────────────────────────────────── Ready, terminal ─┤
//!    ├── Start ──────────────────────────────────────────────▶│ execs the workload:
//!    │◀────────────── end of file, as the socket is close-on-exec
//! ```
//! In place of each answer a `Failed` may come. A runtime that dies is an end of file to the
//! other side, which then exits.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use bulkhead_model::{Error, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::failure::{Context, Failure};

/// More descriptors than any message of ours carries.
const MAXIMUM_DESCRIPTORS: usize = 250;
/// A message is a specification at most; its largest parts are bounded by `execve(2)` itself.
const MAXIMUM_MESSAGE: u32 = 16 << 20;

/// What the helper and the container's process tell the runtime.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// A user namespace has been made and waits for its mappings.
    Unmapped,
    /// The new process, by its number on the host.
    Cloned(u32),
    Ready,
    /// The filter is installed, with a listener at this descriptor of the process's.
    Listening(i32),
    Failed(Failure),
}

/// What the runtime tells the container's process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Go,
    /// The runtime's hooks have run; the state for the container's own.
    Hooks(String),
    Start,
}

/// One end of the socket.
#[derive(Debug)]
pub(crate) struct Channel(UnixStream);

impl Channel {
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (left, right) = UnixStream::pair().host(|| "make a socket pair".into())?;
        Ok((Self(left), Self(right)))
    }

    pub(crate) fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }

    pub(crate) fn try_clone(&self) -> Result<Self> {
        self.0
            .try_clone()
            .host(|| "copy a descriptor".into())
            .map(Self)
    }

    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.0.into()
    }

    pub(crate) fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let body = serde_json::to_vec(message)
            .map_err(|error| Error::channel("write a message to the helper").with_source(error))?;
        let length = (body.len() as u32).to_le_bytes();
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAXIMUM_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        // A peer that is gone must not end us by SIGPIPE.
        sendmsg(
            &self.0,
            &[IoSlice::new(&length)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
        .host(|| "send to the helper".into())?;
        let mut rest = body.as_slice();
        while !rest.is_empty() {
            let sent = rustix::net::send(&self.0, rest, SendFlags::NOSIGNAL)
                .host(|| "send to the helper".into())?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// The next message with its descriptors; `None` at end of file.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        let mut length = [0; 4];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAXIMUM_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut length)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                result => break result.host(|| "receive from the helper".into())?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let length = u32::from_le_bytes(length);
        if received.bytes != 4 || length > MAXIMUM_MESSAGE {
            return Err(Error::channel("the helper sent a malformed message"));
        }
        let mut body = vec![0; length as usize];
        (&self.0)
            .read_exact(&mut body)
            .host(|| "receive from the helper".into())?;
        let message = serde_json::from_slice(&body)
            .map_err(|error| Error::channel("read a message of the helper").with_source(error))?;
        Ok(Some((message, descriptors)))
    }

    /// The next report; a `Failed` is the error that it carries.
    pub(crate) fn report(&self) -> Result<Option<(Report, Vec<OwnedFd>)>> {
        match self.receive()? {
            Some((Report::Failed(failure), _)) => Err(failure.into()),
            other => Ok(other),
        }
    }

    /// Sends by one write(2) and no other call: what else a filter lets through is not known.
    pub(crate) fn write(&self, message: &impl Serialize) -> Result<()> {
        let body = serde_json::to_vec(message)
            .map_err(|error| Error::channel("write a message to the runtime").with_source(error))?;
        let mut text = (body.len() as u32).to_le_bytes().to_vec();
        text.extend(body);
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let written =
                rustix::io::write(&self.0, rest).host(|| "write to the runtime".into())?;
            rest = &rest[written..];
        }
        Ok(())
    }

    /// As [`Self::await_order`], by read(2) and no other call.
    pub(crate) fn await_order_by_read(&self) -> Result<()> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        let mut body = vec![0; u32::from_le_bytes(length).min(MAXIMUM_MESSAGE) as usize];
        self.read(&mut body)
    }

    fn read(&self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            match rustix::io::read(&self.0, &mut *buffer) {
                Ok(0) | Err(rustix::io::Errno::CONNRESET) => crate::sys::exit_now(1),
                Ok(read) => buffer = &mut buffer[read..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).host(|| "read from the runtime".into()),
            }
        }
        Ok(())
    }

    /// Blocks until the runtime gives an order; whoever waits for a dead runtime exits.
    pub(crate) fn await_order(&self) -> Result<()> {
        match self.receive::<Order>()? {
            Some(_) => Ok(()),
            None => crate::sys::exit_now(1),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
