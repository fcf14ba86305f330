//! Requests to the kernel's routing tables (rtnetlink(7)): as much of it as moving a network
//! device takes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_GETADDR: u16 = 22;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

/// A socket of the network namespace that it was made in, wherever the process goes.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn new() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is zero.
            None,
        )?;
        Ok(Self(socket))
    }

    /// The number of the device of this name.
    pub(crate) fn index(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.0, name)?)
    }

    /// Sends one message and waits for the kernel's answer.
    pub(crate) fn request(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, flags | NLM_F_ACK, body)?;
        self.answers().map(drop)
    }

    /// The bodies of all that the kernel has of a kind.
    pub(crate) fn dump(&self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.send(kind, NLM_F_DUMP, body)?;
        self.answers()
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        // One request at a time needs no number, and the kernel knows the sender.
        message.extend([0; 8]);
        message.extend(body);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.0, &message, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    fn answers(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut bodies = Vec::new();
        let mut buffer = vec![0; 32 << 10];
        loop {
            let (length, _) = recv(&self.0, &mut buffer, RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = message(rest) {
                match kind {
                    NLMSG_DONE => return Ok(bodies),
                    NLMSG_ERROR => {
                        let code = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
                        return match code {
                            0 => Ok(bodies),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => bodies.push(body.to_vec()),
                }
                rest = next;
            }
        }
    }
}

/// The first message: its kind, its body, and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// Appends an attribute (`struct rtattr`).
pub(crate) fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The attributes that follow the fixed part of a message.
pub(crate) fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some((kind, value, next)) = attribute(bytes) {
        found.push((kind, value));
        bytes = next;
    }
    found
}

fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
    let value = bytes.get(4..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, value, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut body = Vec::new();
        push_attribute(&mut body, 3, b"eth0\0");
        push_attribute(&mut body, 28, &7_u32.to_ne_bytes());
        assert_eq!(body.len(), 12 + 8);
        assert_eq!(
            attributes(&body),
            [(3, b"eth0\0".as_slice()), (28, &7_u32.to_ne_bytes())]
        );
        // Malformed ones end the list.
        assert_eq!(attributes(&[2, 0, 1, 0]), []);
        assert_eq!(attributes(&[200, 0, 1, 0]), []);
        assert_eq!(attributes(&[1]), []);
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::new().expect("socket");
        let index = socket.index("lo").expect("lo");
        let links = socket.dump(RTM_GETLINK, &[0; 16]).expect("links");
        let found = |body: &Vec<u8>| body[4..8] == index.to_ne_bytes();
        assert!(links.iter().any(found));
        let error = socket.request(RTM_NEWLINK, 0, &[0; 16]);
        assert!(error.is_err());
        assert!(socket.index("no-such-device").is_err());
    }
}
