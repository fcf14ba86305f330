//! Hands the listener of a seccomp filter to its agent (config-linux.md, "Seccomp":
//! `listenerPath`, and "The Container Process State").
//!
//! Invariant: the program does not run before the agent has the descriptor.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use bulkhead_model::{Error, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::Serialize;

use crate::channel::{Channel, Order, Report};
use crate::failure::Context;
use crate::seccomp::Listener;

use super::container::State;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a State<'a>,
}

/// Waits until the process of this number, which has its order to start, has executed its
/// program.
///
/// # Errors
/// What it failed with, or that its listener could not be handed on; it ends then.
pub(super) fn await_program(
    channel: &Channel,
    pid: u32,
    listener: Option<Listener<'_>>,
    state: &State<'_>,
) -> Result<()> {
    // End of file: the program has been executed.
    while let Some((report, _)) = channel.report()? {
        let (Report::Listening(number), Some(listener)) = (report, listener) else {
            return Err(Error::channel("the container's process sent an odd report"));
        };
        hand_over(number, pid, listener, state)?;
        channel.send(&Order::Go, &[])?;
    }
    Ok(())
}

fn hand_over(number: i32, pid: u32, listener: Listener<'_>, state: &State<'_>) -> Result<()> {
    let doing = || "take the seccomp listener from the container's process".to_owned();
    let process = Pid::from_raw(pid as i32)
        .ok_or_else(|| Error::channel("the container's process has no number"))?;
    let process = pidfd_open(process, PidfdFlags::empty()).host(doing)?;
    let descriptor = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).host(doing)?;
    let text = serde_json::to_vec(&ProcessState {
        oci_version: state.oci_version,
        fds: ["seccompFd"],
        pid,
        metadata: listener.metadata,
        state,
    })
    .map_err(|error| Error::host("write the container process state").with_source(error))?;

    let mut agent = connect(listener.path).host(|| {
        format!(
            "linux.seccomp.listenerPath: failed to connect with seccomp agent at {}: start it first",
            listener.path
        )
    })?;
    let doing = || format!("send the seccomp listener to {}", listener.path);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = sendmsg(
        &agent,
        &[IoSlice::new(&text)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .host(doing)?;
    agent.write_all(&text[sent..]).host(doing)
}

/// A path that begins with `@` is an abstract one, as in Go.
fn connect(path: &str) -> std::io::Result<UnixStream> {
    match path.strip_prefix('@') {
        Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?),
        None => UnixStream::connect(path),
    }
}
