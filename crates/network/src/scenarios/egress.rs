//! The way out of a network.

use super::*;

#[test]
fn a_sandbox_reaches_the_outside_by_the_hosts_address() {
    on_fresh_host(|| {
        let neighbour = outside();
        neighbour.serve(7000, "neighbour");
        let network = made("a", "10.210.0.0/24");
        let (sandbox, _) = container(&network, 2);
        let answer = sandbox.call(NEIGHBOUR, 7000);
        assert_eq!(answer.as_deref(), Some("neighbour 203.0.113.1"));
        let answer = sandbox.call_udp(NEIGHBOUR, 7000);
        assert_eq!(answer.as_deref(), Some("neighbour 203.0.113.1"));
    });
}

#[test]
fn an_internal_network_has_no_way_out_and_works_within() {
    on_fresh_host(|| {
        let neighbour = outside();
        neighbour.serve(7000, "neighbour");
        let mut spec = network("a", "10.210.0.0/24");
        spec.internal = true;
        ensure(&spec).unwrap();
        let (one, _) = container(&spec, 2);
        let (other, address) = container(&spec, 3);
        other.serve(80, "other");
        assert_eq!(one.call(address, 80).as_deref(), Some("other 10.210.0.2"));
        assert_eq!(one.call_in_vain(NEIGHBOUR, 7000), None);
        // The host's other addresses are a way out too.
        let host = TcpListener::bind(("0.0.0.0", 7001)).unwrap();
        host.set_nonblocking(true).unwrap();
        assert_eq!(one.call_in_vain(HOST_OUTSIDE, 7001), None);
        assert!(host.accept().is_err());
    });
}

#[test]
fn dockers_drop_policy_does_not_stop_us_and_its_rules_are_left_clean() {
    on_fresh_host(|| {
        nft(&["add table ip filter; \
             add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
             add chain ip filter DOCKER-USER; \
             add rule ip filter FORWARD jump DOCKER-USER; \
             add rule ip filter DOCKER-USER counter return"]);
        let before = nft(&["list", "chain", "ip", "filter", "DOCKER-USER"]);
        let neighbour = outside();
        neighbour.serve(7000, "neighbour");
        let network = made("a", "10.210.0.0/24");
        let (one, _) = container(&network, 2);
        let (other, address) = container(&network, 3);
        other.serve(80, "other");
        assert!(one.call(NEIGHBOUR, 7000).is_some());
        assert!(one.call(address, 80).is_some());
        ensure(&network).unwrap();
        let with_ours = nft(&["list", "chain", "ip", "filter", "DOCKER-USER"]);
        assert_eq!(with_ours.matches(&network.bridge).count(), 6, "{with_ours}");
        crate::remove(&network.bridge).unwrap();
        assert_eq!(
            nft(&["list", "chain", "ip", "filter", "DOCKER-USER"])
                .lines()
                .count(),
            before.lines().count()
        );
    });
}
