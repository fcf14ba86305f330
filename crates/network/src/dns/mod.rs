//! The name server of the networks: answers each network's own names on its gateway's address and
//! passes every other question to the host's resolvers.
//!
//! What it says about a name of a network, whatever the case of its letters:
//!
//! | question | answer |
//! |---|---|
//! | `A` | the addresses of the healthy replicas, in an order that moves on with every answer |
//! | `A`, no replica healthy | no error, no address: the service exists, and a client may retry |
//! | `AAAA` and all other types | no error, no record: networks are IPv4 only |
//! | `PTR` of an address in it | the name with the fewest addresses, which is the sandbox's own |
//!
//! Every answer may be kept for [`TTL_SECONDS`]. Nothing is cached here.
//!
//! Invariants: a network's names are told on its own address only; input of any shape is answered
//! or dropped, and what one client can make us hold is bounded.

mod answer;
mod config;
mod forward;
mod message;
mod server;

pub use answer::TTL_SECONDS;
pub use config::{DnsConfig, Zone, host_resolvers};
pub use server::{Applied, Server};

#[cfg(test)]
pub(crate) fn test_question(name: &str, kind: u16) -> Vec<u8> {
    message::tests::question(name, kind, None)
}
