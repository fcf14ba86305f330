//! Devices, addresses and routes of one network namespace, over `rtnetlink(7)`.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::netlink::{
    Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Reply, Socket, attributes, number, text,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u32 = 255;
const RTN_UNICAST: u8 = 1;
const RTPROT_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
    pub mac: Option<[u8; 6]>,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    pub alias: Option<String>,
    pub group: u32,
}

/// An IPv4 address on a device; `network` has the address itself, not the subnet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub index: u32,
    pub network: Ipv4Net,
}

/// An IPv4 route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Net,
    pub output: Option<u32>,
    pub priority: u32,
}

/// What of a device is set by [`Routing::set_link`].
#[derive(Debug, Default)]
pub struct LinkChange<'a> {
    pub up: bool,
    pub mtu: Option<u32>,
    pub master: Option<u32>,
    pub alias: Option<&'a str>,
    pub group: Option<u32>,
}

/// One end of a veth pair.
#[derive(Debug)]
pub struct VethPeer<'a> {
    pub name: &'a str,
    pub mac: [u8; 6],
    /// An open network namespace into which the peer is born.
    pub namespace: std::os::fd::BorrowedFd<'a>,
}

/// A connection to the kernel's routing tables, of the namespace in which it was opened.
#[derive(Debug)]
pub struct Routing {
    socket: Socket,
}

impl Routing {
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::route()?,
        })
    }

    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let request = Message::new(RTM_GETLINK, 0).raw(&link_header(AF_UNSPEC, 0, 0, 0));
        let replies = self.socket.dump(request)?;
        Ok(replies.iter().filter_map(parse_link).collect())
    }

    /// `None` if no device has the name.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let request = Message::new(RTM_GETLINK, 0)
            .raw(&link_header(AF_UNSPEC, 0, 0, 0))
            .text(IFLA_IFNAME, name);
        match self.socket.get(request) {
            Ok(reply) => Ok(reply.as_ref().and_then(parse_link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        let request = Message::new(RTM_GETLINK, 0).raw(&link_header(AF_UNSPEC, index, 0, 0));
        match self.socket.get(request) {
            Ok(reply) => Ok(reply.as_ref().and_then(parse_link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge, down. With the spanning tree protocol off and no forward delay a fresh
    /// port forwards at once.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<()> {
        let request = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
            .raw(&link_header(AF_UNSPEC, 0, 0, 0))
            .text(IFLA_IFNAME, name)
            .attribute(IFLA_ADDRESS, &mac)
            .number(IFLA_MTU, mtu)
            .nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "bridge")
                    .nest(IFLA_INFO_DATA, |data| {
                        data.number(IFLA_BR_STP_STATE, 0)
                            .number(IFLA_BR_FORWARD_DELAY, 0)
                    })
            });
        self.socket.request(request)
    }

    /// Makes a veth pair, both ends down, the peer in its own namespace from the start.
    pub fn add_veth(&mut self, name: &str, mtu: u32, peer: &VethPeer<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let descriptor = peer.namespace.as_raw_fd().cast_unsigned();
        let request = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
            .raw(&link_header(AF_UNSPEC, 0, 0, 0))
            .text(IFLA_IFNAME, name)
            .number(IFLA_MTU, mtu)
            .nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "veth")
                    .nest(IFLA_INFO_DATA, |data| {
                        data.nest(VETH_INFO_PEER, |inner| {
                            inner
                                .raw(&link_header(AF_UNSPEC, 0, 0, 0))
                                .text(IFLA_IFNAME, peer.name)
                                .attribute(IFLA_ADDRESS, &peer.mac)
                                .number(IFLA_MTU, mtu)
                                .number(IFLA_NET_NS_FD, descriptor)
                        })
                    })
            });
        self.socket.request(request)
    }

    pub fn set_link(&mut self, index: u32, change: &LinkChange<'_>) -> io::Result<()> {
        let flags = if change.up { IFF_UP } else { 0 };
        let mut request =
            Message::new(RTM_NEWLINK, 0).raw(&link_header(AF_UNSPEC, index, flags, flags));
        if let Some(mtu) = change.mtu {
            request = request.number(IFLA_MTU, mtu);
        }
        if let Some(master) = change.master {
            request = request.number(IFLA_MASTER, master);
        }
        if let Some(group) = change.group {
            request = request.number(IFLA_GROUP, group);
        }
        if let Some(alias) = change.alias {
            request = request.attribute(IFLA_IFALIAS, alias.as_bytes());
        }
        self.socket.request(request)
    }

    /// Lets a bridge's port get back what it sent: with `br_netfilter` a sandbox that calls its
    /// own published port is bridged to itself.
    pub fn set_hairpin(&mut self, index: u32) -> io::Result<()> {
        let request = Message::new(RTM_SETLINK, 0)
            .raw(&link_header(AF_BRIDGE, index, 0, 0))
            .nest(IFLA_PROTINFO, |port| port.attribute(IFLA_BRPORT_MODE, &[1]));
        self.socket.request(request)
    }

    /// Deletes a device; one that is gone already is no error.
    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let request = Message::new(RTM_DELLINK, 0).raw(&link_header(AF_UNSPEC, index, 0, 0));
        match self.socket.request(request) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Deletes all devices of a group at once: as quick as one, where each on its own waits for
    /// the kernel to be done with the one before.
    pub fn delete_group(&mut self, group: u32) -> io::Result<()> {
        let request = Message::new(RTM_DELLINK, 0)
            .raw(&link_header(AF_UNSPEC, 0, 0, 0))
            .number(IFLA_GROUP, group);
        match self.socket.request(request) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    pub fn addresses(&mut self) -> io::Result<Vec<InterfaceAddress>> {
        let request = Message::new(RTM_GETADDR, 0).raw(&address_header(0, 0));
        let replies = self.socket.dump(request)?;
        Ok(replies.iter().filter_map(parse_address).collect())
    }

    /// Adds an address; one that is there already is no error.
    pub fn add_address(&mut self, index: u32, network: Ipv4Net) -> io::Result<()> {
        self.socket.request(address_message(
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_REPLACE,
            index,
            network,
        ))
    }

    pub fn delete_address(&mut self, index: u32, network: Ipv4Net) -> io::Result<()> {
        self.socket
            .request(address_message(RTM_DELADDR, 0, index, network))
    }

    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let request = Message::new(RTM_GETROUTE, 0).raw(&route_header(0));
        let replies = self.socket.dump(request)?;
        Ok(replies.iter().filter_map(parse_route).collect())
    }

    pub fn add_default_route(&mut self, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
        let request = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)
            .raw(&route_header(RT_TABLE_MAIN))
            .attribute(RTA_GATEWAY, &gateway.octets())
            .number(RTA_OIF, index);
        self.socket.request(request)
    }
}

/// `struct ifinfomsg`.
fn link_header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`.
fn address_header(prefix_length: u8, index: u32) -> [u8; 8] {
    let mut header = [AF_INET, prefix_length, 0, SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// `struct rtmsg`.
fn route_header(table: u8) -> [u8; 12] {
    [
        AF_INET,
        0,
        0,
        0,
        table,
        RTPROT_STATIC,
        SCOPE_UNIVERSE,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]
}

fn address_message(kind: u16, flags: u16, index: u32, network: Ipv4Net) -> Message {
    Message::new(kind, flags)
        .raw(&address_header(network.prefix_len(), index))
        .attribute(IFA_LOCAL, &network.addr().octets())
        .attribute(IFA_ADDRESS, &network.addr().octets())
        .attribute(IFA_BROADCAST, &network.broadcast().octets())
}

fn parse_link(reply: &Reply) -> Option<Link> {
    let payload = &reply.payload;
    let mut link = Link {
        index: number(payload.get(4..)?)?,
        name: String::new(),
        mtu: 0,
        up: number(payload.get(8..)?)? & IFF_UP != 0,
        mac: None,
        master: None,
        alias: None,
        group: 0,
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_MASTER => link.master = number(value),
            IFLA_GROUP => link.group = number(value)?,
            IFLA_IFALIAS => link.alias = Some(text(value)),
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(reply: &Reply) -> Option<InterfaceAddress> {
    let payload = &reply.payload;
    let prefix_length = *payload.get(1)?;
    let index = number(payload.get(4..)?)?;
    let mut local = None;
    for (kind, value) in attributes(payload.get(8..)?) {
        // On a point-to-point device `IFA_ADDRESS` is the other end's address.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && local.is_none()) {
            local = ipv4(value);
        }
    }
    Some(InterfaceAddress {
        index,
        network: Ipv4Net::new(local?, prefix_length).ok()?,
    })
}

fn parse_route(reply: &Reply) -> Option<Route> {
    let payload = &reply.payload;
    let prefix_length = *payload.get(1)?;
    let mut table = u32::from(*payload.get(4)?);
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut output, mut priority) = (None, 0);
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            RTA_DST => destination = ipv4(value)?,
            RTA_OIF => output = number(value),
            RTA_PRIORITY => priority = number(value)?,
            RTA_TABLE => table = number(value)?,
            _ => {}
        }
    }
    // The local table repeats the addresses, which are read on their own.
    (table != RT_TABLE_LOCAL).then_some(Route {
        destination: Ipv4Net::new(destination, prefix_length).ok()?,
        output,
        priority,
    })
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}
