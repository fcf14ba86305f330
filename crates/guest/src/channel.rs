//! Control messages and flow-controlled streams over one descriptor, in one thread.
//!
//! A stream has one sender, its [source](Channel::add_source), and one receiver, its
//! [sink](Channel::add_sink). The sender may send as many bytes as the receiver gave credit for;
//! the receiver gives new credit when it has passed bytes on. So a reader that stops stops its
//! own stream, and a stream costs at most [`WINDOW`] bytes of memory on each side.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::codec::Malformed;
use crate::frame::{Decoder, MAX_DATA, encode};
use crate::message::{Message, Payload, Stream};

/// Bytes that a sender may have sent and the receiver not passed on.
pub const WINDOW: u32 = 256 << 10;

/// Above this many bytes that the peer has not taken, no stream is read on.
const OUTGOING_HIGH_WATER: usize = 128 << 10;

/// Above this many bytes that the peer has not taken, nothing is read from it either: it asks and
/// does not listen.
const OUTGOING_LIMIT: usize = 4 << 20;

/// Why a channel is of no further use.
#[derive(Debug)]
pub enum ChannelError {
    /// The other side is gone.
    Closed,
    Malformed(Malformed),
    System(Errno),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => formatter.write_str("the other side closed the channel"),
            Self::Malformed(malformed) => malformed.fmt(formatter),
            Self::System(errno) => errno.fmt(formatter),
        }
    }
}

impl std::error::Error for ChannelError {}

impl From<Malformed> for ChannelError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What a turn of the channel brought.
#[derive(Debug)]
pub enum Event {
    /// A message that is not about a stream.
    Message(Message),
    /// A stream's source has ended, and the other side was told.
    SourceEnded(Stream),
    /// A stream's sender ended it, and all of it was passed on.
    SinkEnded(Stream),
    /// The descriptor at this place of the turn's `watched` is readable.
    Readable(usize),
}

#[derive(Debug)]
struct Source {
    descriptor: OwnedFd,
    credit: u32,
}

#[derive(Debug)]
struct Sink {
    /// `None` once nobody reads what is written: the rest is dropped, as a pipe would have it.
    descriptor: Option<OwnedFd>,
    buffer: VecDeque<u8>,
    /// What the sender may still send.
    allowed: u32,
    closing: bool,
}

/// One side of the channel.
#[derive(Debug)]
pub struct Channel {
    descriptor: OwnedFd,
    decoder: Decoder,
    outgoing: Vec<u8>,
    sent: usize,
    sources: BTreeMap<Stream, Source>,
    sinks: BTreeMap<Stream, Sink>,
}

enum Polled {
    Channel,
    Source(Stream),
    Sink,
    Watched(usize),
}

impl Channel {
    /// Takes a descriptor that does not block. `max_frame` is the longest frame to accept.
    pub fn new(descriptor: OwnedFd, max_frame: usize) -> Self {
        Self {
            descriptor,
            decoder: Decoder::new(max_frame),
            outgoing: Vec::new(),
            sent: 0,
            sources: BTreeMap::new(),
            sinks: BTreeMap::new(),
        }
    }

    /// Queues a message; it goes out in the next turn.
    pub fn send(&mut self, message: &Message) {
        if self.sent > 0 && self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        }
        encode(message, &mut self.outgoing);
    }

    /// Sends what is read from the descriptor (which does not block) as the stream.
    pub fn add_source(&mut self, stream: Stream, descriptor: OwnedFd) {
        self.sources.insert(
            stream,
            Source {
                descriptor,
                credit: WINDOW,
            },
        );
    }

    /// Writes what comes as the stream to the descriptor (which does not block).
    pub fn add_sink(&mut self, stream: Stream, descriptor: OwnedFd) {
        self.sinks.insert(
            stream,
            Sink {
                descriptor: Some(descriptor),
                buffer: VecDeque::new(),
                allowed: WINDOW,
                closing: false,
            },
        );
    }

    pub fn remove_source(&mut self, stream: Stream) {
        self.sources.remove(&stream);
    }

    pub fn remove_sink(&mut self, stream: Stream) {
        self.sinks.remove(&stream);
    }

    /// How many streams are still being received.
    pub fn sink_count(&self) -> usize {
        self.sinks.len()
    }

    /// Whether everything that was queued has been taken by the other side's transport.
    pub fn is_flushed(&self) -> bool {
        self.sent == self.outgoing.len()
    }

    /// Waits until something can be done, at most for `timeout`, and does it.
    ///
    /// # Errors
    /// If the other side is gone or broke the protocol.
    pub fn turn(
        &mut self,
        watched: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> Result<Vec<Event>, ChannelError> {
        let mut events = Vec::new();
        self.write_outgoing()?;
        let ready = self.wait(watched, timeout)?;
        let mut channel_ready = false;
        for polled in ready {
            match polled {
                Polled::Channel => channel_ready = true,
                Polled::Source(stream) => self.read_source(stream, &mut events),
                Polled::Sink => {}
                Polled::Watched(place) => events.push(Event::Readable(place)),
            }
        }
        if channel_ready {
            self.read_channel(&mut events)?;
        }
        self.flush_sinks(&mut events);
        self.write_outgoing()?;
        Ok(events)
    }

    fn wait(
        &self,
        watched: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> Result<Vec<Polled>, ChannelError> {
        let waiting = self.outgoing.len() - self.sent;
        let mut polled = Vec::new();
        let mut descriptors = Vec::new();
        let mut flags = PollFlags::empty();
        if waiting > 0 {
            flags |= PollFlags::OUT;
        }
        if waiting < OUTGOING_LIMIT {
            flags |= PollFlags::IN;
        }
        polled.push(Polled::Channel);
        descriptors.push(PollFd::new(&self.descriptor, flags));
        if waiting < OUTGOING_HIGH_WATER {
            for (stream, source) in &self.sources {
                if source.credit > 0 {
                    polled.push(Polled::Source(*stream));
                    descriptors.push(PollFd::new(&source.descriptor, PollFlags::IN));
                }
            }
        }
        for sink in self.sinks.values() {
            if let (false, Some(descriptor)) = (sink.buffer.is_empty(), &sink.descriptor) {
                polled.push(Polled::Sink);
                descriptors.push(PollFd::new(descriptor, PollFlags::OUT));
            }
        }
        for (place, descriptor) in watched.iter().enumerate() {
            polled.push(Polled::Watched(place));
            descriptors.push(PollFd::from_borrowed_fd(*descriptor, PollFlags::IN));
        }
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(ChannelError::System(errno)),
        }
        let ready = descriptors
            .iter()
            .map(|descriptor| !descriptor.revents().is_empty());
        Ok(polled
            .into_iter()
            .zip(ready)
            .filter_map(|(polled, ready)| ready.then_some(polled))
            .collect())
    }

    fn write_outgoing(&mut self) -> Result<(), ChannelError> {
        while self.sent < self.outgoing.len() {
            match rustix::io::write(&self.descriptor, &self.outgoing[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(ChannelError::System(errno)),
            }
        }
        if self.sent > OUTGOING_HIGH_WATER || self.sent == self.outgoing.len() {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    fn read_channel(&mut self, events: &mut Vec<Event>) -> Result<(), ChannelError> {
        let mut buffer = [0; 64 << 10];
        let count = match rustix::io::read(&self.descriptor, &mut buffer) {
            Ok(0) | Err(Errno::CONNRESET) => return Err(ChannelError::Closed),
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(ChannelError::System(errno)),
        };
        self.decoder.push(&buffer[..count]);
        while let Some(message) = self.decoder.take_message()? {
            match message {
                Message::Data { stream, bytes } => self.take_data(stream, &bytes.0)?,
                Message::Credit { stream, bytes } => {
                    if let Some(source) = self.sources.get_mut(&stream) {
                        source.credit = source.credit.saturating_add(bytes).min(WINDOW);
                    }
                }
                Message::Close { stream } => {
                    if let Some(sink) = self.sinks.get_mut(&stream) {
                        sink.closing = true;
                    }
                }
                other => events.push(Event::Message(other)),
            }
        }
        Ok(())
    }

    fn take_data(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), ChannelError> {
        // A sink may have been removed while the bytes were on their way.
        let Some(sink) = self.sinks.get_mut(&stream) else {
            return Ok(());
        };
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let over = Malformed("more data than there was credit for");
        sink.allowed = sink.allowed.checked_sub(count).ok_or(over)?;
        sink.buffer.extend(bytes);
        Ok(())
    }

    fn read_source(&mut self, stream: Stream, events: &mut Vec<Event>) {
        let Some(source) = self.sources.get_mut(&stream) else {
            return;
        };
        let mut buffer = [0; MAX_DATA];
        let most = MAX_DATA.min(source.credit as usize);
        match rustix::io::read(&source.descriptor, &mut buffer[..most]) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose last user is gone answers EIO; what else may fail is an end too.
            Ok(0) | Err(_) => {
                self.sources.remove(&stream);
                self.send(&Message::Close { stream });
                events.push(Event::SourceEnded(stream));
            }
            Ok(count) => {
                source.credit -= count as u32;
                self.send(&Message::Data {
                    stream,
                    bytes: Payload(buffer[..count].to_vec()),
                });
            }
        }
    }

    /// Passes on what the sinks hold, gives credit for it, and ends those that are done.
    fn flush_sinks(&mut self, events: &mut Vec<Event>) {
        let mut credits = Vec::new();
        self.sinks.retain(|stream, sink| {
            sink.write();
            let held = sink.buffer.len() as u32;
            let freed = WINDOW - held - sink.allowed;
            // Credit in large pieces: a frame for every write would double the traffic.
            if !sink.closing && freed >= WINDOW / 4 {
                sink.allowed += freed;
                credits.push((*stream, freed));
            }
            let ended = sink.closing && sink.buffer.is_empty();
            if ended {
                events.push(Event::SinkEnded(*stream));
            }
            !ended
        });
        for (stream, bytes) in credits {
            self.send(&Message::Credit { stream, bytes });
        }
    }
}

impl Sink {
    fn write(&mut self) {
        while !self.buffer.is_empty() {
            let Some(descriptor) = &self.descriptor else {
                self.buffer.clear();
                return;
            };
            let (front, _) = self.buffer.as_slices();
            match rustix::io::write(descriptor.as_fd(), front) {
                Ok(written) => {
                    self.buffer.drain(..written);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.descriptor = None,
            }
        }
    }
}
