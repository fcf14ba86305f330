//! A blocking connection to systemd's manager: its own socket, or the bus of the system or user.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use bulkhead_model::{Error, Result};

use crate::failure::Context;

use super::message::{Call, Message, Property, Reader, Writer, lengths};

/// How long systemd may take for a job.
const PATIENCE: Duration = Duration::from_secs(30);
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A connection on which one call is made at a time.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

/// Why a call failed: the name of systemd's error, and all of it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) name: String,
    pub(super) error: Error,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            name: String::new(),
            error,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl Bus {
    /// Connects to the manager of the system, or of the calling user.
    pub(super) fn connect(user: bool) -> Result<Self> {
        let mut failures = Vec::new();
        for (path, direct) in sockets(user) {
            match Self::at(&path, direct) {
                Ok(bus) => return Ok(bus),
                Err(error) => failures.push(format!("{}: {error}", path.display())),
            }
        }
        let hint = if user {
            " (for a user: install Debian's package dbus-user-session, and log in again)"
        } else {
            ""
        };
        Err(Error::host(format!(
            "failed to connect to dbus{hint}: {}",
            failures.join("; ")
        )))
    }

    fn at(path: &PathBuf, direct: bool) -> Result<Self> {
        let stream = UnixStream::connect(path).host(|| "connect".into())?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .host(|| "set a timeout".into())?;
        let mut bus = Self {
            stream,
            serial: 0,
            signals: Vec::new(),
        };
        bus.authenticate()?;
        if !direct {
            let bus_call = |member, signature, body| Call {
                destination: "org.freedesktop.DBus",
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member,
                signature,
                body,
            };
            bus.call(&bus_call("Hello", "", Writer::default()))?;
            let mut rule = Writer::default();
            rule.text(&format!(
                "type='signal',interface='{MANAGER}',member='JobRemoved'"
            ));
            bus.call(&bus_call("AddMatch", "s", rule))?;
            bus.manager("Subscribe", "", Writer::default())?;
        }
        Ok(bus)
    }

    /// The external mechanism: the kernel tells the other side who we are (D-Bus specification,
    /// "Authentication Protocol").
    fn authenticate(&mut self) -> Result<()> {
        let doing = || "authenticate".to_owned();
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hexadecimal: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        // All at once: where the end comes together with the first message, systemd reads both
        // and looks at the message when more comes.
        let line = format!("\0AUTH EXTERNAL {hexadecimal}\r\nBEGIN\r\n");
        self.stream.write_all(line.as_bytes()).host(doing)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).host(doing)?;
            answer.push(byte[0]);
            if answer.len() > 256 {
                return Err(Error::channel("the bus does not answer as one"));
            }
        }
        if !answer.starts_with(b"OK ") {
            let answer = String::from_utf8_lossy(&answer);
            return Err(Error::host(format!("the bus refuses: {}", answer.trim())));
        }
        Ok(())
    }

    /// Calls a method of the manager and gives the body of its answer.
    pub(super) fn manager(
        &mut self,
        member: &str,
        signature: &str,
        body: Writer,
    ) -> std::result::Result<Vec<u8>, Refusal> {
        self.call(&Call {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: MANAGER,
            member,
            signature,
            body,
        })
    }

    /// A property of the manager that is a string.
    pub(super) fn manager_text(&mut self, name: &str) -> Result<String> {
        let mut body = Writer::default();
        body.text(MANAGER);
        body.text(name);
        let answer = self.call(&Call {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            signature: "ss",
            body,
        })?;
        let mut reader = Reader::new(&answer);
        reader.signature()?;
        reader.text()
    }

    /// Calls a method that queues a job, and gives the job's result when it is done.
    pub(super) fn job(
        &mut self,
        member: &str,
        signature: &str,
        body: Writer,
    ) -> std::result::Result<String, Refusal> {
        let answer = self.manager(member, signature, body)?;
        let job = Reader::new(&answer).text()?;
        loop {
            let signal = match self.signals.pop() {
                Some(signal) => signal,
                None => self.receive()?,
            };
            if signal.kind != SIGNAL || signal.member != "JobRemoved" {
                continue;
            }
            let mut reader = Reader::new(&signal.body);
            let (_, path) = (reader.number()?, reader.text()?);
            let (_unit, result) = (reader.text()?, reader.text()?);
            if path == job {
                return Ok(result);
            }
        }
    }

    /// Sets properties of a unit for as long as it runs.
    pub(super) fn set_properties(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        body.boolean(true);
        body.properties(properties);
        self.manager("SetUnitProperties", "sba(sv)", body)?;
        Ok(())
    }

    fn call(&mut self, call: &Call<'_>) -> std::result::Result<Vec<u8>, Refusal> {
        self.serial += 1;
        self.stream
            .write_all(&call.encode(self.serial))
            .host(|| "send a message to systemd".into())?;
        loop {
            let message = self.receive()?;
            match message.kind {
                METHOD_RETURN if message.reply_to == self.serial => return Ok(message.body),
                ERROR if message.reply_to == self.serial => {
                    let text = Reader::new(&message.body).text().unwrap_or_default();
                    return Err(Refusal {
                        error: Error::host(format!(
                            "systemd refuses {}: {text} ({})",
                            call.member, message.error
                        )),
                        name: message.error,
                    });
                }
                SIGNAL => self.signals.push(message),
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let mut read = |buffer: &mut [u8]| {
            self.stream.read_exact(buffer).map_err(|error| {
                let text = match error.kind() {
                    ErrorKind::WouldBlock => "systemd does not answer within 30 seconds",
                    _ => "read from systemd",
                };
                Error::host(text).with_source(error)
            })
        };
        let mut start = [0; 16];
        read(&mut start)?;
        let (header, body) = lengths(&start)?;
        let mut all = vec![0; header + body];
        all[..16].copy_from_slice(&start);
        read(&mut all[16..])?;
        let body = all.split_off(header);
        Message::decode(&all, body)
    }
}

/// Where the manager listens, and whether it is the manager itself.
fn sockets(user: bool) -> Vec<(PathBuf, bool)> {
    if !user {
        return vec![
            ("/run/systemd/private".into(), true),
            ("/run/dbus/system_bus_socket".into(), false),
        ];
    }
    let mut sockets = Vec::new();
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    let path = address
        .strip_prefix("unix:path=")
        .and_then(|path| path.split([',', ';']).next());
    sockets.extend(path.map(|path| (PathBuf::from(path), false)));
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        sockets.push((runtime.join("systemd/private"), true));
        sockets.push((runtime.join("bus"), false));
    }
    sockets
}
