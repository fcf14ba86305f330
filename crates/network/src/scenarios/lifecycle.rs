//! Making and removing, also after interruptions.

use super::*;
use crate::bridge::open_routing;
use crate::{allocate_subnet, list_owned, open_tap, remove, uplink_mtu};

fn device_names() -> Vec<String> {
    let links = open_routing().unwrap().links().unwrap();
    links.into_iter().map(|link| link.name).collect()
}

#[test]
fn a_network_is_made_again_and_leaves_nothing() {
    on_fresh_host(|| {
        let before = device_names();
        let network = made("a", "10.210.0.0/24");
        let rules = nft(&["list", "ruleset"]);
        ensure(&network).unwrap();
        assert_eq!(nft(&["list", "ruleset"]), rules);
        let (_sandbox, _) = container(&network, 2);
        let _tap = open_tap(&endpoint(&network, 3)).unwrap();
        remove(&network.bridge).unwrap();
        remove(&network.bridge).unwrap();
        assert_eq!(device_names(), before);
        assert_eq!(nft(&["list", "ruleset"]), "");
        ensure(&network).unwrap();
    });
}

#[test]
fn a_network_may_be_made_by_several_at_once() {
    on_fresh_host(|| {
        let network = network("a", "10.210.0.0/24");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| ensure(&network).unwrap());
            }
        });
        let (one, _) = container(&network, 2);
        let (other, address) = container(&network, 3);
        other.serve(80, "other");
        assert!(one.call(address, 80).is_some());
        remove(&network.bridge).unwrap();
        assert_eq!(list_owned(&instance()).unwrap(), []);
    });
}

#[test]
fn what_was_changed_behind_our_back_is_put_right() {
    on_fresh_host(|| {
        let network = made("a", "10.210.0.0/24");
        let script = format!(
            "ip link set {0} down; ip addr flush dev {0}; ip addr add 10.9.9.9/24 dev {0}; \
             nft delete table ip {1}",
            network.bridge,
            crate::name::table_name(&network.bridge)
        );
        let status = std::process::Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap();
        assert!(status.success());
        ensure(&network).unwrap();
        let (one, _) = container(&network, 2);
        let (other, address) = container(&network, 3);
        other.serve(80, "other");
        assert!(one.call(address, 80).is_some());
        let addresses = open_routing().unwrap().addresses().unwrap();
        let of_bridge: Vec<String> = addresses
            .iter()
            .map(|address| address.network.to_string())
            .filter(|address| address.starts_with("10."))
            .collect();
        assert_eq!(of_bridge, ["10.210.0.1/24"]);
    });
}

#[test]
fn leftovers_are_found_by_their_instance() {
    on_fresh_host(|| {
        let a = made("a", "10.210.0.0/24");
        let b = made("b", "10.210.1.0/24");
        // A daemon killed in the middle of a removal.
        crate::nftables::remove(&crate::name::table_name(&a.bridge)).unwrap();
        let link = open_routing().unwrap().link(&b.bridge).unwrap().unwrap();
        open_routing().unwrap().delete_link(link.index).unwrap();
        let owned = list_owned(&instance()).unwrap();
        let mut found: Vec<_> = owned
            .iter()
            .map(|network| {
                (
                    network.bridge.clone(),
                    network.has_bridge,
                    network.has_table,
                )
            })
            .collect();
        found.sort();
        let mut expected = vec![
            (a.bridge.clone(), true, false),
            (b.bridge.clone(), false, true),
        ];
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(list_owned(&Instance::new(Path::new("/other"))).unwrap(), []);
        for network in owned {
            remove(&network.bridge).unwrap();
        }
        assert_eq!(list_owned(&instance()).unwrap(), []);
    });
}

#[test]
fn a_table_without_its_bridge_does_not_outlive_the_next_network() {
    on_fresh_host(|| {
        let living = made("living", "10.210.1.0/24");
        let dead = made("dead", "10.210.0.0/24");
        let link = open_routing().unwrap().link(&dead.bridge).unwrap().unwrap();
        open_routing().unwrap().delete_link(link.index).unwrap();
        // A table of somebody else's whose name begins like ours.
        super::nft(&["add", "table", "ip", "bulkhead_notes"]);
        let next = made("next", "10.210.0.0/24");
        let mut tables = crate::nftables::list_tables().unwrap();
        tables.sort();
        let mut expected = vec![
            crate::name::table_name(&living.bridge),
            crate::name::table_name(&next.bridge),
            "bulkhead_notes".to_owned(),
        ];
        expected.sort();
        assert_eq!(tables, expected);
        let (first, _) = container(&next, 2);
        let (second, address) = container(&next, 3);
        second.serve(80, "second");
        assert_eq!(
            first.call(address, 80).as_deref(),
            Some("second 10.210.0.2")
        );
    });
}

#[test]
fn a_device_of_others_survives_in_our_group() {
    on_fresh_host(|| {
        let network = made("a", "10.210.0.0/24");
        let (_sandbox, _) = container(&network, 2);
        let mut routing = open_routing().unwrap();
        routing
            .add_bridge("theirs", [2, 0, 0, 0, 0, 9], 1500)
            .unwrap();
        let theirs = routing.link("theirs").unwrap().unwrap();
        let change = crate::link::LinkChange {
            group: Some(crate::name::device_group(&network.bridge)),
            ..Default::default()
        };
        routing.set_link(theirs.index, &change).unwrap();
        remove(&network.bridge).unwrap();
        assert_eq!(device_names(), ["lo", "theirs"]);
    });
}

#[test]
fn names_that_are_not_ours_are_refused() {
    on_fresh_host(|| {
        for name in [
            "docker0",
            "lo",
            "bh-",
            "bh-a;b",
            "bh-\"a",
            "bh-0123456789abcdef",
        ] {
            let mut spec = network("a", "10.210.0.0/24");
            spec.bridge = name.to_owned();
            for error in [ensure(&spec).unwrap_err(), remove(name).unwrap_err()] {
                assert_eq!(
                    error.kind(),
                    bulkhead_model::ErrorKind::InvalidInput,
                    "{name}"
                );
            }
        }
    });
}

#[test]
fn a_container_gets_what_its_endpoint_says() {
    on_fresh_host(|| {
        let network = made("a", "10.210.0.0/24");
        let (sandbox, address) = container(&network, 2);
        let (link, loopback, addresses, routes) = sandbox.run(|| {
            let mut routing = open_routing().unwrap();
            (
                routing.link("eth0").unwrap().unwrap(),
                routing.link("lo").unwrap().unwrap(),
                routing.addresses().unwrap(),
                routing.routes().unwrap(),
            )
        });
        assert!(link.up && loopback.up);
        assert_eq!((link.mtu, link.mac), (1400, Some(mac_of(address))));
        assert!(
            addresses
                .iter()
                .any(|found| found.network.to_string() == "10.210.0.2/24")
        );
        assert!(
            routes
                .iter()
                .any(|route| route.destination.prefix_len() == 0)
        );
        // The same sandbox again, while the kernel still holds its old devices.
        let again = Namespace::new();
        attach_namespace(again.descriptor.as_fd(), &endpoint(&network, 2), false).unwrap();
        assert!(sandbox.run(|| open_routing().unwrap().link("eth0").unwrap().is_none()));
    });
}

#[test]
fn a_failed_attachment_leaves_no_device() {
    on_fresh_host(|| {
        let network = made("a", "10.210.0.0/24");
        let before = device_names();
        let namespace = Namespace::new();
        let mut wrong = endpoint(&network, 2);
        wrong.prefix_length = 77;
        attach_namespace(namespace.descriptor.as_fd(), &wrong, true).unwrap_err();
        assert_eq!(device_names(), before);
        let mut nowhere = endpoint(&network, 2);
        nowhere.bridge = "bh-none".to_owned();
        for error in [
            attach_namespace(namespace.descriptor.as_fd(), &nowhere, true).unwrap_err(),
            open_tap(&nowhere).unwrap_err(),
            crate::attach_container(u32::MAX, &endpoint(&network, 2), true).unwrap_err(),
        ] {
            assert_eq!(error.kind(), bulkhead_model::ErrorKind::NotFound, "{error}");
        }
    });
}

#[test]
fn a_tap_is_on_the_bridge_as_long_as_it_is_open() {
    on_fresh_host(|| {
        let network = made("a", "10.210.0.0/24");
        let endpoint = endpoint(&network, 2);
        let tap = match open_tap(&endpoint) {
            Ok(tap) => tap,
            Err(error) if error.kind() == bulkhead_model::ErrorKind::Unsupported => {
                println!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let mut routing = open_routing().unwrap();
        let bridge = routing.link(&network.bridge).unwrap().unwrap();
        let link = routing.link(&endpoint.host_device).unwrap().unwrap();
        assert_eq!((link.up, link.master), (true, Some(bridge.index)));
        let error = open_tap(&endpoint).unwrap_err();
        assert!(error.is_retryable(), "{error}");
        drop(tap);
        assert_eq!(routing.link(&endpoint.host_device).unwrap(), None);
        open_tap(&endpoint).unwrap();
    });
}

#[test]
fn subnets_in_use_are_seen() {
    on_fresh_host(|| {
        let pools = ["10.210.0.0/22".parse().unwrap()];
        let a = made("a", "10.210.0.0/24");
        let taken = ["10.210.1.0/24".parse().unwrap()];
        let subnet = allocate_subnet(&pools, &taken).unwrap();
        assert_eq!(subnet.to_string(), "10.210.2.0/24");
        let error = ensure(&network("b", "10.210.0.128/25")).unwrap_err();
        assert!(error.to_string().contains(&a.bridge), "{error}");
        assert_eq!(list_owned(&instance()).unwrap().len(), 1);
    });
}

#[test]
fn the_uplinks_mtu_is_found() {
    on_fresh_host(|| {
        assert_eq!(uplink_mtu().unwrap(), 1500);
        let _neighbour = outside();
        let mut routing = open_routing().unwrap();
        let link = routing.link("outside").unwrap().unwrap();
        routing.add_default_route(link.index, NEIGHBOUR).unwrap();
        assert_eq!(uplink_mtu().unwrap(), 1400);
    });
}
