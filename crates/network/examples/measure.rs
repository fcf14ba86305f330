//! Measures what a network costs: run it as `unshare -n measure`, so that it has a host of its own.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_model::Endpoint;
use bulkhead_network::dns::{DnsConfig, Server, Zone};
use bulkhead_network::{
    Instance, NetworkSpec, Protocol, PublishedPort, attach_container, ensure, gateway_of,
    host_device_name, mac_of, open_tap, remove, sync_ports,
};

const SANDBOXES: u8 = 50;
const QUESTIONS: usize = 5000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let subnet = "10.210.0.0/24".parse()?;
    let network = NetworkSpec {
        id: "measure".to_owned(),
        name: "measure".to_owned(),
        bridge: Instance::new("/measure".as_ref()).bridge_name("measure"),
        subnet,
        gateway: gateway_of(&subnet),
        mtu: 1400,
        internal: false,
    };
    let started = Instant::now();
    ensure(&network)?;
    report("ensure, first", &mut [started.elapsed()]);
    let mut times = sample(100, |_| ensure(&network))?;
    report("ensure, again", &mut times);

    let mut children: Vec<Child> = Vec::new();
    for _ in 0..SANDBOXES {
        let child = Command::new("unshare")
            .args(["-n", "cat"])
            .stdin(Stdio::piped())
            .spawn()?;
        children.push(child);
    }
    std::thread::sleep(Duration::from_secs(1));
    let mut times = sample(SANDBOXES, |index| {
        let pid = children[usize::from(index)].id();
        attach_container(pid, &endpoint(&network, index + 2), true)
    })?;
    report("attach container", &mut times);
    let mut taps = Vec::new();
    let mut times = sample(SANDBOXES, |index| {
        taps.push(open_tap(&endpoint(&network, index + 100))?);
        Ok(())
    })?;
    report("open tap", &mut times);
    let mut times = sample(20, |index| {
        let port = PublishedPort {
            host_ip: Ipv4Addr::UNSPECIFIED,
            host_port: 8000 + u16::from(index),
            target: Ipv4Addr::new(10, 210, 0, 2),
            target_port: 80,
            protocol: Protocol::Tcp,
            owner: "measure".to_owned(),
        };
        sync_ports(&network, &[port])
    })?;
    report("change a port", &mut times);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let config = DnsConfig {
        revision: 1,
        zones: vec![Zone {
            listen: network.gateway,
            names: [("web".to_owned(), vec![Ipv4Addr::new(10, 210, 0, 2)])].into(),
        }],
        ..DnsConfig::default()
    };
    let (_feed, config) = tokio::sync::watch::channel(Arc::new(config));
    let server = runtime.block_on(async { Server::start(config) });
    runtime.block_on(server.wait_for(1));
    // Our own address has to be up for the answers' way back.
    Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect((network.gateway, 53))?;
    let question = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
    let mut times = Vec::new();
    for _ in 0..QUESTIONS {
        let started = Instant::now();
        socket.send(question)?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        if !answer[..length].ends_with(&[10, 210, 0, 2]) {
            return Err("the name server gave a wrong answer".into());
        }
        times.push(started.elapsed());
    }
    report("name, over udp", &mut times);

    let started = Instant::now();
    remove(&network.bridge)?;
    report("remove", &mut [started.elapsed()]);
    for mut child in children {
        drop(child.stdin.take());
        child.wait()?;
    }
    Ok(())
}

fn endpoint(network: &NetworkSpec, number: u8) -> Endpoint {
    let address = Ipv4Addr::new(10, 210, 0, number);
    Endpoint {
        bridge: network.bridge.clone(),
        host_device: host_device_name(&number.to_string(), 0),
        interface: "eth0".to_owned(),
        mac: mac_of(address),
        address,
        prefix_length: network.subnet.prefix_len(),
        gateway: network.gateway,
        mtu: network.mtu,
    }
}

fn sample(
    count: u8,
    mut work: impl FnMut(u8) -> bulkhead_model::Result<()>,
) -> bulkhead_model::Result<Vec<Duration>> {
    (0..count)
        .map(|index| {
            let started = Instant::now();
            work(index)?;
            Ok(started.elapsed())
        })
        .collect()
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let median = times[times.len() / 2];
    let slow = times[times.len() * 95 / 100];
    println!("{what:<18} median {median:>10.1?}   95 % {slow:>10.1?}");
}
