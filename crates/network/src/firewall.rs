//! Gets along with the host's other firewalls: Docker, ufw, and what else fills the `filter` table
//! of iptables.
//!
//! Docker sets the policy of the chain `FORWARD` to drop, ufw that of `INPUT` too, and a packet
//! that any chain drops is dropped, whatever our own table says. So our bridges get accept rules
//! there: in `DOCKER-USER`, the chain that Docker leaves to others, or in the chain with that
//! policy. Each has a comment by which it is found again.
//!
//! The rules are made by iptables' own tools: a rule of `nft` in such a table makes `iptables -S`
//! refuse the whole table.

use bulkhead_model::{Error, Result};

use crate::netfilter::Netfilter;
use crate::{nftables, tool};

const TABLE: &str = "filter";
const DOCKER_USER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";
const INPUT: &str = "INPUT";

/// The two ways in which the kernel keeps iptables' rules.
#[derive(Debug, Clone, Copy)]
enum Variant {
    Nft,
    Legacy,
}

/// Adds the accept rules for a bridge where they are needed and missing. Another firewall may have
/// been started since the last time, so this belongs to every `ensure`.
pub(crate) fn ensure(bridge: &str) -> Result<()> {
    let mut netfilter = open()?;
    let mut missing = Vec::new();
    for chain in chains_in_the_way(&mut netfilter)? {
        if handles(&mut netfilter, chain, bridge)?.is_empty() {
            missing.push(chain);
        }
    }
    add_rules(Variant::Nft, bridge, &missing)?;
    if has_legacy_table() {
        let rules = legacy_rules();
        let mut missing = legacy_chains_in_the_way(&rules);
        missing.retain(|chain| !legacy_has_rule(&rules, chain, bridge));
        add_rules(Variant::Legacy, bridge, &missing)?;
    }
    Ok(())
}

/// Takes the accept rules for a bridge out of all chains.
pub(crate) fn remove(bridge: &str) -> Result<()> {
    let mut netfilter = open()?;
    let mut script = String::new();
    for chain in [DOCKER_USER, FORWARD, INPUT] {
        for handle in handles(&mut netfilter, chain, bridge)? {
            script.push_str(&format!("delete rule ip {TABLE} {chain} handle {handle}\n"));
        }
    }
    if !script.is_empty() {
        nftables::run(&script)?;
    }
    if has_legacy_table() {
        let rules = legacy_rules();
        let ours = rules.lines().filter(|line| line.contains(&tag(bridge)));
        let lines: Vec<String> = ours.map(|line| line.replacen("-A", "-D", 1)).collect();
        restore(Variant::Legacy, &lines)?;
    }
    Ok(())
}

/// Sandboxes may call out, and ask our name server; what else comes to them must be an answer or
/// go to a published port.
fn rules(chain: &str, bridge: &str) -> Vec<String> {
    let conditions: &[String] = &match chain {
        INPUT => ["udp", "tcp"]
            .map(|protocol| format!("-i {bridge} -p {protocol} --dport 53"))
            .to_vec(),
        _ => vec![
            format!("-i {bridge}"),
            format!("-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT"),
        ],
    };
    conditions
        .iter()
        .map(|condition| {
            format!(
                "-I {chain} {condition} -m comment --comment \"{}\" -j ACCEPT",
                tag(bridge)
            )
        })
        .collect()
}

fn tag(bridge: &str) -> String {
    format!("bulkhead {bridge}")
}

fn open() -> Result<Netfilter> {
    Netfilter::open().map_err(|error| {
        Error::unsupported("this kernel has no netfilter netlink: enable CONFIG_NF_TABLES")
            .with_source(error)
    })
}

fn chains_in_the_way(netfilter: &mut Netfilter) -> Result<Vec<&'static str>> {
    let mut drops = |chain| {
        netfilter
            .chain_drops(TABLE, chain)
            .map_err(|error| Error::host("read the table ip filter").with_source(error))
    };
    let mut chains = Vec::new();
    if drops(DOCKER_USER)?.is_some() {
        chains.push(DOCKER_USER);
    } else if drops(FORWARD)? == Some(true) {
        chains.push(FORWARD);
    }
    if drops(INPUT)? == Some(true) {
        chains.push(INPUT);
    }
    Ok(chains)
}

fn handles(netfilter: &mut Netfilter, chain: &str, bridge: &str) -> Result<Vec<u64>> {
    let tag = tag(bridge);
    let rules = netfilter
        .rules(TABLE, chain)
        .map_err(|error| Error::host("read the table ip filter").with_source(error))?;
    Ok(rules
        .into_iter()
        .filter(|rule| rule.mentions(&tag))
        .map(|rule| rule.handle)
        .collect())
}

/// Whether the filter table of the old `iptables`, which nftables does not see, is in use.
fn has_legacy_table() -> bool {
    let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
    names.is_ok_and(|names| names.lines().any(|name| name == TABLE))
}

/// What `iptables-legacy -S` says, nothing if it is not installed.
fn legacy_rules() -> String {
    let output = tool::run("iptables-legacy", &["-w", "-S"], "");
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn legacy_chains_in_the_way(rules: &str) -> Vec<&'static str> {
    let has = |wanted: &str| rules.lines().any(|line| line == wanted);
    let mut chains = Vec::new();
    if has("-N DOCKER-USER") {
        chains.push(DOCKER_USER);
    } else if has("-P FORWARD DROP") {
        chains.push(FORWARD);
    }
    if has("-P INPUT DROP") {
        chains.push(INPUT);
    }
    chains
}

fn legacy_has_rule(rules: &str, chain: &str, bridge: &str) -> bool {
    let start = format!("-A {chain} ");
    rules
        .lines()
        .any(|line| line.starts_with(&start) && line.contains(&tag(bridge)))
}

fn add_rules(variant: Variant, bridge: &str, chains: &[&str]) -> Result<()> {
    let lines: Vec<String> = chains
        .iter()
        .flat_map(|chain| rules(chain, bridge))
        .collect();
    restore(variant, &lines)
}

/// Carries out lines of iptables' arguments in one transaction.
fn restore(variant: Variant, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let program = match variant {
        Variant::Nft => "iptables-nft-restore",
        Variant::Legacy => "iptables-legacy-restore",
    };
    let script = format!("*{TABLE}\n{}\nCOMMIT\n", lines.join("\n"));
    let output = match tool::run(program, &["--noflush", "--wait"], &script) {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::unsupported(format!(
                "another firewall on this host (Docker or ufw) drops what passes through it, and \
                 {program} is missing to make an exception for our networks: install the package \
                 iptables"
            )));
        }
        Err(error) => return Err(Error::host(format!("run {program}")).with_source(error)),
    };
    if output.status.success() {
        return Ok(());
    }
    Err(Error::host(format!(
        "{program} rejected the accept rules for our networks: {}",
        tool::complaint(&output)
    )))
}
