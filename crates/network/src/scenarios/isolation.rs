//! Who can talk to whom.

use super::*;

#[test]
fn sandboxes_of_a_network_reach_each_other() {
    on_fresh_host(|| {
        let network = made("a", "10.210.0.0/24");
        let (one, _) = container(&network, 2);
        let (other, address) = container(&network, 3);
        other.serve(80, "other");
        assert_eq!(one.call(address, 80).as_deref(), Some("other 10.210.0.2"));
        assert_eq!(
            one.call_udp(address, 80).as_deref(),
            Some("other 10.210.0.2")
        );
        // The host reaches every sandbox: the gateway needs it.
        let answer = call(address, 80, PATIENCE);
        assert_eq!(answer.as_deref(), Some("other 10.210.0.1"));
    });
}

#[test]
fn networks_do_not_reach_each_other_nor_each_others_gateway() {
    on_fresh_host(|| {
        let a = made("a", "10.210.0.0/24");
        let b = made("b", "10.210.1.0/24");
        // Also a network of another instance.
        let mut c = network("c", "10.210.2.0/24");
        c.bridge = Instance::new(Path::new("/other")).bridge_name("c");
        ensure(&c).unwrap();
        let (in_a, _) = container(&a, 2);
        let (in_b, address_b) = container(&b, 2);
        let (in_c, address_c) = container(&c, 2);
        in_b.serve(80, "b");
        in_c.serve(80, "c");
        assert_eq!(in_a.call_in_vain(address_b, 80), None);
        assert_eq!(in_a.call_in_vain(address_c, 80), None);
        assert_eq!(in_c.call_in_vain(address_b, 80), None);
        let gateway = TcpListener::bind((b.gateway, 53)).unwrap();
        std::thread::spawn(move || gateway.incoming().flatten().for_each(drop));
        assert_eq!(in_a.call_in_vain(b.gateway, 53), None);
        assert_eq!(in_b.call(b.gateway, 53).as_deref(), Some(""));
    });
}

#[test]
fn a_neighbour_with_a_route_reaches_neither_sandbox_nor_gateway() {
    on_fresh_host(|| {
        let neighbour = outside();
        let network = made("a", "10.210.0.0/24");
        let (sandbox, address) = container(&network, 2);
        sandbox.serve(80, "sandbox");
        neighbour.run(|| {
            let mut routing = crate::bridge::open_routing().unwrap();
            let link = routing.link("uplink").unwrap().unwrap();
            routing.add_default_route(link.index, HOST_OUTSIDE).unwrap();
        });
        assert_eq!(neighbour.call_in_vain(address, 80), None);
        // Nor the gateway, where the names are told.
        let gateway = TcpListener::bind((network.gateway, 53)).unwrap();
        std::thread::spawn(move || gateway.incoming().flatten().for_each(drop));
        assert_eq!(neighbour.call_in_vain(network.gateway, 53), None);
        assert_eq!(call(network.gateway, 53, PATIENCE).as_deref(), Some(""));
    });
}

#[test]
fn a_sandbox_does_not_reach_the_hosts_loopback() {
    on_fresh_host(|| {
        let network = made("a", "10.210.0.0/24");
        let (sandbox, _) = container(&network, 2);
        let listener = TcpListener::bind("127.0.0.1:7000").unwrap();
        std::thread::spawn(move || listener.incoming().flatten().for_each(drop));
        // The sandbox is root in its namespace: it may route 127.0.0.0/8 to the bridge.
        let reached = sandbox.run(|| {
            crate::sysctl::write("net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            let script = "ip addr del 127.0.0.1/8 dev lo; \
                          ip route add 127.0.0.1/32 via 10.210.0.1 dev eth0 onlink; \
                          ip route get 127.0.0.1";
            let output = std::process::Command::new("sh")
                .args(["-c", script])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("via 10.210.0.1"), "{output:?}");
            call(Ipv4Addr::LOCALHOST, 7000, SILENCE)
        });
        assert_eq!(reached, None);
    });
}
