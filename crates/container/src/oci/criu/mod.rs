//! CRIU, the program that writes processes to files and makes processes of them again
//! (<https://criu.org/RPC>).
//!
//! Invariant: it is started for one request and has ended when that is answered.

mod options;
mod wire;

use std::fs;
use std::io::{ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use bulkhead_model::{Error, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType, recvmsg, send, socketpair,
};

use crate::failure::Context;

use super::plan::Plan;

pub(super) use options::{
    Images, Settings, bound_groups, external_namespace, page_server, parent, read_descriptors,
    write_descriptors,
};
pub(super) use wire::Message;

/// What CRIU is asked for: `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Features = 9,
}

impl Request {
    fn name(self) -> &'static str {
        match self {
            Request::Dump => "DUMP",
            Request::Restore => "RESTORE",
            Request::PreDump => "PRE_DUMP",
            Request::Features => "FEATURE_CHECK",
        }
    }
}

/// The type of notifications and of their answers.
const NOTIFY: u64 = 6;
/// More than any answer of CRIU's.
const MAXIMUM_ANSWER: usize = 40 << 10;

/// What CRIU tells in between, and waits for an answer to.
#[derive(Debug)]
pub(super) struct Notification {
    pub(super) script: String,
    /// The container's init, where that is what it is about.
    pub(super) pid: u32,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// A process of CRIU that waits for its request. Dropped, it is ended.
#[derive(Debug)]
pub(super) struct Service {
    process: Child,
    socket: OwnedFd,
}

impl Service {
    /// Starts CRIU with our standard streams and `inherited` descriptors, at their numbers.
    ///
    /// # Errors
    /// `Unsupported` where it is not installed.
    pub(super) fn start(program: &Path, inherited: &[OwnedFd]) -> Result<Self> {
        let doing = || format!("run {}", program.display());
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .host(doing)?;
        for descriptor in inherited.iter().chain([&theirs]) {
            fcntl_setfd(descriptor, FdFlags::empty()).host(doing)?;
        }
        let process = Command::new(program)
            .args(["swrk", &theirs.as_raw_fd().to_string()])
            .spawn()
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => Error::unsupported(format!(
                    "{} is not installed, which checkpoint and restore need: install Debian's \
                     package criu, or name the program by --criu",
                    program.display()
                )),
                _ => Error::host(doing()).with_source(error),
            })?;
        for descriptor in inherited {
            fcntl_setfd(descriptor, FdFlags::CLOEXEC).host(doing)?;
        }
        Ok(Self {
            process,
            socket: ours,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends the request and answers what CRIU tells meanwhile, until it is done.
    ///
    /// # Errors
    /// CRIU's failure, or the first one of `notified`, which ends CRIU.
    pub(super) fn carry_out(
        mut self,
        request: Request,
        options: &Message,
        mut notified: impl FnMut(Notification) -> Result<()>,
    ) -> Result<()> {
        let mut message = Message::default();
        message.number(1, request as u64).message(2, options);
        self.send(&message)?;
        loop {
            let answer = self.receive()?;
            if answer.kind == NOTIFY && answer.success {
                notified(answer.notification)?;
                let mut message = Message::default();
                message.number(1, NOTIFY).flag(3, true);
                self.send(&message)?;
                continue;
            }
            if !answer.success {
                let reason = if answer.reason.is_empty() {
                    String::new()
                } else {
                    format!(": {}", answer.reason)
                };
                return Err(Error::host(format!(
                    "criu failed: type {} errno {}{reason}",
                    request.name(),
                    answer.errno
                )));
            }
            if answer.kind != request as u64 {
                return Err(Error::host(format!(
                    "criu answered with a message of type {}",
                    answer.kind
                )));
            }
            break;
        }
        if request == Request::PreDump {
            // It waits for more requests of the kind.
            return Ok(());
        }
        let status = self.process.wait().host(|| "wait for criu".into())?;
        if !status.success() {
            return Err(Error::host(format!("criu failed: {status}")));
        }
        Ok(())
    }

    /// Whether CRIU and the kernel can do this: the field of `criu_features`.
    pub(super) fn can(self, feature: u32) -> Result<bool> {
        let (mut message, mut features) = (Message::default(), Message::default());
        features.flag(feature, true);
        message
            .number(1, Request::Features as u64)
            .message(5, &features);
        self.send(&message)?;
        let answer = self.receive()?;
        Ok(answer.success && answer.features.contains(&feature))
    }

    fn send(&self, message: &Message) -> Result<()> {
        send(&self.socket, message.bytes(), SendFlags::NOSIGNAL)
            .map(drop)
            .host(|| "send a request to criu".into())
    }

    fn receive(&self) -> Result<Answer> {
        let doing = || "receive from criu".to_owned();
        let mut buffer = vec![0; MAXIMUM_ANSWER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.socket, &mut parts, &mut ancillary, flags) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result.host(doing)?,
            }
        };
        if received.bytes == 0 {
            return Err(Error::host("criu ended without an answer"));
        }
        let mut answer = Answer::of(&buffer[..received.bytes])?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                answer.notification.descriptors.extend(descriptors);
            }
        }
        Ok(answer)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `criu_resp`.
#[derive(Debug)]
struct Answer {
    kind: u64,
    success: bool,
    notification: Notification,
    errno: i64,
    reason: String,
    features: Vec<u32>,
}

impl Answer {
    fn of(bytes: &[u8]) -> Result<Self> {
        let mut answer = Self {
            kind: 0,
            success: false,
            notification: Notification {
                script: String::new(),
                pid: 0,
                descriptors: Vec::new(),
            },
            errno: 0,
            reason: String::new(),
            features: Vec::new(),
        };
        for (field, value) in wire::fields(bytes)? {
            match field {
                1 => answer.kind = value.number() as u64,
                2 => answer.success = value.number() != 0,
                5 => {
                    for (field, value) in wire::fields(value.bytes())? {
                        match field {
                            1 => answer.notification.script = value.text(),
                            2 => answer.notification.pid = value.number() as u32,
                            _ => {}
                        }
                    }
                }
                7 => answer.errno = value.number(),
                8 => {
                    let features = wire::fields(value.bytes())?;
                    let have = features.iter().filter(|(_, value)| value.number() != 0);
                    answer.features = have.map(|(field, _)| *field).collect();
                }
                9 => answer.reason = value.text(),
                _ => {}
            }
        }
        Ok(answer)
    }
}

/// The program: what `--criu` says, or that of the path, to which the administrator's directories
/// belong here.
pub(super) fn program(given: Option<&Path>) -> PathBuf {
    if let Some(given) = given {
        return given.to_owned();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .map(|directory| Path::new(directory).join("criu"))
        .find(|program| program.is_file())
        .unwrap_or_else(|| "criu".into())
}

/// Adds what CRIU's log says was wrong.
pub(super) fn explained(error: Error, log: &Path) -> Error {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut errors: Vec<&str> = text.lines().filter(|line| line.contains("Error")).collect();
    // CRIU's probes of what it can do here come first and fail without harm.
    errors.drain(..errors.len().saturating_sub(3));
    if errors.is_empty() {
        return error;
    }
    let summary = format!(
        "{error}: {}: see the log file {}",
        errors.join("; "),
        log.display()
    );
    Error::new(error.kind(), summary)
}

/// # Errors
/// `Unsupported` for what CRIU would restore as something else.
pub(super) fn refuse_unsupported(plan: &Plan) -> Result<()> {
    if plan.has(libc::CLONE_NEWUSER) {
        return Err(Error::unsupported(
            "linux.namespaces: checkpoint and restore of a container with a user namespace are \
             not supported by this version of Bulkhead",
        ));
    }
    let mapped = plan.mounts.iter().position(|mount| mount.id_map.is_some());
    if let Some(index) = mapped {
        return Err(Error::unsupported(format!(
            "mounts[{index}]: checkpoint and restore of id-mapped mounts are not supported: criu \
             would restore it without the mapping"
        )));
    }
    Ok(())
}

/// A directory or file behind a descriptor, by the path that it has in its mount namespace.
pub(super) fn path_of(descriptor: impl AsFd) -> Result<String> {
    let link = format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd());
    let path = fs::read_link(link).host(|| "read the path of a mount".into())?;
    Ok(path.to_string_lossy().into_owned())
}
