//! Published ports.

use super::*;
use crate::{
    Protocol, PublishedPort, check_port_free, free_port, hold_port, published_ports, sync_ports,
};

fn published(host_ip: [u8; 4], host_port: u16, target: Ipv4Addr) -> PublishedPort {
    PublishedPort {
        host_ip: host_ip.into(),
        host_port,
        target,
        target_port: 80,
        protocol: Protocol::Tcp,
        owner: "shop-web-1".to_owned(),
    }
}

fn for_udp(port: &PublishedPort) -> PublishedPort {
    PublishedPort {
        protocol: Protocol::Udp,
        ..port.clone()
    }
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    on_fresh_host(reach_from_everywhere);
}

#[test]
fn a_published_port_is_reached_where_bridged_packets_pass_no_filter() {
    on_fresh_host(|| {
        const PARAMETER: &str = "net/bridge/bridge-nf-call-iptables";
        if crate::sysctl::read(PARAMETER).is_none() {
            println!("skipped: br_netfilter is not loaded, so the other test is this one");
            return;
        }
        // It belongs to the network namespace since Linux 5.3.
        crate::sysctl::write(PARAMETER, "0").unwrap();
        reach_from_everywhere();
    });
}

fn reach_from_everywhere() {
    let neighbour = outside();
    let network = made("a", "10.210.0.0/24");
    let (web, address) = container(&network, 2);
    web.serve(80, "web");
    let (other, _) = container(&network, 3);
    let elsewhere = made("b", "10.210.1.0/24");
    let (stranger, _) = container(&elsewhere, 2);
    let tcp = published([0; 4], 8080, address);
    sync_ports(&network, &[tcp.clone(), for_udp(&tcp)]).unwrap();

    // From the host: by loopback, by its own address, by the gateway's.
    for ip in [Ipv4Addr::LOCALHOST, HOST_OUTSIDE, network.gateway] {
        assert!(call(ip, 8080, PATIENCE).is_some(), "host to {ip}");
        assert!(call_udp(ip, 8080, PATIENCE).is_some(), "host to {ip}, udp");
    }
    // From a neighbour, whose address stays visible.
    let answer = neighbour.call(HOST_OUTSIDE, 8080);
    assert_eq!(answer.as_deref(), Some("web 203.0.113.2"));
    assert!(neighbour.call_udp(HOST_OUTSIDE, 8080).is_some());
    // From the same network, from the sandbox itself, and from another network.
    assert!(other.call(HOST_OUTSIDE, 8080).is_some(), "same network");
    assert!(
        other.call(network.gateway, 8080).is_some(),
        "by the gateway"
    );
    assert!(web.call(HOST_OUTSIDE, 8080).is_some(), "itself");
    assert!(stranger.call(HOST_OUTSIDE, 8080).is_some(), "other network");
}

#[test]
fn a_port_published_on_loopback_stays_there() {
    on_fresh_host(|| {
        let neighbour = outside();
        let network = made("a", "10.210.0.0/24");
        let (web, address) = container(&network, 2);
        web.serve(80, "web");
        let (other, _) = container(&network, 3);
        sync_ports(&network, &[published([127, 0, 0, 1], 8080, address)]).unwrap();
        assert!(call(Ipv4Addr::LOCALHOST, 8080, PATIENCE).is_some());
        assert_eq!(call(HOST_OUTSIDE, 8080, SILENCE), None);
        assert_eq!(neighbour.call_in_vain(HOST_OUTSIDE, 8080), None);
        assert_eq!(other.call_in_vain(network.gateway, 8080), None);
    });
}

#[test]
fn ports_are_read_back_replaced_and_withdrawn() {
    on_fresh_host(|| {
        let network = made("a", "10.210.0.0/24");
        let (web, address) = container(&network, 2);
        web.serve(80, "web");
        let first = published([0; 4], 8080, address);
        let second = published([127, 0, 0, 1], 8081, address);
        sync_ports(&network, &[first.clone(), second.clone()]).unwrap();
        let mut found = published_ports().unwrap();
        found.sort();
        let bridge = network.bridge.clone();
        assert_eq!(found, [(bridge.clone(), first), (bridge, second.clone())]);

        sync_ports(&network, std::slice::from_ref(&second)).unwrap();
        assert_eq!(call(Ipv4Addr::LOCALHOST, 8080, SILENCE), None);
        assert!(call(Ipv4Addr::LOCALHOST, 8081, PATIENCE).is_some());
        // Making the network again, as a new daemon does, keeps them.
        ensure(&network).unwrap();
        assert!(call(Ipv4Addr::LOCALHOST, 8081, PATIENCE).is_some());
        // So does a new version's change of the rules.
        let mut changed = network.clone();
        changed.subnet = "10.210.0.0/25".parse().unwrap();
        ensure(&changed).unwrap();
        assert!(call(Ipv4Addr::LOCALHOST, 8081, PATIENCE).is_some());

        sync_ports(&network, &[]).unwrap();
        assert_eq!(call(Ipv4Addr::LOCALHOST, 8081, SILENCE), None);
        assert_eq!(published_ports().unwrap(), []);
    });
}

#[test]
fn a_client_that_keeps_sending_follows_a_udp_port() {
    on_fresh_host(|| {
        let network = made("a", "10.210.0.0/24");
        let (old, old_address) = container(&network, 2);
        let (new, new_address) = container(&network, 3);
        old.serve(80, "old");
        new.serve(80, "new");
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect("127.0.0.1:8080").unwrap();
        for (address, name) in [(old_address, "old"), (new_address, "new")] {
            let port = for_udp(&published([0; 4], 8080, address));
            sync_ports(&network, &[port]).unwrap();
            client.send(b"?").unwrap();
            let mut buffer = [0; 64];
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..3], name.as_bytes(), "{length} bytes");
        }
    });
}

#[test]
fn wrong_ports_are_refused_and_change_nothing() {
    on_fresh_host(|| {
        let network = network("a", "10.210.0.0/24");
        let fine = published([0; 4], 8080, Ipv4Addr::new(10, 210, 0, 2));
        let error = sync_ports(&network, std::slice::from_ref(&fine)).unwrap_err();
        assert!(error.to_string().contains("net_a"), "{error}");
        ensure(&network).unwrap();
        sync_ports(&network, std::slice::from_ref(&fine)).unwrap();
        let mut stranger = fine.clone();
        stranger.target = Ipv4Addr::new(10, 9, 9, 9);
        let mut zero = fine.clone();
        zero.host_port = 0;
        let twice = published([127, 0, 0, 1], 8080, fine.target);
        for wrong in [stranger, zero, twice] {
            sync_ports(&network, &[fine.clone(), wrong]).unwrap_err();
        }
        assert_eq!(published_ports().unwrap().len(), 1);
    });
}

#[test]
fn a_port_in_use_names_its_owner() {
    on_fresh_host(|| {
        check_port_free(Ipv4Addr::UNSPECIFIED, 8080, Protocol::Tcp).unwrap();
        let listener = TcpListener::bind("127.0.0.1:8080").unwrap();
        let error = check_port_free(Ipv4Addr::UNSPECIFIED, 8080, Protocol::Tcp).unwrap_err();
        assert_eq!(error.kind(), bulkhead_model::ErrorKind::Conflict);
        let process = format!("(process {})", std::process::id());
        assert!(error.to_string().contains("8080/tcp"), "{error}");
        assert!(error.to_string().contains(&process), "{error}");
        check_port_free(Ipv4Addr::UNSPECIFIED, 8080, Protocol::Udp).unwrap();
        drop(listener);

        let held = hold_port(Ipv4Addr::LOCALHOST, 8080, Protocol::Tcp).unwrap();
        // The kernel lists no socket that is bound and does not listen: the owner has no name.
        let error = check_port_free(Ipv4Addr::LOCALHOST, 8080, Protocol::Tcp).unwrap_err();
        assert!(error.to_string().contains("another program"), "{error}");
        drop(held);

        let network = made("a", "10.210.0.0/24");
        let port = published([0; 4], 8080, Ipv4Addr::new(10, 210, 0, 2));
        sync_ports(&network, &[port]).unwrap();
        let error = check_port_free(Ipv4Addr::LOCALHOST, 8080, Protocol::Tcp).unwrap_err();
        assert!(error.to_string().contains("shop-web-1"), "{error}");
        let free = free_port(Ipv4Addr::UNSPECIFIED, Protocol::Tcp).unwrap();
        assert!(free > 0 && free != 8080);
        let error = check_port_free(Ipv4Addr::new(9, 9, 9, 9), 1, Protocol::Tcp).unwrap_err();
        assert!(error.to_string().contains("no address 9.9.9.9"), "{error}");
    });
}
