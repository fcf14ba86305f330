//! Makes the kernel forget where it sent the packets of a UDP port.
//!
//! A client that keeps sending keeps its entry alive, so that without this it would go on talking
//! to the place that the port led to before a change.

use std::io;

use crate::netlink::{Message, Socket, attributes};

const NFNL_SUBSYS_CTNETLINK: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = NFNL_SUBSYS_CTNETLINK | 1;
const IPCTNL_MSG_CT_DELETE: u16 = NFNL_SUBSYS_CTNETLINK | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const AF_INET: u8 = 2;
const IPPROTO_UDP: u8 = 17;

/// Forgets the UDP flows that were first sent to one of these ports of any address.
pub fn forget_udp(ports: &[u16]) -> io::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let mut socket = Socket::netfilter()?;
    let header = [AF_INET, 0, 0, 0];
    let flows = socket.dump(Message::new(IPCTNL_MSG_CT_GET, 0).raw(&header))?;
    for flow in flows {
        let payload = flow.payload.get(4..).unwrap_or_default();
        let origin = attributes(payload).find(|(kind, _)| *kind == CTA_TUPLE_ORIG);
        let Some((_, tuple)) = origin else { continue };
        if !udp_port(tuple).is_some_and(|port| ports.contains(&port)) {
            continue;
        }
        let request = Message::new(IPCTNL_MSG_CT_DELETE, 0)
            .raw(&header)
            .attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple);
        match socket.request(request) {
            // It ended by itself in the meantime.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The destination port of a tuple, if it is one of UDP.
fn udp_port(tuple: &[u8]) -> Option<u16> {
    let (_, protocol) = attributes(tuple).find(|(kind, _)| *kind == CTA_TUPLE_PROTO)?;
    let mut port = None;
    for (kind, value) in attributes(protocol) {
        match kind {
            CTA_PROTO_NUM if value.first() != Some(&IPPROTO_UDP) => return None,
            CTA_PROTO_DST_PORT => port = Some(u16::from_be_bytes(value.get(..2)?.try_into().ok()?)),
            _ => {}
        }
    }
    port
}
