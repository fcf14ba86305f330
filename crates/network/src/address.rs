//! Which subnet a network gets, which address and MAC an endpoint: pure logic, told what is taken.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bulkhead_model::{Error, Result};
use ipnet::Ipv4Net;

/// The prefix length of a project's network: 253 sandboxes.
pub const SUBNET_PREFIX_LENGTH: u8 = 24;

/// Where subnets are taken from if nothing else is configured: ranges that neither Docker
/// (172.17–172.31, 192.168), Podman (10.88, 10.89) nor kubeadm (10.96/12, 10.244) use by default.
pub fn default_pools() -> Vec<Ipv4Net> {
    [([10, 210, 0, 0], 15), ([172, 16, 128, 0], 17)]
        .into_iter()
        .filter_map(|(octets, length)| Ipv4Net::new(octets.into(), length).ok())
        .collect()
}

/// The first subnet of `pools` that overlaps none of `taken`.
///
/// # Errors
/// `Conflict` if all are taken.
pub fn choose_subnet(pools: &[Ipv4Net], taken: &[Ipv4Net]) -> Result<Ipv4Net> {
    pools
        .iter()
        .filter_map(|pool| {
            pool.subnets(SUBNET_PREFIX_LENGTH.max(pool.prefix_len()))
                .ok()
        })
        .flatten()
        .find(|subnet| !taken.iter().any(|other| overlap(subnet, other)))
        .ok_or_else(|| {
            let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
            Error::conflict(format!(
                "no free subnet for a network: every /{SUBNET_PREFIX_LENGTH} of {} is used by a \
                 network, an interface or a route; remove unused networks or give the network a \
                 subnet of its own",
                pools.join(", ")
            ))
        })
}

pub(crate) fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first address of a subnet: the bridge's own.
pub fn gateway_of(subnet: &Ipv4Net) -> Ipv4Addr {
    subnet.hosts().next().unwrap_or_else(|| subnet.network())
}

/// Hands out the addresses of one network.
///
/// Goes round the subnet, so that the address of a sandbox that has just gone is the last to be
/// given again: connections and caches that still name it meet nobody instead of a stranger.
#[derive(Debug, Clone)]
pub struct AddressAllocator {
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    last: Ipv4Addr,
}

impl AddressAllocator {
    pub fn new(subnet: Ipv4Net, gateway: Ipv4Addr) -> Self {
        Self {
            subnet,
            gateway,
            last: subnet.network(),
        }
    }

    /// Goes on after `address`, for an allocator that is made anew after a restart.
    #[must_use]
    pub fn after(mut self, address: Ipv4Addr) -> Self {
        self.last = address;
        self
    }

    /// # Errors
    /// `Conflict` if every address is in `taken`.
    pub fn allocate(&mut self, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr> {
        let after = self.subnet.hosts().filter(|address| *address > self.last);
        let before = self.subnet.hosts().filter(|address| *address <= self.last);
        let address = after
            .chain(before)
            .find(|address| *address != self.gateway && !taken.contains(address))
            .ok_or_else(|| {
                Error::conflict(format!(
                    "no free address in {}: {} are in use; remove sandboxes or give the network \
                     a larger subnet",
                    self.subnet,
                    taken.len()
                ))
            })?;
        self.last = address;
        Ok(address)
    }

    /// # Errors
    /// `InvalidInput` if `address` cannot be an endpoint's, `Conflict` if it is taken.
    pub fn allocate_exactly(
        &self,
        address: Ipv4Addr,
        taken: &BTreeSet<Ipv4Addr>,
    ) -> Result<Ipv4Addr> {
        let edge = address == self.subnet.network() || address == self.subnet.broadcast();
        if !self.subnet.contains(&address) || edge || address == self.gateway {
            return Err(Error::invalid(format!(
                "address {address} cannot be used in {}: choose one of {} to {} other than the \
                 gateway {}",
                self.subnet,
                gateway_of(&self.subnet),
                self.subnet.hosts().last().unwrap_or(self.gateway),
                self.gateway
            )));
        }
        if taken.contains(&address) {
            return Err(Error::conflict(format!(
                "address {address} is in use by another sandbox of the network"
            )));
        }
        Ok(address)
    }
}

/// A locally administered MAC that belongs to the address, so that a neighbour's cache is right
/// whoever has the address now.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x62, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect(text)
    }

    #[test]
    fn a_subnet_that_overlaps_nothing_is_chosen() {
        let pools = [net("10.210.0.0/15")];
        assert_eq!(choose_subnet(&pools, &[]).unwrap(), net("10.210.0.0/24"));
        let taken = [net("10.210.0.0/24"), net("10.210.1.128/25")];
        assert_eq!(choose_subnet(&pools, &taken).unwrap(), net("10.210.2.0/24"));
        let vpn = [net("10.210.0.0/16")];
        assert_eq!(choose_subnet(&pools, &vpn).unwrap(), net("10.211.0.0/24"));
        let both = choose_subnet(&default_pools(), &[net("10.0.0.0/8")]).unwrap();
        assert_eq!(both, net("172.16.128.0/24"));
        let error = choose_subnet(&pools, &[net("10.0.0.0/8")]).unwrap_err();
        assert!(error.to_string().contains("10.210.0.0/15"), "{error}");
    }

    #[test]
    fn addresses_go_round_and_run_out() {
        let subnet = net("10.210.0.0/29");
        let mut allocator = AddressAllocator::new(subnet, gateway_of(&subnet));
        let mut taken = BTreeSet::new();
        let first = allocator.allocate(&taken).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 210, 0, 2));
        // It is given back at once, and is not the next to be given.
        assert_eq!(
            allocator.allocate(&taken).unwrap(),
            Ipv4Addr::new(10, 210, 0, 3)
        );
        for _ in 0..5 {
            taken.insert(allocator.allocate(&taken).unwrap());
        }
        assert_eq!(taken.len(), 5);
        assert!(!taken.contains(&Ipv4Addr::new(10, 210, 0, 1)));
        assert!(allocator.allocate(&taken).is_err());
        taken.remove(&first);
        assert_eq!(allocator.allocate(&taken).unwrap(), first);
    }

    #[test]
    fn a_fixed_address_must_fit_and_be_free() {
        let subnet = net("10.210.0.0/24");
        let allocator = AddressAllocator::new(subnet, gateway_of(&subnet));
        let taken = BTreeSet::from([Ipv4Addr::new(10, 210, 0, 9)]);
        for wrong in [
            "10.210.1.2",
            "10.210.0.0",
            "10.210.0.255",
            "10.210.0.1",
            "10.210.0.9",
        ] {
            assert!(
                allocator
                    .allocate_exactly(wrong.parse().unwrap(), &taken)
                    .is_err()
            );
        }
        let fine = "10.210.0.10".parse().unwrap();
        assert_eq!(allocator.allocate_exactly(fine, &taken).unwrap(), fine);
    }

    #[test]
    fn macs_are_local_and_differ() {
        let mac = mac_of(Ipv4Addr::new(10, 210, 0, 2));
        assert_eq!(
            mac[0] & 0b11,
            0b10,
            "locally administered and not a group's"
        );
        assert_ne!(mac, mac_of(Ipv4Addr::new(10, 210, 0, 3)));
    }
}
