//! What the daemon and a supervisor say to each other.
//!
//! One operation a connection: a [`Request`] as one line of JSON, a [`Reply`] as one line of JSON.
//! After a successful `Attach` or `Exec` the connection carries frames both ways: one byte of
//! [`Channel`], four bytes of length (big endian), the payload.

use std::io::{self, Read, Write};

use bulkhead_model::{Ending, Error, ErrorKind, ProcessSpec, Resources, Stats, TerminalSize};
use serde::{Deserialize, Serialize};

/// The longest payload of a frame, in bytes.
pub const FRAME_LIMIT: usize = 64 * 1024;
/// The longest request or reply line, in bytes.
pub const LINE_LIMIT: usize = 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Runs the workload.
    Start,
    /// Joins the workload's streams; stdin too if wanted. The last frame is an `Exit`.
    Attach {
        stdin: bool,
    },
    /// Runs one more process; the last frame is an `Exit`.
    Exec(Box<ProcessSpec>),
    Signal(i32),
    Resize(TerminalSize),
    Stats,
    Pause,
    Resume,
    Update(Box<Resources>),
    /// Answers when the workload has ended and the sandbox is deleted.
    Wait,
    /// Ends a sandbox that was created and never started.
    Discard,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Stats(Stats),
    Exited(Ending),
    /// The process runs, under this process id.
    Running(u32),
    Failed(Failure),
}

/// An error that crosses the process border.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    kind: String,
    pub message: String,
}

/// The first thing a supervisor says, on its stdout.
#[derive(Debug, Serialize, Deserialize)]
pub enum CreateReport {
    /// The sandbox is made; the process is its init or monitor.
    Created {
        pid: u32,
    },
    Failed(Failure),
}

const KINDS: [(ErrorKind, &str); 8] = [
    (ErrorKind::InvalidInput, "invalid-input"),
    (ErrorKind::NotFound, "not-found"),
    (ErrorKind::Conflict, "conflict"),
    (ErrorKind::CommandNotFound, "command-not-found"),
    (ErrorKind::CommandNotExecutable, "command-not-executable"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::Host, "host"),
    (ErrorKind::Channel, "channel"),
];

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let name = KINDS
            .iter()
            .find(|(kind, _)| *kind == error.kind())
            .map_or("host", |(_, name)| name);
        Self {
            kind: name.to_owned(),
            message: error.to_string(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = KINDS
            .iter()
            .find(|(_, name)| *name == failure.kind)
            .map_or(ErrorKind::Host, |(kind, _)| *kind);
        Error::new(kind, failure.message)
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// To the process. An empty payload is end of file.
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    /// A [`TerminalSize`] as JSON, to the process.
    Resize = 3,
    /// A signal's number as JSON, to the process.
    Signal = 4,
    /// An `ExitStatus` as JSON, from the process; the last frame.
    Exit = 5,
}

impl Channel {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Stdin,
            Self::Stdout,
            Self::Stderr,
            Self::Resize,
            Self::Signal,
            Self::Exit,
        ]
        .into_iter()
        .find(|channel| *channel as u8 == byte)
    }
}

/// The five bytes before a payload of `length` bytes.
pub fn frame_header(channel: Channel, length: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [channel as u8, a, b, c, d]
}

/// Reads a header.
///
/// # Errors
/// `Channel` if the channel is unknown or the length is over [`FRAME_LIMIT`].
pub fn parse_header(header: [u8; 5]) -> Result<(Channel, usize), Error> {
    let [channel, length @ ..] = header;
    let length = u32::from_be_bytes(length) as usize;
    match Channel::from_byte(channel) {
        Some(channel) if length <= FRAME_LIMIT => Ok((channel, length)),
        _ => Err(Error::channel(format!(
            "malformed frame (channel {channel}, {length} bytes)"
        ))),
    }
}

pub(crate) fn write_frame(
    out: &mut impl Write,
    channel: Channel,
    payload: &[u8],
) -> io::Result<()> {
    for chunk in payload.chunks(FRAME_LIMIT) {
        out.write_all(&frame_header(channel, chunk.len()))?;
        out.write_all(chunk)?;
    }
    Ok(())
}

/// Reads one frame; `None` at the end of the stream.
pub(crate) fn read_frame(input: &mut impl Read) -> Result<Option<(Channel, Vec<u8>)>, Error> {
    let mut header = [0; 5];
    match input.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(Error::channel("read a frame").with_source(error)),
    }
    let (channel, length) = parse_header(header)?;
    let mut payload = vec![0; length];
    input
        .read_exact(&mut payload)
        .map_err(|error| Error::channel("read a frame").with_source(error))?;
    Ok(Some((channel, payload)))
}

pub(crate) fn write_line(out: &mut impl Write, message: &impl Serialize) -> Result<(), Error> {
    let mut line = serde_json::to_vec(message)
        .map_err(|error| Error::channel("write a message").with_source(error))?;
    line.push(b'\n');
    out.write_all(&line)
        .map_err(|error| Error::channel("write a message").with_source(error))
}

/// Reads one line byte by byte, so that nothing of the frames behind it is taken away.
pub(crate) fn read_line(input: &mut impl Read) -> Result<Vec<u8>, Error> {
    let mut line = Vec::with_capacity(256);
    let mut byte = [0];
    loop {
        input
            .read_exact(&mut byte)
            .map_err(|error| Error::channel("read a message").with_source(error))?;
        if byte[0] == b'\n' {
            return Ok(line);
        }
        if line.len() == LINE_LIMIT {
            return Err(Error::channel(format!(
                "message longer than {LINE_LIMIT} bytes"
            )));
        }
        line.push(byte[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_crosses_the_border() {
        for (kind, _) in KINDS {
            let error = Error::from(Failure::from(&Error::new(kind, "why")));
            assert_eq!((error.kind(), error.to_string()), (kind, "why".to_owned()));
        }
    }

    #[test]
    fn frames_go_round_and_long_ones_are_split() {
        let payload = vec![7; FRAME_LIMIT + 1];
        let mut wire = Vec::new();
        write_frame(&mut wire, Channel::Stderr, &payload).expect("write");
        let mut input = wire.as_slice();
        let first = read_frame(&mut input).expect("first").expect("frame");
        assert_eq!((first.0, first.1.len()), (Channel::Stderr, FRAME_LIMIT));
        assert_eq!(
            read_frame(&mut input).expect("second"),
            Some((Channel::Stderr, vec![7]))
        );
        assert_eq!(read_frame(&mut input).expect("end"), None);
    }

    /// A daemon adopts the supervisors of the version before it.
    #[test]
    fn an_end_without_a_reason_is_read() {
        let reply = r#"{"Exited":{"code":3,"oom_killed":true}}"#;
        let Ok(Reply::Exited(ending)) = serde_json::from_str(reply) else {
            panic!("{reply}");
        };
        assert_eq!((ending.exit.code, ending.exit.oom_killed), (3, true));
        assert_eq!(ending.error, None);
    }

    #[test]
    fn malformed_frames_are_refused() {
        assert!(read_frame(&mut [9, 0, 0, 0, 0].as_slice()).is_err());
        assert!(read_frame(&mut [1, 255, 255, 255, 255].as_slice()).is_err());
        assert!(read_frame(&mut [1, 0, 0, 0, 4, 1].as_slice()).is_err());
    }
}
