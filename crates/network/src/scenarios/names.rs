//! The name server, over UDP and TCP, with resolvers that the test plays.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::*;
use crate::dns::{DnsConfig, Server, Zone};

const A: u16 = 1;
const AAAA: u16 = 28;
const GATEWAY_A: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
const GATEWAY_B: Ipv4Addr = Ipv4Addr::new(127, 1, 1, 1);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 1);
const SILENT: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 2);

fn question(name: &str, kind: u16) -> Vec<u8> {
    crate::dns::test_question(name, kind)
}

/// An answer's code and A records.
fn read_answer(bytes: &[u8]) -> (u8, Vec<Ipv4Addr>) {
    let count = usize::from(bytes[7]);
    let mut position = 12;
    while bytes[position] != 0 {
        position += usize::from(bytes[position]) + 1;
    }
    position += 5;
    let addresses = (0..count)
        .map(|index| {
            let data = position + index * 16 + 12;
            let octets: [u8; 4] = bytes[data..data + 4].try_into().unwrap();
            Ipv4Addr::from(octets)
        })
        .collect();
    (bytes[3] & 15, addresses)
}

/// Asks, and asks again as a resolver does whose packet was lost.
fn ask_udp(server: Ipv4Addr, name: &str, kind: u16) -> (u8, Vec<Ipv4Addr>) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE / 2)).unwrap();
    let mut buffer = [0; 2048];
    for _ in 0..4 {
        socket.send_to(&question(name, kind), (server, 53)).unwrap();
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        assert_eq!(from.ip(), server);
        assert_eq!(&buffer[..2], &question(name, kind)[..2]);
        return read_answer(&buffer[..length]);
    }
    panic!("{server} does not answer");
}

fn ask_tcp(server: Ipv4Addr, name: &str, kind: u16) -> (u8, Vec<Ipv4Addr>) {
    let mut stream = TcpStream::connect((server, 53)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let bytes = question(name, kind);
    let length = u16::try_from(bytes.len()).unwrap();
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    read_answer(&answer)
}

/// A resolver that answers every question with 198.51.100.7, names that begin with `none` with
/// "no such name".
fn resolver(address: Ipv4Addr) {
    fn reply(question: &[u8]) -> Vec<u8> {
        let mut reply = question.to_vec();
        reply[2] |= 0x80;
        if question[13..].starts_with(b"none") {
            reply[3] = 3;
            return reply;
        }
        reply[7] = 1;
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
        reply
    }
    let socket = UdpSocket::bind((address, 53)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            // First a forged answer, which must not be believed.
            let mut forged = reply(&buffer[..length]);
            forged[0] ^= 1;
            let last = forged.len() - 1;
            forged[last] = 66;
            let _ = socket.send_to(&forged, client);
            let _ = socket.send_to(&reply(&buffer[..length]), client);
        }
    });
    let listener = TcpListener::bind((address, 53)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut bytes).unwrap();
            let answer = reply(&bytes);
            let length = u16::try_from(answer.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
}

fn zone(listen: Ipv4Addr, names: &[(&str, &[Ipv4Addr])]) -> Zone {
    Zone {
        listen,
        names: names
            .iter()
            .map(|(name, addresses)| ((*name).to_owned(), addresses.to_vec()))
            .collect::<BTreeMap<_, _>>(),
    }
}

fn config(revision: u64, zones: Vec<Zone>) -> Arc<DnsConfig> {
    Arc::new(DnsConfig {
        revision,
        zones,
        upstream: vec![SocketAddr::from((RESOLVER, 53))],
        ..DnsConfig::default()
    })
}

struct Running {
    runtime: tokio::runtime::Runtime,
    server: Server,
    feed: watch::Sender<Arc<DnsConfig>>,
}

impl Running {
    fn start(first: Arc<DnsConfig>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let revision = first.revision;
        let (feed, config) = watch::channel(first);
        let server = runtime.block_on(async { Server::start(config) });
        let running = Self {
            runtime,
            server,
            feed,
        };
        running.wait_for(revision);
        running
    }

    fn change(&self, next: Arc<DnsConfig>) {
        let revision = next.revision;
        self.feed.send_replace(next);
        self.wait_for(revision);
    }

    fn wait_for(&self, revision: u64) {
        self.runtime.block_on(self.server.wait_for(revision));
    }
}

const ONE: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 2);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 3);

#[test]
fn each_network_hears_its_own_names() {
    on_fresh_host(|| {
        resolver(RESOLVER);
        let running = Running::start(config(
            1,
            vec![
                zone(GATEWAY_A, &[("db", &[ONE, TWO]), ("ill", &[])]),
                zone(GATEWAY_B, &[("web", &[TWO])]),
            ],
        ));
        assert_eq!(ask_udp(GATEWAY_A, "DB", A), (0, vec![ONE, TWO]));
        assert_eq!(ask_tcp(GATEWAY_A, "db", A), (0, vec![TWO, ONE]));
        assert_eq!(ask_udp(GATEWAY_A, "db", AAAA), (0, vec![]));
        assert_eq!(ask_udp(GATEWAY_A, "ill", A), (0, vec![]));
        // Another network's name is a stranger's, and goes to the host's resolver.
        let strange = vec![Ipv4Addr::new(198, 51, 100, 7)];
        assert_eq!(ask_udp(GATEWAY_B, "db", A), (0, strange));
        assert_eq!(ask_udp(GATEWAY_B, "web", A), (0, vec![TWO]));
        drop(running);
    });
}

#[test]
fn other_names_are_passed_on_over_udp_and_tcp() {
    on_fresh_host(|| {
        resolver(RESOLVER);
        // It takes questions and never answers, and is asked first.
        let _silent = UdpSocket::bind((SILENT, 53)).unwrap();
        let mut first = DnsConfig::clone(&config(1, vec![zone(GATEWAY_A, &[])]));
        let closed = Ipv4Addr::new(127, 2, 0, 9);
        first.upstream = [GATEWAY_A, closed, SILENT, RESOLVER]
            .map(|address| SocketAddr::from((address, 53)))
            .to_vec();
        let _running = Running::start(Arc::new(first));
        let found = (0, vec![Ipv4Addr::new(198, 51, 100, 7)]);
        assert_eq!(ask_udp(GATEWAY_A, "www.example.org", A), found);
        assert_eq!(ask_tcp(GATEWAY_A, "www.example.org", A), found);
        assert_eq!(ask_udp(GATEWAY_A, "none.example.org", A), (3, vec![]));
    });
}

#[test]
fn without_a_resolver_the_answer_is_server_failure() {
    on_fresh_host(|| {
        let mut only_us = DnsConfig::clone(&config(1, vec![zone(GATEWAY_A, &[("db", &[ONE])])]));
        only_us.upstream = vec![SocketAddr::from((GATEWAY_A, 53))];
        let _running = Running::start(Arc::new(only_us));
        assert_eq!(ask_udp(GATEWAY_A, "www.example.org", A), (2, vec![]));
        assert_eq!(ask_udp(GATEWAY_A, "db", A), (0, vec![ONE]));
    });
}

#[test]
fn a_change_is_in_force_when_it_says_so() {
    on_fresh_host(|| {
        resolver(RESOLVER);
        let running = Running::start(config(1, vec![zone(GATEWAY_A, &[("db", &[ONE])])]));
        running.change(config(2, vec![zone(GATEWAY_A, &[("db", &[TWO])])]));
        assert_eq!(ask_udp(GATEWAY_A, "db", A), (0, vec![TWO]));
        // One zone goes and another comes, on an address that no device has yet.
        let network = network("a", "10.210.0.0/24");
        running.change(config(3, vec![zone(network.gateway, &[("web", &[ONE])])]));
        assert!(running.server.applied().borrow().unbound.is_empty());
        assert!(UdpSocket::bind((GATEWAY_A, 53)).is_ok());
        ensure(&network).unwrap();
        let (sandbox, _) = container(&network, 2);
        let gateway = network.gateway;
        let answer = sandbox.run(move || (ask_udp(gateway, "web", A), ask_tcp(gateway, "web", A)));
        assert_eq!(answer, ((0, vec![ONE]), (0, vec![ONE])));
    });
}

#[test]
fn a_taken_address_is_reported_and_tried_again() {
    on_fresh_host(|| {
        let other = UdpSocket::bind((GATEWAY_A, 53)).unwrap();
        let running = Running::start(config(
            1,
            vec![
                zone(GATEWAY_A, &[("db", &[ONE])]),
                zone(GATEWAY_B, &[("db", &[TWO])]),
            ],
        ));
        assert_eq!(running.server.applied().borrow().unbound, [GATEWAY_A]);
        assert_eq!(ask_udp(GATEWAY_B, "db", A), (0, vec![TWO]));
        drop(other);
        let deadline = std::time::Instant::now() + PATIENCE;
        while TcpStream::connect((GATEWAY_A, 53)).is_err() {
            assert!(
                std::time::Instant::now() < deadline,
                "it was not tried again"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(ask_udp(GATEWAY_A, "db", A), (0, vec![ONE]));
    });
}

#[test]
fn malformed_messages_harm_nobody() {
    on_fresh_host(|| {
        let _running = Running::start(config(1, vec![zone(GATEWAY_A, &[("db", &[ONE])])]));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let fine = question("db", A);
        let mut state = 7u64;
        for round in 0..2000 {
            let mut bytes = fine.clone();
            for _ in 0..3 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let position = (state >> 33) as usize % bytes.len();
                bytes[position] = (state >> 20) as u8;
            }
            bytes.truncate(round % (fine.len() + 1));
            socket.send_to(&bytes, (GATEWAY_A, 53)).unwrap();
        }
        socket.send_to(&[0xff; 9000], (GATEWAY_A, 53)).unwrap();
        // Over TCP: half a length, a length with nothing behind it, garbage, and silence.
        let mut open = Vec::new();
        for bytes in [&[0][..], &[255, 255], &[0, 4, 1, 2, 3, 4], &[0, 0], &[]] {
            let mut stream = TcpStream::connect((GATEWAY_A, 53)).unwrap();
            stream.write_all(bytes).unwrap();
            open.push(stream);
        }
        assert_eq!(ask_udp(GATEWAY_A, "db", A), (0, vec![ONE]));
        assert_eq!(ask_tcp(GATEWAY_A, "db", A), (0, vec![ONE]));
    });
}
