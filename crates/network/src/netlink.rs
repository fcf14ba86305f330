//! Netlink messages and sockets: just enough of `netlink(7)` to build requests, wait for their
//! acknowledgements and read dumps.
//!
//! Invariant: what comes from the kernel is read with bounds checks only; a short or odd message
//! ends the walk instead of panicking.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink,
};

pub const NLM_F_REQUEST: u16 = 0x01;
pub const NLM_F_ACK: u16 = 0x04;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_LENGTH: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// The kernel's dumps come in parts of at most 32 KiB.
const RECEIVE_BUFFER_LENGTH: usize = 64 * 1024;

/// A request under construction.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes }
    }

    /// Appends raw bytes: the fixed header of a message's family.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.push_raw(bytes);
        self
    }

    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.push_attribute(kind, value);
        self
    }

    pub fn push_attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Appends a zero-terminated string.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute that holds what `fill` appends.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.push_attribute(kind | NLA_F_NESTED, &[]);
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(mut self, sequence: u32, extra_flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | extra_flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A message from the kernel: its type and what follows the netlink header.
#[derive(Debug)]
pub struct Reply {
    pub payload: Vec<u8>,
}

/// A netlink socket; it stays in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub fn route() -> io::Result<Self> {
        // `NETLINK_ROUTE` is protocol 0.
        Self::open(None)
    }

    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let descriptor = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self {
            descriptor,
            sequence: 0,
        })
    }

    /// Sends a request and waits for the kernel's acknowledgement.
    ///
    /// # Errors
    /// The error number with which the kernel answered.
    pub fn request(&mut self, message: Message) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK).map(drop)
    }

    /// Sends a request that is answered by one message, or none.
    pub fn get(&mut self, message: Message) -> io::Result<Option<Reply>> {
        Ok(self.exchange(message, NLM_F_ACK)?.into_iter().next())
    }

    /// Sends a request that is answered by any number of messages.
    pub fn dump(&mut self, message: Message) -> io::Result<Vec<Reply>> {
        self.exchange(message, NLM_F_DUMP)
    }

    fn exchange(&mut self, message: Message, flags: u16) -> io::Result<Vec<Reply>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence, flags);
        rustix::net::send(&self.descriptor, &bytes, SendFlags::empty())?;
        let mut replies = Vec::new();
        let mut buffer = vec![0u8; RECEIVE_BUFFER_LENGTH];
        loop {
            let received = match rustix::net::recv(
                &self.descriptor,
                buffer.as_mut_slice(),
                RecvFlags::empty(),
            ) {
                Ok((received, _)) => received,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = &buffer[..received];
            while let Some((header, payload, next)) = split_message(rest) {
                rest = next;
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    NLMSG_DONE => return Ok(replies),
                    NLMSG_ERROR => {
                        let code = number(payload).unwrap_or(0).cast_signed();
                        return match code {
                            0 => Ok(replies),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => replies.push(Reply {
                        payload: payload.to_vec(),
                    }),
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    sequence: u32,
}

fn split_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = number(bytes)? as usize;
    if length < HEADER_LENGTH || length > bytes.len() {
        return None;
    }
    let header = Header {
        kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
        sequence: number(&bytes[8..])?,
    };
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((header, &bytes[HEADER_LENGTH..length], &bytes[next..]))
}

/// Walks the attributes that follow a family's fixed header.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & NLA_TYPE_MASK;
        if length < 4 || length > rest.len() {
            return None;
        }
        let value = &rest[4..length];
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some((kind, value))
    })
}

/// Reads a number in the host's byte order from the start of `bytes`.
pub fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// Reads a string up to its terminating zero.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_are_read_back() {
        let message = Message::new(16, 0)
            .nest(18, |inner| inner.text(1, "veth").number(2, 7))
            .text(3, "eth0");
        let bytes = message.finish(1, NLM_F_ACK);
        let found: Vec<_> = attributes(&bytes[HEADER_LENGTH..]).collect();
        assert_eq!(found.len(), 2);
        let inner: Vec<_> = attributes(found[0].1).collect();
        assert_eq!(text(inner[0].1), "veth");
        assert_eq!(number(inner[1].1), Some(7));
        assert_eq!((found[1].0, text(found[1].1).as_str()), (3, "eth0"));
    }

    #[test]
    fn odd_attributes_end_the_walk() {
        for bytes in [
            &[][..],
            &[1],
            &[0, 0, 0, 0],
            &[200, 0, 1, 0, 9],
            &[3, 0, 1, 0],
        ] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
