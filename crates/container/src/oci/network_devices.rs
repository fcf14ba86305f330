//! Moves network devices of the host into the container (config-linux.md, "Network Devices").
//!
//! Invariant: a device is renamed and moved in one step, so that its name on the host is never
//! another's; its permanent global addresses and its state are set in the container.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use bulkhead_model::{Error, Result};
use rustix::fs::{Mode, OFlags};

use crate::failure::Context;
use crate::netlink::{
    NLM_F_CREATE, NLM_F_EXCL, RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK, Socket,
    attributes, push_attribute,
};
use crate::sys;

use super::config::NetDevice;

type Devices = BTreeMap<String, NetDevice>;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
/// The length of `struct ifinfomsg` and of `struct ifaddrmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// # Errors
/// Names the device that cannot be moved, before anything is made.
pub(super) fn check(devices: &Devices, has_network_namespace: bool) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    if !has_network_namespace {
        return Err(Error::invalid(
            "linux.netDevices: unable to move network devices without a network namespace in \
             linux.namespaces",
        ));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::unsupported(
            "linux.netDevices: network devices are not supported for rootless containers",
        ));
    }
    for (name, device) in devices {
        let new = Some(&device.name).filter(|new| !new.is_empty());
        for (field, given) in [("", Some(name)), (".name", new)] {
            if let Some(odd) = given.filter(|given| !is_name(given)) {
                return Err(Error::invalid(format!(
                    "linux.netDevices.{name}{field}: invalid network device name '{odd}'"
                )));
            }
        }
    }
    Ok(())
}

/// As the kernel takes it (`dev_valid_name`).
fn is_name(name: &str) -> bool {
    let odd = |character: char| matches!(character, '/' | ':') || character.is_whitespace();
    (1..libc::IFNAMSIZ).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(odd)
        && !name.contains('\0')
}

/// Moves the devices into the network namespace of this process, which waits. Legal in a process
/// with one thread.
pub(super) fn move_all(devices: &Devices, pid: u32) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let doing = || "linux.netDevices: reach the container's network namespace".to_owned();
    let open = |path: &str| {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).host(doing)
    };
    let (own, theirs) = (
        open("/proc/self/ns/net")?,
        open(&format!("/proc/{pid}/ns/net"))?,
    );
    let host = Socket::new().host(doing)?;
    sys::setns(theirs.as_fd(), libc::CLONE_NEWNET).host(doing)?;
    let container = Socket::new();
    sys::setns(own.as_fd(), libc::CLONE_NEWNET).host(doing)?;
    let container = container.host(doing)?;
    for (name, device) in devices {
        let target = Some(device.name.as_str()).filter(|name| !name.is_empty());
        move_one(&host, &container, &theirs, name, target.unwrap_or(name))
            .map_err(|error| within(name, error))?;
    }
    Ok(())
}

fn within(name: &str, error: Error) -> Error {
    Error::new(error.kind(), format!("linux.netDevices.{name}")).with_source(error)
}

fn move_one(
    host: &Socket,
    container: &Socket,
    namespace: &OwnedFd,
    name: &str,
    target: &str,
) -> Result<()> {
    let index = host
        .index(name)
        .host(|| "there is no such network device on the host".into())?;
    // IPv6 addresses are gone when the device is down.
    let addresses = addresses(host, index).host(|| "read the addresses".into())?;
    let before = links(container).host(|| "list the devices of the container".into())?;
    set_up(host, index, false).host(|| "set the device down".into())?;
    let mut body = link(index, 0, 0);
    push_attribute(&mut body, IFLA_IFNAME, &[target.as_bytes(), b"\0"].concat());
    let namespace = namespace.as_raw_fd() as u32;
    push_attribute(&mut body, IFLA_NET_NS_FD, &namespace.to_ne_bytes());
    host.request(RTM_NEWLINK, 0, &body)
        .host(|| format!("move the device to the container as '{target}'"))?;

    let moved = if target.contains('%') {
        let after = links(container).host(|| "list the devices of the container".into())?;
        let mut new = after.difference(&before).copied();
        new.next()
            .ok_or_else(|| Error::host("the device is not in the container"))?
    } else {
        container
            .index(target)
            .host(|| "find the device in the container".into())?
    };
    for address in addresses {
        let body = address.body(moved);
        container
            .request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body)
            .host(|| "set an address of the device".into())?;
    }
    set_up(container, moved, true).host(|| "set the device up".into())
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for number in [index, flags, change] {
        body.extend(number.to_ne_bytes());
    }
    body
}

fn set_up(socket: &Socket, index: u32, up: bool) -> io::Result<()> {
    let bit = libc::IFF_UP as u32;
    socket.request(RTM_NEWLINK, 0, &link(index, if up { bit } else { 0 }, bit))
}

fn links(socket: &Socket) -> io::Result<BTreeSet<u32>> {
    let links = socket.dump(RTM_GETLINK, &[0; LINK])?;
    Ok(links.iter().filter_map(|body| number(body, 4)).collect())
}

/// An address with what it is made of.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    family: u8,
    prefix: u8,
    parts: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// `None` for one that is another device's, or that is not to be kept.
    fn of(body: &[u8], index: u32) -> Option<Self> {
        let &[family, prefix, flags, scope] = body.first_chunk()?;
        if number(body, 4)? != index || scope != RT_SCOPE_UNIVERSE {
            return None;
        }
        let all = attributes(body.get(ADDRESS..)?);
        let flags = all
            .iter()
            .find(|(kind, _)| *kind == IFA_FLAGS)
            .and_then(|(_, value)| number(value, 0))
            .unwrap_or(flags.into());
        if flags & IFA_F_PERMANENT == 0 {
            return None;
        }
        let parts = all
            .into_iter()
            .filter(|(kind, _)| matches!(*kind, IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST))
            .map(|(kind, value)| (kind, value.to_vec()))
            .collect();
        Some(Self {
            family,
            prefix,
            parts,
        })
    }

    /// `struct ifaddrmsg` with its attributes.
    fn body(&self, index: u32) -> Vec<u8> {
        let mut body = vec![self.family, self.prefix, 0, RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &self.parts {
            push_attribute(&mut body, *kind, value);
        }
        body
    }
}

fn addresses(socket: &Socket, index: u32) -> io::Result<Vec<Address>> {
    let all = socket.dump(RTM_GETADDR, &[0; ADDRESS])?;
    Ok(all
        .iter()
        .filter_map(|body| Address::of(body, index))
        .collect())
}

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_kernel_takes() {
        for name in ["eth0", "a", "ctr%d", "fifteen-letters"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:1",
            "sixteen-letters-",
            "a\0",
        ] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn permanent_global_addresses_are_kept() {
        let address = |scope: u8, flags: u32| {
            let mut body = vec![2, 24, flags as u8, scope];
            body.extend(5_u32.to_ne_bytes());
            push_attribute(&mut body, IFA_ADDRESS, &[10, 0, 0, 1]);
            push_attribute(&mut body, IFA_LOCAL, &[10, 0, 0, 1]);
            push_attribute(&mut body, 3, b"eth0\0");
            push_attribute(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
            body
        };
        let kept = Address::of(&address(0, 0x80), 5).expect("address");
        assert_eq!((kept.family, kept.prefix, kept.parts.len()), (2, 24, 2));
        let again = Address::of(&address(0, 0x80), 5).expect("address");
        assert_eq!(again.body(9)[..8], [2, 24, 0, 0, 9, 0, 0, 0]);
        assert_eq!(Address::of(&address(254, 0x80), 5), None);
        assert_eq!(Address::of(&address(0, 0x300), 5), None);
        assert_eq!(Address::of(&address(0, 0x80), 6), None);
        assert_eq!(Address::of(&[2, 24], 5), None);
    }
}
