//! What this host can do for networks, tried out in a network namespace that nobody else sees.

use std::os::fd::AsFd;
use std::path::Path;

use bulkhead_model::Error;
use ipnet::Ipv4Net;
use rustix::fs::{Mode, OFlags};

use crate::link::{Routing, VethPeer};
use crate::{nftables, sys, sysctl, tool};

/// One thing that networks need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at: `nftables`, `bridge`, …
    pub name: &'static str,
    /// What was found.
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a note for the user, such as a version.
    Works(String),
    /// What is missing, and the remedy.
    Fails { reason: String, remedy: String },
}

impl Outcome {
    fn fails(reason: impl ToString, remedy: &str) -> Self {
        Outcome::Fails {
            reason: reason.to_string(),
            remedy: remedy.to_owned(),
        }
    }
}

/// Tries everything that networks need. Nothing on the host is changed.
pub fn probe() -> Vec<Check> {
    let forwarding = Check {
        name: "forwarding",
        outcome: probe_forwarding(),
    };
    let mut checks = std::thread::spawn(probe_in_namespace)
        .join()
        .unwrap_or_default();
    checks.push(forwarding);
    checks
}

fn probe_in_namespace() -> Vec<Check> {
    if let Err(error) = sys::unshare_network() {
        return vec![Check {
            name: "network namespaces",
            outcome: Outcome::fails(
                error,
                "run as root on a kernel with CONFIG_NET_NS; inside a container, run it privileged",
            ),
        }];
    }
    let mut checks = vec![Check {
        name: "network namespaces",
        outcome: Outcome::Works(String::new()),
    }];
    checks.extend(
        [
            ("nftables", probe_nftables()),
            ("bridge", probe_bridge()),
            ("veth", probe_veth()),
            ("tap", probe_tap()),
        ]
        .map(|(name, outcome)| Check { name, outcome }),
    );
    checks
}

/// A table with each kind of rule that ours have.
fn probe_nftables() -> Outcome {
    const SCRIPT: &str = "table ip bulkhead_probe {\n  comment \"probe\"\n  chain out {\n    \
         type nat hook output priority -100; policy accept;\n    \
         fib daddr type local tcp dport 1 dnat to 127.0.0.2:1\n  }\n  chain post {\n    \
         type nat hook postrouting priority srcnat; policy accept;\n    ct status dnat masquerade\n  \
         }\n}\n";
    match nftables::run(SCRIPT) {
        Ok(()) => Outcome::Works(nft_version()),
        Err(error) if error.kind() == bulkhead_model::ErrorKind::Unsupported => {
            Outcome::fails(error, "apt-get install nftables")
        }
        Err(error) => Outcome::fails(
            error,
            "a kernel with CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_CT and \
             CONFIG_NFT_FIB_IPV4 (modprobe nf_tables nft_chain_nat nft_masq nft_ct nft_fib_ipv4)",
        ),
    }
}

fn nft_version() -> String {
    let output = tool::run("nft", &["--version"], "");
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

fn probe_bridge() -> Outcome {
    let made = Routing::open().and_then(|mut routing| {
        routing.add_bridge("bh-probe", [0x02, 0, 0, 0, 0, 1], 1500)?;
        let link = routing.link("bh-probe")?;
        let index = link.ok_or(std::io::ErrorKind::NotFound)?.index;
        let address = Ipv4Net::new([10, 0, 0, 1].into(), 24).map_err(std::io::Error::other)?;
        routing.add_address(index, address)
    });
    match made {
        Ok(()) => Outcome::Works(String::new()),
        Err(error) => Outcome::fails(
            Error::host("create a bridge").with_source(error),
            "modprobe bridge, or a kernel with CONFIG_BRIDGE",
        ),
    }
}

fn probe_veth() -> Outcome {
    let made = Routing::open().and_then(|mut routing| {
        let own = std::fs::File::open("/proc/thread-self/ns/net")?;
        let peer = VethPeer {
            name: "bhprobe1",
            mac: [0x02, 0, 0, 0, 0, 2],
            namespace: own.as_fd(),
        };
        routing.add_veth("bhprobe0", 1500, &peer)
    });
    match made {
        Ok(()) => Outcome::Works(String::new()),
        Err(error) => Outcome::fails(
            Error::host("create a veth pair").with_source(error),
            "modprobe veth, or a kernel with CONFIG_VETH (containers need it)",
        ),
    }
}

fn probe_tap() -> Outcome {
    const REMEDY: &str =
        "modprobe tun, or a kernel with CONFIG_TUN (micro VMs with a network need it)";
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let tun = match rustix::fs::open("/dev/net/tun", flags, Mode::empty()) {
        Ok(tun) => tun,
        Err(error) => return Outcome::fails(format!("open /dev/net/tun: {error}"), REMEDY),
    };
    match sys::set_tap(&tun, "bhprobe2") {
        Ok(()) => Outcome::Works(String::new()),
        Err(error) => Outcome::fails(format!("create a TAP device: {error}"), REMEDY),
    }
}

fn probe_forwarding() -> Outcome {
    const PATH: &str = "net/ipv4/ip_forward";
    if sysctl::read(PATH).as_deref() == Some("1") {
        return Outcome::Works("on".to_owned());
    }
    // Opening for writing tells a read-only /proc/sys; nothing is written.
    let file = Path::new("/proc/sys").join(PATH);
    match std::fs::OpenOptions::new().write(true).open(file) {
        Ok(_) => Outcome::Works("off, will be switched on with the first network".to_owned()),
        Err(error) => Outcome::fails(
            format!("net.ipv4.ip_forward is off and cannot be set: {error}"),
            "sysctl -w net.ipv4.ip_forward=1",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_is_reported_once_and_nothing_is_left() {
        let checks = probe();
        let mut names: Vec<_> = checks.iter().map(|check| check.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), checks.len());
        for check in &checks {
            if let Outcome::Fails { reason, remedy } = &check.outcome {
                println!("{}: {reason}; {remedy}", check.name);
                assert!(!remedy.is_empty());
            }
        }
        assert!(!Path::new("/sys/class/net/bh-probe").exists());
    }
}
