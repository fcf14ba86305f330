//! Published ports: what they are, whether one is free, and who has it otherwise.

use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;

use bulkhead_model::{Error, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::nftables::published_ports;

/// The longest owner that a rule's comment (at most 127 bytes) has room for.
const OWNER_LENGTH: usize = 50;
/// How often another free port is tried for.
const FREE_PORT_ATTEMPTS: usize = 64;

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            other => Err(Error::invalid(format!(
                "unknown protocol '{other}' of a port: use 'tcp' or 'udp'"
            ))),
        }
    }
}

/// A port of the host that leads to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// `0.0.0.0` is every address of the host.
    pub host_ip: Ipv4Addr,
    pub host_port: u16,
    pub target: Ipv4Addr,
    pub target_port: u16,
    pub protocol: Protocol,
    /// The sandbox's name, for messages about conflicts.
    pub owner: String,
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}/{}",
            self.host_ip, self.host_port, self.protocol
        )
    }
}

impl PublishedPort {
    /// Whether both cannot be published at once.
    pub fn collides(&self, other: &PublishedPort) -> bool {
        self.host_port == other.host_port
            && self.protocol == other.protocol
            && addresses_meet(self.host_ip, other.host_ip)
    }

    pub(crate) fn record(&self, word: &str) -> String {
        format!(
            "{word} {} {} {} {} {} {}",
            self.protocol, self.host_ip, self.host_port, self.target, self.target_port, self.owner
        )
    }

    pub(crate) fn from_record(record: &str) -> Option<Self> {
        let mut words = record.splitn(7, ' ').skip(1);
        Some(Self {
            protocol: words.next()?.parse().ok()?,
            host_ip: words.next()?.parse().ok()?,
            host_port: words.next()?.parse().ok()?,
            target: words.next()?.parse().ok()?,
            target_port: words.next()?.parse().ok()?,
            owner: words.next()?.to_owned(),
        })
    }

    /// The port as a rule's comment can hold it: the owner shortened, and nothing in it that ends
    /// a quoted string.
    pub(crate) fn recorded(&self) -> Self {
        let owner = self
            .owner
            .chars()
            .filter(|letter| letter.is_ascii_graphic() && *letter != '"' && *letter != '\\')
            .take(OWNER_LENGTH)
            .collect();
        Self {
            owner,
            ..self.clone()
        }
    }
}

/// Checks that nobody on the host listens on the port and no network publishes it.
///
/// # Errors
/// `Conflict` with the port and its owner; `InvalidInput` if the host does not have the address.
pub fn check_port_free(ip: Ipv4Addr, port: u16, protocol: Protocol) -> Result<()> {
    let wanted = PublishedPort {
        host_ip: ip,
        host_port: port,
        target: Ipv4Addr::UNSPECIFIED,
        target_port: 0,
        protocol,
        owner: String::new(),
    };
    if let Some((_, other)) = published_ports()?
        .iter()
        .find(|(_, other)| other.collides(&wanted))
    {
        return Err(Error::conflict(format!(
            "port {wanted} is already published by sandbox '{}': stop it or choose another port",
            other.owner
        )));
    }
    let address = SocketAddrV4::new(ip, port);
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    bound.map_err(|error| bind_error(&wanted, error))
}

/// A port of the host that is free now, from the kernel's range for such ports.
///
/// # Errors
/// `Conflict` if none was found; `InvalidInput` if the host does not have the address.
pub fn free_port(ip: Ipv4Addr, protocol: Protocol) -> Result<u16> {
    let published = published_ports()?;
    let mut wanted = PublishedPort {
        host_ip: ip,
        host_port: 0,
        target: Ipv4Addr::UNSPECIFIED,
        target_port: 0,
        protocol,
        owner: String::new(),
    };
    for _ in 0..FREE_PORT_ATTEMPTS {
        let address = SocketAddrV4::new(ip, 0);
        let bound = match protocol {
            Protocol::Tcp => TcpListener::bind(address).and_then(|socket| socket.local_addr()),
            Protocol::Udp => UdpSocket::bind(address).and_then(|socket| socket.local_addr()),
        };
        wanted.host_port = bound.map_err(|error| bind_error(&wanted, error))?.port();
        if !published.iter().any(|(_, other)| other.collides(&wanted)) {
            return Ok(wanted.host_port);
        }
    }
    Err(Error::conflict(format!(
        "no free {protocol} port found on {ip}: name one in the configuration"
    )))
}

/// Takes the port for as long as the descriptor is open, so that no other program can listen where
/// the kernel sends packets to a sandbox. Nothing is ever received on it.
///
/// # Errors
/// As [`check_port_free`].
pub fn hold_port(ip: Ipv4Addr, port: u16, protocol: Protocol) -> Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let failed = |error: Errno| {
        let wanted = PublishedPort {
            host_ip: ip,
            host_port: port,
            target: Ipv4Addr::UNSPECIFIED,
            target_port: 0,
            protocol,
            owner: String::new(),
        };
        bind_error(&wanted, error.into())
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)
        .map_err(failed)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(ip, port)).map_err(failed)?;
    Ok(socket)
}

fn bind_error(wanted: &PublishedPort, error: std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            let owner = match port_owner(wanted.host_ip, wanted.host_port, wanted.protocol) {
                Some((pid, name)) => format!("{name} (process {pid})"),
                None => "another program".to_owned(),
            };
            Error::conflict(format!(
                "port {wanted} is in use by {owner}: stop it or choose another port"
            ))
        }
        Some(libc::EADDRNOTAVAIL) => Error::invalid(format!(
            "port {wanted}: this host has no address {}",
            wanted.host_ip
        )),
        _ => Error::host(format!("check whether port {wanted} is free")).with_source(error),
    }
}

/// The process that has a socket on the port: its id and name.
pub fn port_owner(ip: Ipv4Addr, port: u16, protocol: Protocol) -> Option<(u32, String)> {
    let mut inodes = HashSet::new();
    for suffix in ["", "6"] {
        let path = format!("/proc/thread-self/net/{protocol}{suffix}");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        inodes.extend(
            text.lines()
                .skip(1)
                .filter_map(|line| socket_inode(line, ip, port, protocol)),
        );
    }
    inodes.remove("0");
    if inodes.is_empty() {
        return None;
    }
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if has_socket(&entry.path(), &inodes) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

fn has_socket(process: &Path, inodes: &HashSet<String>) -> bool {
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
        target
            .to_str()
            .and_then(|target| target.strip_prefix("socket:["))
            .and_then(|target| target.strip_suffix(']'))
            .is_some_and(|inode| inodes.contains(inode))
    })
}

/// The inode of a line of `/proc/net/{tcp,udp}[6]` if that socket is in the way. Addresses are
/// hexadecimal words in the host's byte order.
fn socket_inode(line: &str, ip: Ipv4Addr, port: u16, protocol: Protocol) -> Option<String> {
    const TCP_LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, local_port) = fields.get(1)?.split_once(':')?;
    if u16::from_str_radix(local_port, 16).ok()? != port {
        return None;
    }
    // A socket that only connected from the port is passed over: a listener explains more.
    if protocol == Protocol::Tcp && *fields.get(3)? != TCP_LISTEN && *fields.get(3)? != "07" {
        return None;
    }
    // The last word of an IPv6 address is the IPv4 address where it is mapped, or zero.
    let word = u32::from_str_radix(address.get(address.len().checked_sub(8)?..)?, 16).ok()?;
    let local = Ipv4Addr::from(word.to_ne_bytes());
    addresses_meet(local, ip).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
}

fn addresses_meet(one: Ipv4Addr, other: Ipv4Addr) -> bool {
    one == other || one.is_unspecified() || other.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: [u8; 4], host_port: u16, protocol: Protocol) -> PublishedPort {
        PublishedPort {
            host_ip: ip.into(),
            host_port,
            target: Ipv4Addr::new(10, 210, 0, 2),
            target_port: 80,
            protocol,
            owner: "shop-web-1".into(),
        }
    }

    #[test]
    fn a_record_is_read_back() {
        let port = port([127, 0, 0, 1], 8080, Protocol::Udp);
        assert_eq!(PublishedPort::from_record(&port.record("port")), Some(port));
        for wrong in [
            "",
            "port",
            "port tcp 1 2 3",
            "port icmp 0.0.0.0 1 1.1.1.1 1 x",
        ] {
            assert_eq!(PublishedPort::from_record(wrong), None);
        }
    }

    #[test]
    fn an_owner_cannot_break_out_of_its_quotes() {
        let mut port = port([0; 4], 1, Protocol::Tcp);
        port.owner = format!("a\" ; flush ruleset\\\n{}", "x".repeat(200));
        let recorded = port.recorded();
        assert!(recorded.owner.starts_with("a;flushruleset"));
        assert!(recorded.record("port").len() <= 127);
    }

    #[test]
    fn ports_collide_where_addresses_meet() {
        let every = port([0; 4], 80, Protocol::Tcp);
        assert!(every.collides(&port([127, 0, 0, 1], 80, Protocol::Tcp)));
        assert!(!every.collides(&port([127, 0, 0, 1], 80, Protocol::Udp)));
        assert!(!every.collides(&port([127, 0, 0, 1], 81, Protocol::Tcp)));
        let one = port([127, 0, 0, 1], 80, Protocol::Tcp);
        assert!(!one.collides(&port([10, 0, 0, 1], 80, Protocol::Tcp)));
    }
}
