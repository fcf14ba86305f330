//! What a peer may send without harm: anything.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bulkhead_guest::channel::{ChannelError, WINDOW};
use bulkhead_guest::frame::{Decoder, MAX_DATA, MAX_FROM_GUEST, encode};
use bulkhead_guest::message::Payload;
use bulkhead_guest::{Channel, Event, Message, Reply, Request, Stream};
use bulkhead_model::{ProcessSpec, TerminalSize};

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.0 >> 24
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

fn messages() -> Vec<Message> {
    let spec = ProcessSpec {
        args: vec!["sh".into(), "-c".into(), "übung".into()],
        env: vec!["A=b".into()],
        cwd: "/".into(),
        user: "web:staff".into(),
        terminal: Some(TerminalSize {
            rows: 3,
            columns: 4,
        }),
        stdin: true,
        privileged: false,
    };
    vec![
        Message::Hello { version: 7 },
        Message::Configured {
            reply: Reply::Done {},
        },
        Message::Request {
            id: 1,
            request: Request::Exec { process: 2, spec },
        },
        Message::Request {
            id: 2,
            request: Request::Signal {
                process: 2,
                signal: -1,
            },
        },
        Message::Reply {
            id: 1,
            reply: Reply::Started { pid: 9 },
        },
        Message::Reply {
            id: 2,
            reply: Reply::Failed {
                kind: 200,
                message: "no".into(),
            },
        },
        Message::Exited {
            process: 1,
            code: 137,
            oom_killed: true,
        },
        Message::Data {
            stream: Stream::stdout(1),
            bytes: Payload(vec![1; 1000]),
        },
        Message::Credit {
            stream: Stream::stdin(1),
            bytes: u32::MAX,
        },
        Message::Close {
            stream: Stream::stderr(1),
        },
    ]
}

/// Feeds the bytes in pieces, and gives the messages until the end or the first error.
fn decode(bytes: &[u8], piece: usize) -> Vec<Message> {
    let mut decoder = Decoder::new(MAX_FROM_GUEST);
    let mut decoded = Vec::new();
    for piece in bytes.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.take_message() {
                Ok(Some(message)) => decoded.push(message),
                Ok(None) => break,
                Err(_) => return decoded,
            }
        }
    }
    decoded
}

#[test]
fn every_message_survives_the_wire_in_pieces_of_any_size() {
    let mut bytes = Vec::new();
    for message in messages() {
        encode(&message, &mut bytes);
    }
    for piece in [1, 2, 3, 5, 100, bytes.len()] {
        assert_eq!(decode(&bytes, piece), messages());
    }
}

#[test]
fn random_and_damaged_bytes_are_answered_with_errors_at_most() {
    let mut numbers = Numbers(1);
    for _ in 0..20_000 {
        let count = numbers.below(64);
        decode(&numbers.bytes(count), 7);
    }
    let mut good = Vec::new();
    for message in messages() {
        encode(&message, &mut good);
    }
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=numbers.below(4) {
            let place = numbers.below(bytes.len());
            bytes[place] = numbers.next() as u8;
        }
        bytes.truncate(numbers.below(bytes.len() + 1));
        decode(&bytes, 50);
    }
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    // A frame that claims 4 GiB, and a list in a small frame that claims 4 billion entries.
    let mut decoder = Decoder::new(MAX_FROM_GUEST);
    decoder.push(&[0xff; 8]);
    assert!(decoder.take_message().is_err());
    let mut bytes = Vec::new();
    encode(&messages()[2], &mut bytes);
    let arguments = 4 + 1 + 4 + 1 + 4;
    bytes[arguments..arguments + 4].copy_from_slice(&[0xff; 4]);
    assert!(decode(&bytes, 1000).is_empty());
}

fn channel() -> (Channel, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Channel::new(OwnedFd::from(ours), MAX_FROM_GUEST), theirs)
}

fn pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    (reader, writer)
}

fn turn(channel: &mut Channel) -> Result<Vec<Event>, ChannelError> {
    channel.turn(&[], Some(Duration::from_millis(200)))
}

fn data(stream: Stream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(
        &Message::Data {
            stream,
            bytes: Payload(vec![7; count]),
        },
        &mut bytes,
    );
    bytes
}

#[test]
fn more_data_than_credit_ends_the_channel() {
    let (mut channel, mut peer) = channel();
    let (_reader, writer) = pipe();
    channel.add_sink(Stream(1), writer);
    // The pipe takes 64 KiB and nobody reads it; the window is used up soon after.
    let mut result = Ok(Vec::new());
    let mut sent = 0;
    while result.is_ok() && sent < 4 * WINDOW as usize {
        peer.write_all(&data(Stream(1), MAX_DATA)).unwrap();
        sent += MAX_DATA;
        result = turn(&mut channel);
    }
    assert!(
        matches!(result, Err(ChannelError::Malformed(_))),
        "{result:?} after {sent}"
    );
}

#[test]
fn data_of_streams_that_nobody_has_is_dropped() {
    let (mut channel, mut peer) = channel();
    for _ in 0..100 {
        peer.write_all(&data(Stream(42), MAX_DATA)).unwrap();
        turn(&mut channel).unwrap();
    }
    assert_eq!(channel.sink_count(), 0);
}

#[test]
fn a_reader_that_stops_stops_its_own_stream_only() {
    let (mut channel, mut peer) = channel();
    let (_stopped, stopped_writer) = pipe();
    let (mut other, other_writer) = pipe();
    channel.add_sink(Stream(1), stopped_writer);
    channel.add_sink(Stream(2), other_writer);
    for _ in 0..WINDOW as usize / MAX_DATA {
        peer.write_all(&data(Stream(1), MAX_DATA)).unwrap();
        while turn(&mut channel).unwrap().is_empty() && peer_is_ahead(&peer) {}
    }
    peer.write_all(&data(Stream(2), 10)).unwrap();
    turn(&mut channel).unwrap();
    turn(&mut channel).unwrap();
    let mut bytes = [0; 10];
    other.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [7; 10]);
}

/// Whether the channel has not yet read all that the peer wrote.
fn peer_is_ahead(peer: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut descriptors = [PollFd::new(peer, PollFlags::OUT)];
    poll(&mut descriptors, Some(&Timespec::default())).unwrap() == 0
}

#[test]
fn a_source_sends_no_more_than_its_credit() {
    let (mut channel, mut peer) = channel();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let reader = OwnedFd::from(reader);
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    channel.add_source(Stream(4), reader);
    let feeder = std::thread::spawn(move || writer.write_all(&vec![1; 2 * WINDOW as usize]));
    let receiver = std::thread::spawn(move || {
        let mut decoder = Decoder::new(MAX_FROM_GUEST);
        let mut buffer = [0; 4096];
        let mut received = 0;
        let mut credited = false;
        while received < 2 * WINDOW as usize {
            let count = peer.read(&mut buffer).unwrap();
            decoder.push(&buffer[..count]);
            while let Some(message) = decoder.take_message().unwrap() {
                let Message::Data { bytes, .. } = message else {
                    panic!("{message:?}")
                };
                received += bytes.0.len();
            }
            assert!(credited || received <= WINDOW as usize);
            if received == WINDOW as usize && !credited {
                credited = true;
                let mut bytes = Vec::new();
                encode(
                    &Message::Credit {
                        stream: Stream(4),
                        bytes: WINDOW,
                    },
                    &mut bytes,
                );
                peer.write_all(&bytes).unwrap();
            }
        }
    });
    while !receiver.is_finished() {
        if turn(&mut channel).is_err() {
            break;
        }
    }
    receiver.join().unwrap();
    feeder.join().unwrap().unwrap();
}
