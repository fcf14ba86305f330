//! A project's network on the host: a bridge with the gateway's address, and its nftables table.
//!
//! Invariant: [`ensure`] and [`remove`] may be repeated at any time and after any interruption;
//! what is right already is left alone, so that a repeated `ensure` costs a few netlink messages
//! and starts no process.

use std::net::Ipv4Addr;
use std::path::Path;

use bulkhead_model::{Error, Result};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::address::{choose_subnet, mac_of, overlap};
use crate::link::{Link, LinkChange, Routing};
use crate::name::{BRIDGE_PREFIX, Instance, bridge_of_table, device_group, table_name};
use crate::{firewall, nftables, sysctl};

/// A network that the engine wants on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub id: String,
    /// The name users see.
    pub name: String,
    /// From [`Instance::bridge_name`].
    pub bridge: String,
    pub subnet: Ipv4Net,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    pub mtu: u32,
    /// Nothing leads out of the network, and no port is published.
    pub internal: bool,
}

/// What [`list_owned`] found of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedNetwork {
    /// The name by which [`remove`] takes it away.
    pub bridge: String,
    pub has_bridge: bool,
    pub has_table: bool,
}

/// Makes the network as `spec` says.
///
/// Switches IPv4 forwarding on and leaves it on: other software may have come to rely on it.
/// If an older version of Bulkhead made the table, it is replaced and keeps its published ports.
///
/// # Errors
/// `InvalidInput` if the specification contradicts itself, `Conflict` if the subnet is used by
/// another interface or route of the host, `Host` or `Unsupported` otherwise. What was made stays:
/// a repeated call goes on, [`remove`] takes it away.
pub fn ensure(spec: &NetworkSpec) -> Result<()> {
    check(spec)?;
    let mut routing = open_routing()?;
    let failed = |what: &str| {
        let context = format!("{what} bridge {} of network '{}'", spec.bridge, spec.name);
        move |error: std::io::Error| Error::host(context).with_source(error)
    };
    let own_address = Ipv4Net::new(spec.gateway, spec.subnet.prefix_len())
        .map_err(|error| Error::invalid("prefix length of the subnet").with_source(error))?;
    let link = match routing.link(&spec.bridge).map_err(failed("look up"))? {
        Some(link) => link,
        None => {
            check_subnet_is_free(&mut routing, spec)?;
            remove_dead_tables(&mut routing)?;
            match routing.add_bridge(&spec.bridge, mac_of(spec.gateway), spec.mtu) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                other => other.map_err(failed("create"))?,
            }
            let found = routing.link(&spec.bridge).map_err(failed("look up"))?;
            found.ok_or_else(|| {
                Error::host(format!("bridge {} vanished while it was made", spec.bridge))
                    .retryable()
            })?
        }
    };
    set_up_link(&mut routing, spec, &link, own_address).map_err(failed("set up"))?;
    sysctl::write("net/ipv4/ip_forward", "1")?;
    // Without this the kernel drops what comes from 127.0.0.1 by way of a published port; the
    // table keeps sandboxes from reaching the host's loopback through it.
    sysctl::write(
        &format!("net/ipv4/conf/{}/route_localnet", spec.bridge),
        "1",
    )?;
    nftables::ensure(spec)?;
    firewall::ensure(&spec.bridge)
}

/// Removes tables of ours whose bridge is gone: what a killed instance left behind after its bridge
/// was deleted by hand would drop the traffic of the next network with its subnet.
fn remove_dead_tables(routing: &mut Routing) -> Result<()> {
    // Tables first: a network gets its bridge before its table and loses it after, so that a
    // table seen here without a bridge seen later belongs to none.
    let tables = nftables::list_tables()?;
    let links = routing
        .links()
        .map_err(|error| Error::host("list the host's network devices").with_source(error))?;
    for table in tables {
        let Some(bridge) = bridge_of_table(&table) else {
            continue;
        };
        if !links.iter().any(|link| link.name == bridge) {
            firewall::remove(&bridge)?;
            nftables::remove(&table)?;
        }
    }
    Ok(())
}

/// Takes the network with this bridge away: devices on it, bridge, table, and the rules for
/// other firewalls. What is not there is no error.
///
/// # Errors
/// `InvalidInput` if the name cannot be one of ours; `Host`: a repeated call goes on.
pub fn remove(bridge: &str) -> Result<()> {
    check_name(bridge)?;
    firewall::remove(bridge)?;
    nftables::remove(&table_name(bridge))?;
    let mut routing = open_routing()?;
    let failed = |error| Error::host(format!("remove bridge {bridge}")).with_source(error);
    let links = routing.links().map_err(failed)?;
    let Some(link) = links.iter().find(|link| link.name == bridge) else {
        return Ok(());
    };
    // A group number may be used by others: it is deleted as a whole only if it is ours.
    let group = device_group(bridge);
    let is_ours = |device: &Link| device.master == Some(link.index) || device.index == link.index;
    let of_group = || links.iter().filter(|device| device.group == group);
    if of_group().all(is_ours) && of_group().count() > 1 {
        routing.delete_group(group).map_err(failed)?;
    }
    let rest = links.iter().filter(|device| is_ours(device));
    for device in rest {
        routing.delete_link(device.index).map_err(failed)?;
    }
    Ok(())
}

/// What of this instance is on the host, whoever made it: also what a killed daemon left behind.
pub fn list_owned(instance: &Instance) -> Result<Vec<OwnedNetwork>> {
    let mut routing = open_routing()?;
    let links = routing
        .links()
        .map_err(|error| Error::host("list the host's network devices").with_source(error))?;
    let bridge_prefix = instance.bridge_prefix();
    let mut owned: Vec<OwnedNetwork> = links
        .into_iter()
        .filter(|link| link.name.starts_with(&bridge_prefix))
        .map(|link| OwnedNetwork {
            bridge: link.name,
            has_bridge: true,
            has_table: false,
        })
        .collect();
    let table_prefix = instance.table_prefix();
    for table in nftables::list_tables()? {
        let Some(suffix) = table.strip_prefix(&table_prefix) else {
            continue;
        };
        let bridge = format!("{bridge_prefix}{suffix}");
        match owned.iter_mut().find(|network| network.bridge == bridge) {
            Some(network) => network.has_table = true,
            None => owned.push(OwnedNetwork {
                bridge,
                has_bridge: false,
                has_table: true,
            }),
        }
    }
    owned.sort_by(|one, other| one.bridge.cmp(&other.bridge));
    Ok(owned)
}

/// A subnet of `pools` that overlaps neither `taken` (networks that exist only in the database)
/// nor an interface or a route of the host. Default routes do not count.
///
/// # Errors
/// `Conflict` if none is free.
pub fn allocate_subnet(pools: &[Ipv4Net], taken: &[Ipv4Net]) -> Result<Ipv4Net> {
    let mut routing = open_routing()?;
    let mut all = taken.to_vec();
    all.extend(used_by_host(&mut routing)?.into_iter().map(|used| used.0));
    choose_subnet(pools, &all)
}

/// The MTU of the device that the default route leads through, 1500 where there is none.
pub fn uplink_mtu() -> Result<u32> {
    let failed = |error| Error::host("find the device of the default route").with_source(error);
    let mut routing = open_routing()?;
    let routes = routing.routes().map_err(failed)?;
    let uplink = routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .min_by_key(|route| route.priority)
        .and_then(|route| route.output);
    let Some(index) = uplink else {
        return Ok(1500);
    };
    let link = routing.link_by_index(index).map_err(failed)?;
    // No Ethernet frame carries less than IPv4's minimum, and loopback-like giants gain nothing.
    Ok(link.map_or(1500, |link| link.mtu.clamp(576, 9000)))
}

pub(crate) fn open_routing() -> Result<Routing> {
    Routing::open().map_err(|error| Error::host("open a netlink socket").with_source(error))
}

/// The name goes into nft's scripts and, as the mark of isolation, must begin as all of ours do.
fn check_name(bridge: &str) -> Result<()> {
    let is_fine = bridge.len() <= 15
        && bridge.strip_prefix(BRIDGE_PREFIX).is_some_and(|suffix| {
            !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
    if is_fine {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "bridge name '{bridge}': use {BRIDGE_PREFIX} and then letters and digits, 15 in all"
    )))
}

fn check(spec: &NetworkSpec) -> Result<()> {
    check_name(&spec.bridge)?;
    if !spec.subnet.contains(&spec.gateway) {
        return Err(Error::invalid(format!(
            "gateway {} of network '{}' is outside its subnet {}",
            spec.gateway, spec.name, spec.subnet
        )));
    }
    Ok(())
}

fn set_up_link(
    routing: &mut Routing,
    spec: &NetworkSpec,
    link: &Link,
    own_address: Ipv4Net,
) -> std::io::Result<()> {
    let addresses = routing.addresses()?;
    let mut has_address = false;
    for address in addresses
        .iter()
        .filter(|address| address.index == link.index)
    {
        if address.network == own_address {
            has_address = true;
        } else {
            routing.delete_address(link.index, address.network)?;
        }
    }
    if !has_address {
        routing.add_address(link.index, own_address)?;
    }
    let alias = format!("bulkhead network {}", spec.name);
    // The kernel takes at most 255 bytes.
    let alias: String = alias.chars().take(60).collect();
    let group = device_group(&spec.bridge);
    let right = link.up
        && link.mtu == spec.mtu
        && link.group == group
        && link.alias.as_deref() == Some(alias.as_str());
    if right {
        return Ok(());
    }
    disable_ipv6(&spec.bridge);
    routing.set_link(
        link.index,
        &LinkChange {
            up: true,
            mtu: Some(spec.mtu),
            alias: Some(&alias),
            group: Some(group),
            ..LinkChange::default()
        },
    )
}

/// Networks are IPv4 only: a link-local address would cost duplicate address detection and would
/// lead past the table. A host without IPv6 has no such file.
pub(crate) fn disable_ipv6(device: &str) {
    let path = format!("net/ipv6/conf/{device}/disable_ipv6");
    if Path::new("/proc/sys").join(&path).exists()
        && let Err(error) = sysctl::write(&path, "1")
    {
        tracing::warn!(%device, %error, "ipv6 stays on");
    }
}

fn check_subnet_is_free(routing: &mut Routing, spec: &NetworkSpec) -> Result<()> {
    for (used, owner) in used_by_host(routing)? {
        // Another caller may have made our own bridge since it was looked for.
        if owner != spec.bridge && overlap(&used, &spec.subnet) {
            return Err(Error::conflict(format!(
                "subnet {} of network '{}' overlaps {used}, which {owner} uses: choose another",
                spec.subnet, spec.name
            )));
        }
    }
    Ok(())
}

fn used_by_host(routing: &mut Routing) -> Result<Vec<(Ipv4Net, String)>> {
    let failed = |error| Error::host("read the host's addresses and routes").with_source(error);
    let addresses = routing.addresses().map_err(failed)?;
    let routes = routing.routes().map_err(failed)?;
    // Last, so that what uses an address or a route is among them.
    let links = routing.links().map_err(failed)?;
    let name = |index: Option<u32>| {
        let link = links.iter().find(|link| Some(link.index) == index);
        link.map_or_else(|| "a route".to_owned(), |link| link.name.clone())
    };
    let mut used = Vec::new();
    for address in addresses {
        used.push((address.network.trunc(), name(Some(address.index))));
    }
    for route in routes {
        // A VPN's two halves of the default route are no claim to a subnet either.
        if route.destination.prefix_len() > 1 {
            used.push((route.destination, name(route.output)));
        }
    }
    Ok(used)
}
