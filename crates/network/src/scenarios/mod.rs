//! Tests with real devices and real packets. Each runs on a thread in a network namespace of its
//! own, which is the "host" of the test, and never touches the machine's.

mod egress;
mod isolation;
mod lifecycle;
mod names;
mod ports;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bulkhead_model::Endpoint;

use crate::{Instance, Ipv4Net, NetworkSpec, attach_namespace, ensure, gateway_of, sys};
use crate::{host_device_name, mac_of};

/// Long enough for a loaded machine to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for a packet to have arrived if nothing stopped it.
const SILENCE: Duration = Duration::from_millis(700);

/// Runs a test as the host of a fresh namespace; says why where it cannot.
fn on_fresh_host(test: impl FnOnce() + Send + 'static) {
    let host = std::thread::spawn(move || {
        if let Err(error) = sys::unshare_network() {
            println!("skipped: cannot make a network namespace: {error}");
            return;
        }
        let mut routing = crate::bridge::open_routing().unwrap();
        set_up(&mut routing, "lo");
        test();
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

fn set_up(routing: &mut crate::link::Routing, device: &str) {
    let link = routing.link(device).unwrap().expect(device);
    let up = crate::link::LinkChange {
        up: true,
        ..Default::default()
    };
    routing.set_link(link.index, &up).unwrap();
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread in it; it ends with the value.
struct Namespace {
    descriptor: OwnedFd,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, received) = mpsc::channel::<Job>();
        let (opened, descriptor) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            sys::unshare_network().unwrap();
            let file = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            opened.send(OwnedFd::from(file)).unwrap();
            for job in received {
                job();
            }
        });
        Self {
            descriptor: descriptor.recv().unwrap(),
            jobs: Some(jobs),
            thread: Some(thread),
        }
    }

    /// Runs `work` in the namespace and waits for it.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(work());
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        answered.recv().expect("the work in the namespace panicked")
    }

    /// Answers every TCP connection to the port with the caller's address and `name`, and every
    /// UDP packet with the same, until the test ends.
    fn serve(&self, port: u16, name: &'static str) {
        self.run(move || {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let peer = stream.peer_addr().unwrap().ip();
                    let _ = write!(stream, "{name} {peer}");
                }
            });
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
                }
            });
        });
    }

    fn call(&self, ip: Ipv4Addr, port: u16) -> Option<String> {
        self.run(move || call(ip, port, PATIENCE))
    }

    /// As [`Self::call`], where no answer is expected.
    fn call_in_vain(&self, ip: Ipv4Addr, port: u16) -> Option<String> {
        self.run(move || call(ip, port, SILENCE))
    }

    fn call_udp(&self, ip: Ipv4Addr, port: u16) -> Option<String> {
        self.run(move || call_udp(ip, port, PATIENCE))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the server on the address says, `None` if it cannot be reached in time.
fn call(ip: Ipv4Addr, port: u16, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((ip, port)), patience).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn call_udp(ip: Ipv4Addr, port: u16, patience: Duration) -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.connect((ip, port)).ok()?;
    socket.send(b"?").ok()?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn instance() -> Instance {
    Instance::new(Path::new("/test"))
}

fn network(id: &str, subnet: &str) -> NetworkSpec {
    let subnet: Ipv4Net = subnet.parse().unwrap();
    NetworkSpec {
        id: id.to_owned(),
        name: format!("net_{id}"),
        bridge: instance().bridge_name(id),
        subnet,
        gateway: gateway_of(&subnet),
        mtu: 1400,
        internal: false,
    }
}

fn endpoint(network: &NetworkSpec, host_number: u8) -> Endpoint {
    let [a, b, c, _] = network.subnet.network().octets();
    let address = Ipv4Addr::new(a, b, c, host_number);
    Endpoint {
        bridge: network.bridge.clone(),
        host_device: host_device_name(&format!("{}-{host_number}", network.id), 0),
        interface: "eth0".to_owned(),
        mac: mac_of(address),
        address,
        prefix_length: network.subnet.prefix_len(),
        gateway: network.gateway,
        mtu: network.mtu,
    }
}

/// A container's namespace on the network, with its address.
fn container(network: &NetworkSpec, host_number: u8) -> (Namespace, Ipv4Addr) {
    let namespace = Namespace::new();
    let endpoint = endpoint(network, host_number);
    attach_namespace(namespace.descriptor.as_fd(), &endpoint, true).unwrap();
    (namespace, endpoint.address)
}

/// A neighbour of the host (203.0.113.1) at 203.0.113.2, with no way back to our subnets.
fn outside() -> Namespace {
    let namespace = Namespace::new();
    let mut routing = crate::bridge::open_routing().unwrap();
    let peer = crate::link::VethPeer {
        name: "uplink",
        mac: [2, 0, 0, 0, 0, 2],
        namespace: namespace.descriptor.as_fd(),
    };
    routing.add_veth("outside", 1400, &peer).unwrap();
    let link = routing.link("outside").unwrap().unwrap();
    let address = "203.0.113.1/24".parse().unwrap();
    routing.add_address(link.index, address).unwrap();
    set_up(&mut routing, "outside");
    namespace.run(|| {
        let mut routing = crate::bridge::open_routing().unwrap();
        let link = routing.link("uplink").unwrap().unwrap();
        let address = "203.0.113.2/24".parse().unwrap();
        routing.add_address(link.index, address).unwrap();
        set_up(&mut routing, "uplink");
    });
    namespace
}

const HOST_OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

fn made(id: &str, subnet: &str) -> NetworkSpec {
    let spec = network(id, subnet);
    ensure(&spec).unwrap();
    spec
}

fn nft(arguments: &[&str]) -> String {
    let output = std::process::Command::new("nft")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
