//! One nftables table per network: egress, isolation and published ports.
//!
//! Invariants: a table is made, and its ports are changed, in one transaction each, so that no
//! packet meets half of it. The kernel holds the whole state: the table's comment names the rules'
//! version, and the comment of each published port says everything about it, so that a daemon
//! that knows nothing reads it back.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use bulkhead_model::{Error, Result};
use sha2::{Digest, Sha256};

use crate::bridge::NetworkSpec;
use crate::conntrack;
use crate::name::{BRIDGE_PREFIX, TABLE_PREFIX, table_name};
use crate::netfilter::Netfilter;
use crate::port::{Protocol, PublishedPort};
use crate::tool;

/// The chain whose rules carry the records of published ports.
const RECORD_CHAIN: &str = "publish_local";
const RECORD_WORD: &str = "port";

/// Makes the network's table, or replaces one that another version of us made; its published
/// ports stay.
pub(crate) fn ensure(spec: &NetworkSpec) -> Result<()> {
    let table = table_name(&spec.bridge);
    let rules = base_rules(spec);
    let version = version(&rules);
    let found = open()?
        .table(&table)
        .map_err(|error| Error::host("read the nftables tables").with_source(error))?;
    let ports = match found {
        Some(found) if found.comment.as_deref() == Some(version.as_str()) => return Ok(()),
        Some(_) => published_in(&table)?,
        None => Vec::new(),
    };
    let mut script = format!(
        "add table ip {table}\ndelete table ip {table}\n\
         table ip {table} {{\n  comment \"{version}\"\n{rules}}}\n"
    );
    push_ports(&mut script, &table, &ports);
    run(&script)
}

/// Makes `ports` the published ports of the network, in one step: others are withdrawn, and
/// nothing happens if they are in force already.
///
/// # Errors
/// `InvalidInput` for a port 0 or a target outside the network, `Conflict` for two equal host
/// ports, `NotFound` if [`crate::ensure`] has not made the network.
pub fn sync_ports(spec: &NetworkSpec, ports: &[PublishedPort]) -> Result<()> {
    check_ports(spec, ports)?;
    let table = table_name(&spec.bridge);
    let found = open()?
        .table(&table)
        .map_err(|error| Error::host("read the nftables tables").with_source(error))?;
    if found.is_none() {
        return Err(Error::not_found(format!(
            "network '{}' is not on the host: it must be made before ports are published",
            spec.name
        )));
    }
    let mut wanted: Vec<PublishedPort> = ports.iter().map(PublishedPort::recorded).collect();
    wanted.sort();
    let mut current = published_in(&table)?;
    current.sort();
    if wanted == current {
        return Ok(());
    }
    let mut script =
        format!("flush chain ip {table} publish_remote\nflush chain ip {table} {RECORD_CHAIN}\n");
    push_ports(&mut script, &table, &wanted);
    run(&script)?;
    let changed: Vec<u16> = wanted
        .iter()
        .filter(|port| !current.contains(port))
        .chain(current.iter().filter(|port| !wanted.contains(port)))
        .filter(|port| port.protocol == Protocol::Udp)
        .map(|port| port.host_port)
        .collect();
    if let Err(error) = conntrack::forget_udp(&changed) {
        tracing::warn!(
            network = %spec.name, %error,
            "clients that keep sending over udp may reach the old place for some time"
        );
    }
    Ok(())
}

/// The ports that networks of any instance publish on this host, with the bridge of each.
pub fn published_ports() -> Result<Vec<(String, PublishedPort)>> {
    let mut found = Vec::new();
    for table in list_tables()? {
        let suffix = table.strip_prefix(TABLE_PREFIX).unwrap_or_default();
        let bridge = format!("{BRIDGE_PREFIX}{suffix}");
        for port in published_in(&table)? {
            found.push((bridge.clone(), port));
        }
    }
    Ok(found)
}

/// The ports that the network with this bridge publishes.
pub fn published_ports_of(bridge: &str) -> Result<Vec<PublishedPort>> {
    published_in(&table_name(bridge))
}

pub(crate) fn list_tables() -> Result<Vec<String>> {
    let tables = open()?
        .tables()
        .map_err(|error| Error::host("read the nftables tables").with_source(error))?;
    Ok(tables
        .into_iter()
        .map(|table| table.name)
        .filter(|name| name.starts_with(TABLE_PREFIX))
        .collect())
}

/// Deletes a table; one that is not there is no error.
pub(crate) fn remove(table: &str) -> Result<()> {
    let found = open()?
        .table(table)
        .map_err(|error| Error::host("read the nftables tables").with_source(error))?;
    match found {
        Some(_) => run(&format!("add table ip {table}\ndelete table ip {table}\n")),
        None => Ok(()),
    }
}

/// Runs a script in one transaction.
///
/// # Errors
/// `Unsupported` if `nft` is not installed; `Host` with what it said.
pub(crate) fn run(script: &str) -> Result<()> {
    let output = match tool::run("nft", &["-f", "-"], script) {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::unsupported(
                "networks need the program nft: install the package nftables",
            ));
        }
        Err(error) => return Err(Error::host("run nft").with_source(error)),
    };
    if output.status.success() {
        return Ok(());
    }
    tracing::debug!(%script, stderr = %String::from_utf8_lossy(&output.stderr), "nft failed");
    Err(Error::host(format!(
        "nft rejected the rules: {}",
        tool::complaint(&output)
    )))
}

fn open() -> Result<Netfilter> {
    Netfilter::open().map_err(|error| {
        Error::unsupported("this kernel has no netfilter netlink: enable CONFIG_NF_TABLES")
            .with_source(error)
    })
}

fn published_in(table: &str) -> Result<Vec<PublishedPort>> {
    let rules = open()?
        .rules(table, RECORD_CHAIN)
        .map_err(|error| Error::host("read the published ports").with_source(error))?;
    Ok(rules
        .iter()
        .filter_map(|rule| PublishedPort::from_record(rule.comment.as_deref()?))
        .collect())
}

fn version(rules: &str) -> String {
    let digest = Sha256::digest(rules.as_bytes());
    let mut text = String::from("bulkhead rules ");
    for byte in &digest[..8] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn check_ports(spec: &NetworkSpec, ports: &[PublishedPort]) -> Result<()> {
    for (index, port) in ports.iter().enumerate() {
        if port.host_port == 0 || port.target_port == 0 {
            return Err(Error::invalid(format!(
                "published port {port}: 0 is no port; choose a free host port first"
            )));
        }
        if !spec.subnet.contains(&port.target) {
            return Err(Error::invalid(format!(
                "published port {port}: its target is outside network '{}' ({})",
                spec.name, spec.subnet
            )));
        }
        if spec.internal {
            return Err(Error::invalid(format!(
                "published port {port}: network '{}' is internal; publish on another network",
                spec.name
            )));
        }
        if let Some(other) = ports[..index].iter().find(|other| other.collides(port)) {
            return Err(Error::conflict(format!(
                "port {port} is already published by '{}'",
                other.owner
            )));
        }
    }
    Ok(())
}

fn push_ports(script: &mut String, table: &str, ports: &[PublishedPort]) {
    for port in ports {
        let PublishedPort {
            host_port,
            target,
            target_port,
            protocol,
            ..
        } = port;
        let destination = match port.host_ip {
            Ipv4Addr::UNSPECIFIED => String::new(),
            address => format!("ip daddr {address} "),
        };
        let rule =
            format!("{destination}{protocol} dport {host_port} dnat to {target}:{target_port}");
        let record = port.record(RECORD_WORD);
        let _ = writeln!(
            script,
            "add rule ip {table} {RECORD_CHAIN} {rule} comment \"{record}\""
        );
        if !port.host_ip.is_loopback() {
            let _ = writeln!(script, "add rule ip {table} publish_remote {rule}");
        }
    }
}

/// Everything of the table but the ports.
fn base_rules(spec: &NetworkSpec) -> String {
    let NetworkSpec {
        bridge,
        subnet,
        gateway,
        ..
    } = spec;
    let any = format!("{BRIDGE_PREFIX}*");
    // Egress, and the way out for networks that have one.
    let (masquerade, leave, enter) = if spec.internal {
        (
            String::new(),
            format!("    iifname \"{bridge}\" drop\n"),
            String::new(),
        )
    } else {
        (
            format!("    ip saddr {subnet} oifname != \"{bridge}\" masquerade\n"),
            String::new(),
            format!("    oifname \"{bridge}\" ct status dnat accept\n"),
        )
    };
    let internal_input = if spec.internal {
        format!("    iifname \"{bridge}\" ip daddr != {gateway} drop\n")
    } else {
        String::new()
    };
    format!(
        r#"  chain publish_remote {{
  }}
  chain {RECORD_CHAIN} {{
  }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname "{bridge}" ip saddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr 127.0.0.0/8 return
    fib daddr type local jump publish_remote
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump {RECORD_CHAIN}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
{masquerade}    oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade
    oifname "{bridge}" ip saddr {subnet} ct status dnat masquerade
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" iifname != "lo" ip daddr {gateway} drop
{internal_input}  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" oifname "{bridge}" accept
    iifname "{bridge}" ct state established,related accept
    oifname "{bridge}" ct state established,related accept
{leave}{enter}    oifname "{bridge}" drop
    iifname "{bridge}" oifname "{any}" ct status dnat accept
    iifname "{bridge}" oifname "{any}" drop
  }}
"#
    )
}
