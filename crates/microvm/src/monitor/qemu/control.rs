//! QEMU's control protocol, QMP: one JSON object a line.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bulkhead_model::{Error, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::monitor::Control;

/// A monitor answers within milliseconds; one that does not is broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is asked whether it has written all of a guest.
const SAVE_INTERVAL: Duration = Duration::from_millis(5);

/// The name under which QEMU keeps the descriptor of the file that a guest is saved to.
const STATE: &str = "state";

#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<UnixStream>,
    negotiated: bool,
}

impl Qmp {
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .map_err(|error| {
                Error::host("set up the monitor's control socket").with_source(error)
            })?;
        Ok(Self {
            reader: BufReader::new(stream),
            negotiated: false,
        })
    }

    /// Lets a guest that was started without one go on from this state, and waits until it does.
    pub(super) fn load(&mut self, state: OwnedFd) -> Result<()> {
        self.leave_memory_out()?;
        self.send("getfd", json!({ "fdname": STATE }), Some(state))?;
        let uri = json!({ "uri": format!("fd:{STATE}") });
        self.execute("migrate-incoming", uri)?;
        let failed = |error| Error::channel("wait for the guest to go on").with_source(error);
        while self.line().map_err(failed)?["event"] != json!("RESUME") {}
        Ok(())
    }

    /// A template's memory is a file of its own, and no part of the state.
    fn leave_memory_out(&mut self) -> Result<()> {
        let capability = json!({ "capability": "x-ignore-shared", "state": true });
        let arguments = json!({ "capabilities": [capability] });
        self.execute("migrate-set-capabilities", arguments)
            .map(drop)
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        if !self.negotiated {
            self.send("qmp_capabilities", json!({}), None)?;
            self.negotiated = true;
        }
        self.send(command, arguments, None)
    }

    fn send(&mut self, command: &str, arguments: Value, passed: Option<OwnedFd>) -> Result<Value> {
        let failed = |error: io::Error| {
            Error::channel(format!("tell the monitor to {command}")).with_source(error)
        };
        let request = format!(
            "{}\n",
            json!({ "execute": command, "arguments": arguments })
        );
        match passed {
            None => self.reader.get_mut().write_all(request.as_bytes()),
            Some(descriptor) => pass(self.reader.get_ref(), &request, &descriptor),
        }
        .map_err(failed)?;
        loop {
            // Between the greeting and events, only an answer has one of these.
            let mut line = self.line().map_err(failed)?;
            if let Some(value) = line.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = line.get("error") {
                let reason = error["desc"].as_str().unwrap_or("it does not say why");
                return Err(Error::host(format!(
                    "the monitor refuses to {command}: {reason}"
                )));
            }
        }
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

/// Sends the text with a descriptor, in one message: it is short.
fn pass(stream: &UnixStream, text: &str, descriptor: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(text.as_bytes())],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent != text.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

impl Control for Qmp {
    fn pause(&mut self) -> Result<()> {
        self.execute("stop", json!({})).map(drop)
    }

    fn resume(&mut self) -> Result<()> {
        self.execute("cont", json!({})).map(drop)
    }

    fn save(&mut self, state: OwnedFd) -> Result<()> {
        // The guest runs until all but its last state is written: one that was stopped before would
        // be saved as a stopped one.
        self.leave_memory_out()?;
        self.send("getfd", json!({ "fdname": STATE }), Some(state))?;
        self.execute("migrate", json!({ "uri": format!("fd:{STATE}") }))?;
        loop {
            let progress = self.execute("query-migrate", json!({}))?;
            match progress["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let reason = progress["error-desc"].as_str();
                    return Err(Error::host(format!(
                        "the monitor could not save the guest: {}",
                        reason.unwrap_or("it does not say why")
                    )));
                }
                _ => std::thread::sleep(SAVE_INTERVAL),
            }
        }
    }
}
