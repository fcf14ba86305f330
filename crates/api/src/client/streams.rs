//! Answers that arrive bit by bit.

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{Error, Result};
use crate::multiplex::{Chunk, Decoder, Stream};

/// One JSON value a line.
#[derive(Debug)]
pub struct JsonLines<T> {
    request: String,
    body: Incoming,
    received: BytesMut,
    /// How much of `received` is known to have no line end.
    searched: usize,
    ended: bool,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    pub(super) fn new(request: String, body: Incoming) -> Self {
        Self {
            request,
            body,
            received: BytesMut::new(),
            searched: 0,
            ended: false,
            value: PhantomData,
        }
    }

    /// The next value; `None` at the end. May be dropped while it waits, without a loss.
    ///
    /// # Errors
    /// [`Error::Lost`] if the daemon went away, [`Error::Malformed`] if a line is no such value.
    pub async fn next(&mut self) -> Result<Option<T>> {
        loop {
            while let Some(line) = self.take_line() {
                if !line.trim_ascii().is_empty() {
                    return match serde_json::from_slice(&line) {
                        Ok(value) => Ok(Some(value)),
                        Err(source) => Err(Error::Malformed {
                            request: self.request.clone(),
                            source: source.into(),
                        }),
                    };
                }
            }
            if self.ended {
                return Ok(None);
            }
            match next_data(&mut self.body).await? {
                Some(data) => self.received.extend_from_slice(&data),
                None => self.ended = true,
            }
        }
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        let end = self.received[self.searched..]
            .iter()
            .position(|&byte| byte == b'\n');
        match end {
            Some(end) => {
                let line = self.received.split_to(self.searched + end + 1);
                self.searched = 0;
                Some(line)
            }
            // The last line need not have an end.
            None if self.ended && !self.received.is_empty() => {
                self.searched = 0;
                Some(std::mem::take(&mut self.received))
            }
            None => {
                self.searched = self.received.len();
                None
            }
        }
    }
}

async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(source)) => return Err(Error::lost(source)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// What a process writes, from an answer's body or a connection that was taken over.
#[derive(Debug)]
pub struct Output {
    source: Source,
    /// `None` for a process with a terminal: all of it is stdout.
    decoder: Option<Decoder>,
}

#[derive(Debug)]
enum Source {
    Body(Incoming),
    Connection {
        reader: ReadHalf<TokioIo<Upgraded>>,
        buffer: BytesMut,
    },
}

impl Output {
    pub(super) fn from_body(body: Incoming, terminal: bool) -> Self {
        Self {
            source: Source::Body(body),
            decoder: (!terminal).then(Decoder::default),
        }
    }

    /// The next piece; `None` at the end. May be dropped while it waits, without a loss.
    ///
    /// # Errors
    /// [`Error::Lost`] if the daemon went away, [`Error::Malformed`] if the framing is wrong.
    pub async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                match decoder.next_chunk() {
                    Ok(Some(chunk)) => return Ok(Some(chunk)),
                    Ok(None) => {}
                    Err(source) => {
                        return Err(Error::Malformed {
                            request: "the request for a process's output".into(),
                            source: source.into(),
                        });
                    }
                }
            }
            let Some(data) = self.receive().await? else {
                return Ok(None);
            };
            match &mut self.decoder {
                Some(decoder) => decoder.push(&data),
                None => {
                    let stream = Stream::Stdout;
                    return Ok(Some(Chunk { stream, data }));
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>> {
        match &mut self.source {
            Source::Body(body) => next_data(body).await,
            Source::Connection { reader, buffer } => {
                buffer.reserve(32 << 10);
                match reader.read_buf(buffer).await {
                    Ok(0) => Ok(None),
                    Ok(_) => Ok(Some(buffer.split().freeze())),
                    Err(source) => Err(Error::lost(source)),
                }
            }
        }
    }
}

/// The way to a process's stdin.
#[derive(Debug)]
pub struct Input {
    writer: WriteHalf<TokioIo<Upgraded>>,
}

impl Input {
    /// # Errors
    /// [`Error::Lost`] if the process or the daemon no longer reads.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        self.writer.write_all(data).await.map_err(Error::lost)?;
        self.writer.flush().await.map_err(Error::lost)
    }

    /// End of file. Output still arrives afterwards.
    ///
    /// # Errors
    /// [`Error::Lost`] if the daemon is gone.
    pub async fn close(&mut self) -> Result<()> {
        self.writer.shutdown().await.map_err(Error::lost)
    }
}

/// A connection that belongs to a process: its stdin one way, its output the other.
#[derive(Debug)]
pub struct Hijacked {
    pub input: Input,
    pub output: Output,
}

impl Hijacked {
    pub(super) fn new(connection: TokioIo<Upgraded>, terminal: bool) -> Self {
        let (reader, writer) = tokio::io::split(connection);
        Self {
            input: Input { writer },
            output: Output {
                source: Source::Connection {
                    reader,
                    buffer: BytesMut::new(),
                },
                decoder: (!terminal).then(Decoder::default),
            },
        }
    }
}
