use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

const DNS_PORT: u16 = 53;

/// Everything that the server is to say, as one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Names the snapshot; told back when it is in force.
    #[serde(default)]
    pub revision: u64,
    pub zones: Vec<Zone>,
    /// The resolvers for all other names; none: those in the host's `/etc/resolv.conf`, which is
    /// read again when it changes.
    #[serde(default)]
    pub upstream: Vec<SocketAddr>,
    #[serde(default = "dns_port")]
    pub port: u16,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            revision: 0,
            zones: Vec::new(),
            upstream: Vec::new(),
            port: DNS_PORT,
        }
    }
}

fn dns_port() -> u16 {
    DNS_PORT
}

/// The names of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// The network's gateway.
    pub listen: Ipv4Addr,
    /// Service names, sandbox names and aliases, each with its healthy replicas' addresses.
    pub names: BTreeMap<String, Vec<Ipv4Addr>>,
}

/// The resolvers that a file in the form of `resolv.conf(5)` names; none if it cannot be read.
pub fn host_resolvers(path: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    parse_resolvers(&text)
}

fn parse_resolvers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                return None;
            }
            let address: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(address, DNS_PORT))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_past_everything_else() {
        let text = "# nameserver 1.1.1.1\nsearch example.org\nnameserver 10.0.0.53\n\
                    nameserver   ::1  \nnameserver fe80::1%eth0\nnameserver\noptions ndots:1\n";
        let found = parse_resolvers(text);
        let expected: Vec<SocketAddr> = ["10.0.0.53:53", "[::1]:53"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_snapshot_needs_its_zones_only() {
        let text = r#"{"zones":[{"listen":"10.210.0.1","names":{"web":["10.210.0.2"]}}]}"#;
        let config: DnsConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.port, config.zones.len()), (53, 1));
    }
}
