//! Host networking: a bridge and an nftables table per network, veth pairs and TAP devices for
//! sandboxes, addresses, published ports and DNS.
//!
//! Invariant: this crate knows networks and endpoints, and neither images, sandboxes' processes
//! nor projects. Everything it puts on the host is found again by its name ([`Instance`]), may be
//! made and removed any number of times, and, for a sandbox, vanishes with it. Every call acts in
//! the network namespace of the calling thread.

mod address;
mod bridge;
mod conntrack;
pub mod dns;
mod endpoint;
mod firewall;
mod link;
mod name;
mod netfilter;
mod netlink;
mod nftables;
mod port;
mod probe;
mod sys;
mod sysctl;
mod tool;

#[cfg(test)]
mod scenarios;

pub use address::{
    AddressAllocator, SUBNET_PREFIX_LENGTH, choose_subnet, default_pools, gateway_of, mac_of,
};
pub use bridge::{
    NetworkSpec, OwnedNetwork, allocate_subnet, ensure, list_owned, remove, uplink_mtu,
};
pub use endpoint::{attach_container, attach_namespace, open_tap};
pub use ipnet::Ipv4Net;
pub use name::{BRIDGE_PREFIX, Instance, host_device_name};
pub use nftables::{published_ports, published_ports_of, sync_ports};
pub use port::{Protocol, PublishedPort, check_port_free, free_port, hold_port, port_owner};
pub use probe::{Check, Outcome, probe};
