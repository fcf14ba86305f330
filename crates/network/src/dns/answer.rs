//! What is said about a network's own names.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::config::Zone;
use super::message::{
    NO_ERROR, NOT_IMPLEMENTED, Query, Record, TYPE_A, TYPE_ANY, TYPE_AXFR, TYPE_PTR,
};

/// How long a client may keep an answer: short, because replicas come and go.
pub const TTL_SECONDS: u32 = 2;

const REVERSE_SUFFIX: &str = ".in-addr.arpa";

/// A network's names, ready to be looked up.
#[derive(Debug, Default)]
pub struct Names {
    addresses: HashMap<String, Replicas>,
    reverse: HashMap<Ipv4Addr, String>,
}

#[derive(Debug)]
struct Replicas {
    addresses: Vec<Ipv4Addr>,
    /// Where the next answer begins; it goes on when the configuration changes.
    next: Arc<AtomicUsize>,
}

impl Names {
    /// `previous` lends its place in the round of each name.
    pub fn new(zone: &Zone, previous: &Names) -> Self {
        let mut merged: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
        for (name, addresses) in &zone.names {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let entry = merged.entry(name).or_default();
            for address in addresses {
                if !entry.contains(address) {
                    entry.push(*address);
                }
            }
        }
        let mut reverse: HashMap<Ipv4Addr, (usize, String)> = HashMap::new();
        for (name, addresses) in &merged {
            for address in addresses {
                let shared_by = addresses.len();
                let known = reverse.get(address);
                if known.is_none_or(|(fewest, _)| shared_by < *fewest) {
                    reverse.insert(*address, (shared_by, name.clone()));
                }
            }
        }
        let addresses = merged
            .into_iter()
            .map(|(name, addresses)| {
                let next = match previous.addresses.get(&name) {
                    Some(replicas) => Arc::clone(&replicas.next),
                    None => Arc::default(),
                };
                (name, Replicas { addresses, next })
            })
            .collect();
        let reverse = reverse
            .into_iter()
            .map(|(address, (_, name))| (address, name))
            .collect();
        Self { addresses, reverse }
    }

    /// The answer, or `None` if the question is not about this network.
    pub fn answer(&self, query: &Query<'_>, over_udp: bool) -> Option<Vec<u8>> {
        if !query.is_internet() {
            return Some(query.reply(NOT_IMPLEMENTED, &[], 0, over_udp));
        }
        let records = if let Some(address) = reversed_address(&query.name) {
            let name = self.reverse.get(&address)?;
            match query.kind {
                TYPE_PTR | TYPE_ANY => vec![Record::Pointer(name.clone())],
                _ => Vec::new(),
            }
        } else {
            let replicas = self.addresses.get(&query.name)?;
            match query.kind {
                TYPE_A | TYPE_ANY => replicas.in_turn(),
                TYPE_AXFR => return Some(query.reply(NOT_IMPLEMENTED, &[], 0, over_udp)),
                _ => Vec::new(),
            }
        };
        Some(query.reply(NO_ERROR, &records, TTL_SECONDS, over_udp))
    }
}

impl Replicas {
    fn in_turn(&self) -> Vec<Record> {
        let mut addresses = self.addresses.clone();
        if !addresses.is_empty() {
            let start = self.next.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(start);
        }
        addresses.into_iter().map(Record::Address).collect()
    }
}

/// The address that a name such as `2.0.210.10.in-addr.arpa` stands for.
fn reversed_address(name: &str) -> Option<Ipv4Addr> {
    let reversed: Ipv4Addr = name.strip_suffix(REVERSE_SUFFIX)?.parse().ok()?;
    let [d, c, b, a] = reversed.octets();
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::question;
    use super::*;

    fn zone(names: &[(&str, &[[u8; 4]])]) -> Zone {
        Zone {
            listen: Ipv4Addr::new(10, 210, 0, 1),
            names: names
                .iter()
                .map(|(name, addresses)| {
                    let addresses = addresses.iter().map(|octets| (*octets).into()).collect();
                    ((*name).to_owned(), addresses)
                })
                .collect(),
        }
    }

    fn ask(names: &Names, name: &str, kind: u16) -> Option<Vec<u8>> {
        let bytes = question(name, kind, None);
        names.answer(&Query::parse(&bytes).unwrap(), true)
    }

    /// The first address of an answer.
    fn first(names: &Names, name: &str) -> [u8; 4] {
        let answer = ask(names, name, TYPE_A).unwrap();
        let data = 12 + name.len() + 2 + 4 + 12;
        answer[data..data + 4].try_into().unwrap()
    }

    #[test]
    fn replicas_come_in_turn_also_over_a_change() {
        let web: &[[u8; 4]] = &[[10, 210, 0, 2], [10, 210, 0, 3]];
        let names = Names::new(&zone(&[("web", web), ("api", web)]), &Names::default());
        let mut seen = vec![first(&names, "web")];
        // Another name in between does not disturb the round.
        first(&names, "api");
        seen.push(first(&names, "WEB"));
        let names = Names::new(&zone(&[("Web.", web)]), &names);
        seen.push(first(&names, "web"));
        assert_eq!(seen, [web[0], web[1], web[0]]);
    }

    #[test]
    fn a_known_name_without_addresses_is_no_error() {
        let names = Names::new(&zone(&[("web", &[])]), &Names::default());
        for kind in [TYPE_A, 28, 15] {
            let answer = ask(&names, "web", kind).unwrap();
            assert_eq!((answer[3] & 15, answer[7]), (NO_ERROR, 0));
        }
        assert_eq!(ask(&names, "web.example.org", TYPE_A), None);
        assert_eq!(ask(&names, "webb", TYPE_A), None);
    }

    #[test]
    fn an_address_has_its_own_name() {
        let names = Names::new(
            &zone(&[
                ("shop-web-1", &[[10, 210, 0, 2]]),
                ("a", &[[10, 210, 0, 2], [10, 210, 0, 3]]),
            ]),
            &Names::default(),
        );
        let answer = ask(&names, "2.0.210.10.in-addr.arpa", TYPE_PTR).unwrap();
        assert!(answer.ends_with(b"\x0ashop-web-1\0"));
        assert_eq!(ask(&names, "9.0.210.10.in-addr.arpa", TYPE_PTR), None);
        assert_eq!(ask(&names, "in-addr.arpa", TYPE_PTR), None);
    }
}
