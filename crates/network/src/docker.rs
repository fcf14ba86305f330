//! Gets along with Docker on the same host.
//!
//! Docker sets the policy of the chain `FORWARD` in the table `ip filter` to drop, and a packet
//! that any chain drops is dropped, whatever our own table says. So our bridges get accept rules
//! in `DOCKER-USER`, the chain that Docker leaves to others (or in `FORWARD`, where something else
//! set that policy), each with a comment by which they are found again.

use std::process::Command;

use bulkhead_model::{Error, Result};

use crate::netfilter::Netfilter;
use crate::nftables;

const TABLE: &str = "filter";
/// In order of preference.
const CHAINS: [&str; 2] = ["DOCKER-USER", "FORWARD"];

/// Adds the accept rules for a bridge where they are needed and missing. Docker may have been
/// started since the last time, so this belongs to every `ensure`.
pub(crate) fn ensure(bridge: &str) -> Result<()> {
    let mut netfilter = open()?;
    let Some(chain) = chain_in_the_way(&mut netfilter)? else {
        return ensure_legacy(bridge);
    };
    if !handles(&mut netfilter, chain, bridge)?.is_empty() {
        return Ok(());
    }
    let comment = comment(bridge);
    let mut script = String::new();
    for condition in conditions(bridge) {
        script.push_str(&format!(
            "insert rule ip {TABLE} {chain} {condition} counter accept comment \"{comment}\"\n"
        ));
    }
    nftables::run(&script)
}

/// Takes the accept rules for a bridge out of both chains.
pub(crate) fn remove(bridge: &str) -> Result<()> {
    let mut netfilter = open()?;
    let mut script = String::new();
    for chain in CHAINS {
        for handle in handles(&mut netfilter, chain, bridge)? {
            script.push_str(&format!("delete rule ip {TABLE} {chain} handle {handle}\n"));
        }
    }
    if !script.is_empty() {
        nftables::run(&script)?;
    }
    remove_legacy(bridge)
}

/// The sandboxes may call out; what comes in must be an answer or a published port.
fn conditions(bridge: &str) -> [String; 3] {
    [
        format!("iifname \"{bridge}\""),
        format!("oifname \"{bridge}\" ct state established,related"),
        format!("oifname \"{bridge}\" ct status dnat"),
    ]
}

fn comment(bridge: &str) -> String {
    format!("bulkhead {bridge}")
}

fn open() -> Result<Netfilter> {
    Netfilter::open().map_err(|error| {
        Error::unsupported("this kernel has no netfilter netlink: enable CONFIG_NF_TABLES")
            .with_source(error)
    })
}

fn chain_in_the_way(netfilter: &mut Netfilter) -> Result<Option<&'static str>> {
    let mut drops = |chain| {
        netfilter
            .chain_drops(TABLE, chain)
            .map_err(|error| Error::host("read the table ip filter").with_source(error))
    };
    let [docker_user, forward] = CHAINS;
    if drops(docker_user)?.is_some() {
        return Ok(Some(docker_user));
    }
    Ok((drops(forward)? == Some(true)).then_some(forward))
}

fn handles(netfilter: &mut Netfilter, chain: &str, bridge: &str) -> Result<Vec<u64>> {
    let comment = comment(bridge);
    let rules = netfilter
        .rules(TABLE, chain)
        .map_err(|error| Error::host("read the table ip filter").with_source(error))?;
    Ok(rules
        .into_iter()
        .filter(|rule| rule.comment.as_deref() == Some(comment.as_str()))
        .map(|rule| rule.handle)
        .collect())
}

/// Whether the filter table of the old `iptables`, which nftables does not see, is in use.
fn has_legacy_table() -> bool {
    let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
    names.is_ok_and(|names| names.lines().any(|name| name == TABLE))
}

fn ensure_legacy(bridge: &str) -> Result<()> {
    if !has_legacy_table() {
        return Ok(());
    }
    let Some(rules) = legacy(&["-S"]) else {
        return Ok(());
    };
    let chain = if rules.lines().any(|line| line == "-N DOCKER-USER") {
        CHAINS[0]
    } else if rules.lines().any(|line| line == "-P FORWARD DROP") {
        CHAINS[1]
    } else {
        return Ok(());
    };
    if rules.contains(&comment(bridge)) {
        return Ok(());
    }
    for condition in legacy_conditions(bridge) {
        let mut arguments = vec!["-I", chain];
        arguments.extend(condition.iter().map(String::as_str));
        if legacy(&arguments).is_none() {
            return Err(Error::host(format!(
                "iptables-legacy did not take an accept rule for bridge {bridge} in {chain}"
            )));
        }
    }
    Ok(())
}

fn remove_legacy(bridge: &str) -> Result<()> {
    if !has_legacy_table() {
        return Ok(());
    }
    for chain in CHAINS {
        for condition in legacy_conditions(bridge) {
            let mut arguments = vec!["-D", chain];
            arguments.extend(condition.iter().map(String::as_str));
            // A rule that is not there is the wanted state.
            let _ = legacy(&arguments);
        }
    }
    Ok(())
}

fn legacy_conditions(bridge: &str) -> [Vec<String>; 3] {
    let words = |text: &str| {
        let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        words.extend(["-m", "comment", "--comment"].map(str::to_owned));
        words.push(comment(bridge));
        words.extend(["-j", "ACCEPT"].map(str::to_owned));
        words
    };
    [
        words(&format!("-i {bridge}")),
        words(&format!(
            "-o {bridge} -m conntrack --ctstate ESTABLISHED,RELATED"
        )),
        words(&format!("-o {bridge} -m conntrack --ctstatus DNAT")),
    ]
}

/// Runs `iptables-legacy`; `None` if it failed or is not installed.
fn legacy(arguments: &[&str]) -> Option<String> {
    let output = Command::new("iptables-legacy")
        .arg("-w")
        .args(arguments)
        .output()
        .ok()?;
    if !output.status.success() {
        tracing::debug!(?arguments, stderr = %String::from_utf8_lossy(&output.stderr), "iptables-legacy failed");
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
