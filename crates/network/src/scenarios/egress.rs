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

/// Runs a script that stands for another firewall; `None` if this host has no such program.
fn firewall(variant: &str, script: &str) -> Option<String> {
    let script = script.replace("iptables", &format!("iptables-{variant}"));
    let output = std::process::Command::new("sh")
        .args(["-ec", &script])
        .output()
        .unwrap();
    if output.status.code() == Some(127) {
        println!("skipped: no iptables-{variant}");
        return None;
    }
    if !output.status.success() {
        println!("skipped: iptables-{variant} does not work: {output:?}");
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap())
}

const DOCKER: &str = "iptables -P FORWARD DROP; iptables -N DOCKER-USER; \
                      iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER";
const UFW: &str = "iptables -P FORWARD DROP; iptables -P INPUT DROP";

fn works_beside(variant: &'static str, set_up: &'static str) {
    on_fresh_host(move || {
        let Some(_) = firewall(variant, set_up) else {
            return;
        };
        let before = firewall(variant, "iptables -S").unwrap();
        let neighbour = outside();
        neighbour.serve(7000, "neighbour");
        let network = made("a", "10.210.0.0/24");
        let (one, _) = container(&network, 2);
        let (other, address) = container(&network, 3);
        other.serve(80, "other");
        assert!(one.call(NEIGHBOUR, 7000).is_some());
        assert!(one.call(address, 80).is_some());
        let name_server = TcpListener::bind((network.gateway, 53)).unwrap();
        std::thread::spawn(move || name_server.incoming().flatten().for_each(drop));
        assert!(one.call(network.gateway, 53).is_some());
        let port = crate::PublishedPort {
            host_ip: Ipv4Addr::UNSPECIFIED,
            host_port: 8080,
            target: address,
            target_port: 80,
            protocol: crate::Protocol::Tcp,
            owner: "other".to_owned(),
        };
        crate::sync_ports(&network, &[port]).unwrap();
        assert!(neighbour.call(HOST_OUTSIDE, 8080).is_some());

        // The other firewall's own tool still reads the table, and nothing is added twice.
        let with_ours = firewall(variant, "iptables -S").expect("a table that can be read");
        assert!(with_ours.contains(&network.bridge), "{with_ours}");
        ensure(&network).unwrap();
        assert_eq!(firewall(variant, "iptables -S").unwrap(), with_ours);
        crate::remove(&network.bridge).unwrap();
        assert_eq!(firewall(variant, "iptables -S").unwrap(), before);
    });
}

#[test]
fn networks_work_beside_docker() {
    works_beside("nft", DOCKER);
}

#[test]
fn networks_work_beside_docker_with_old_iptables() {
    works_beside("legacy", DOCKER);
}

#[test]
fn networks_work_beside_ufw() {
    works_beside("nft", UFW);
}

#[test]
fn networks_work_beside_ufw_with_old_iptables() {
    works_beside("legacy", UFW);
}
