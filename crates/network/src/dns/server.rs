//! Listeners that come and go with the zones.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::answer::Names;
use super::config::DnsConfig;
use super::forward::Upstream;
use super::message::{Query, Refusal};

const BIND_RETRY: Duration = Duration::from_millis(500);
/// Questions of one network that wait for the host's resolvers at once.
const FORWARD_LIMIT: usize = 256;
/// TCP connections of one network at once.
const CONNECTION_LIMIT: usize = 64;
/// How long a TCP client may be silent, or slow to take an answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
const LISTEN_BACKLOG: i32 = 64;

/// The running name server; dropping it ends it.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
    applied: watch::Receiver<Applied>,
}

/// How far the server has followed its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The revision that is in force.
    pub revision: u64,
    /// Addresses that could not be listened on, because another server has them; tried again all
    /// the time.
    pub unbound: Vec<Ipv4Addr>,
}

impl Server {
    /// Starts the server on the current tokio runtime. It follows `config` until the sender is
    /// dropped, and goes on with what it had last then.
    pub fn start(config: watch::Receiver<Arc<DnsConfig>>) -> Self {
        let (report, applied) = watch::channel(Applied::default());
        Self {
            task: tokio::spawn(follow(config, report)),
            applied,
        }
    }

    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.clone()
    }

    /// Waits until `revision` or a later one is in force.
    pub async fn wait_for(&self, revision: u64) {
        let mut applied = self.applied();
        // The sender lives as long as the task, and the task as long as `self`.
        let _ = applied
            .wait_for(|applied| applied.revision >= revision)
            .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a network's listeners share.
#[derive(Debug)]
struct Shared {
    names: RwLock<Arc<Names>>,
    upstream: RwLock<Arc<Upstream>>,
    forwards: Semaphore,
    connections: Arc<Semaphore>,
}

struct Listener {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(mut config: watch::Receiver<Arc<DnsConfig>>, report: watch::Sender<Applied>) {
    let mut listeners: HashMap<SocketAddrV4, Listener> = HashMap::new();
    loop {
        let current = Arc::clone(&config.borrow_and_update());
        let unbound = apply(&current, &mut listeners).await;
        report.send_replace(Applied {
            revision: current.revision,
            unbound,
        });
        if config.changed().await.is_err() {
            // Whoever feeds us is gone; what it said last stays true until we are ended.
            std::future::pending::<()>().await;
        }
    }
}

/// Makes the listeners those of `config`; gives the addresses that could not be bound.
async fn apply(
    config: &DnsConfig,
    listeners: &mut HashMap<SocketAddrV4, Listener>,
) -> Vec<Ipv4Addr> {
    let addresses: Vec<SocketAddrV4> = config
        .zones
        .iter()
        .map(|zone| SocketAddrV4::new(zone.listen, config.port))
        .collect();
    let gone: Vec<SocketAddrV4> = listeners
        .keys()
        .filter(|address| !addresses.contains(address))
        .copied()
        .collect();
    for address in gone {
        if let Some(mut listener) = listeners.remove(&address) {
            listener.task.abort();
            // Its sockets are closed when the task has ended, not when it is told to.
            let _ = (&mut listener.task).await;
        }
    }
    let own = addresses.iter().copied().map(SocketAddr::V4).collect();
    let upstream = Arc::new(Upstream::new(config.upstream.clone(), own));
    let mut binding = Vec::new();
    for (zone, address) in config.zones.iter().zip(addresses) {
        if let Some(listener) = listeners.get(&address) {
            let shared = &listener.shared;
            let names = Names::new(zone, &read(&shared.names));
            write(&shared.names, Arc::new(names));
            write(&shared.upstream, Arc::clone(&upstream));
            continue;
        }
        let shared = Arc::new(Shared {
            names: RwLock::new(Arc::new(Names::new(zone, &Names::default()))),
            upstream: RwLock::new(Arc::clone(&upstream)),
            forwards: Semaphore::new(FORWARD_LIMIT),
            connections: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
        });
        let (bound, outcome) = oneshot::channel();
        binding.push((zone.listen, outcome));
        let task = tokio::spawn(listen(address, Arc::clone(&shared), bound));
        listeners.insert(address, Listener { shared, task });
    }
    let mut unbound = Vec::new();
    for (address, outcome) in binding {
        if outcome.await != Ok(true) {
            unbound.push(address);
        }
    }
    unbound
}

/// Serves one address until it is aborted; says once whether it could be bound at first.
async fn listen(address: SocketAddrV4, shared: Arc<Shared>, bound: oneshot::Sender<bool>) {
    let mut bound = Some(bound);
    let (udp, tcp) = loop {
        match bind(address) {
            Ok(sockets) => break sockets,
            Err(error) => {
                if let Some(bound) = bound.take() {
                    tracing::warn!(
                        %address, %error,
                        "names of this network are not served: another name server listens on \
                         this address; bind it to the host's own addresses only"
                    );
                    let _ = bound.send(false);
                }
                tokio::time::sleep(BIND_RETRY).await;
            }
        }
    };
    if let Some(bound) = bound.take() {
        let _ = bound.send(true);
    }
    tokio::join!(
        serve_udp(Arc::new(udp), Arc::clone(&shared)),
        serve_tcp(tcp, shared)
    );
}

/// Binds both sockets, also before the bridge has the address.
fn bind(address: SocketAddrV4) -> io::Result<(UdpSocket, TcpListener)> {
    let open = |kind| -> io::Result<_> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
        sockopt::set_ip_freebind(&socket, true)?;
        Ok(socket)
    };
    let udp = open(SocketType::DGRAM)?;
    rustix::net::bind(&udp, &address)?;
    let tcp = open(SocketType::STREAM)?;
    // Connections of a predecessor that are being closed must not keep us off the address.
    sockopt::set_socket_reuseaddr(&tcp, true)?;
    rustix::net::bind(&tcp, &address)?;
    rustix::net::listen(&tcp, LISTEN_BACKLOG)?;
    Ok((
        UdpSocket::from_std(udp.into())?,
        TcpListener::from_std(tcp.into())?,
    ))
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; 4096];
    // Answers of the host's resolvers are waited for here, so that they end with the listener.
    let mut forwards = tokio::task::JoinSet::new();
    loop {
        while forwards.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receive over udp");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let bytes = &buffer[..length];
        if let Some(reply) = answer_at_once(bytes, &shared, true) {
            if !reply.is_empty() {
                let _ = socket.send_to(&reply, client).await;
            }
            continue;
        }
        let (bytes, shared) = (bytes.to_vec(), Arc::clone(&shared));
        let socket = Arc::downgrade(&socket);
        forwards.spawn(async move {
            let reply = forward(&bytes, &shared, true).await;
            if let Some(socket) = socket.upgrade() {
                let _ = socket.send_to(&reply, client).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&shared.connections).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = serve_connection(stream, &shared).await {
                        tracing::debug!(%error, "dns over tcp");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept over tcp");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let received = timeout(CONNECTION_TIMEOUT, async {
            let length = usize::from(stream.read_u16().await?);
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes).await?;
            io::Result::Ok(bytes)
        });
        let bytes = match received.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let reply = match answer_at_once(&bytes, shared, false) {
            Some(reply) if reply.is_empty() => return Ok(()),
            Some(reply) => reply,
            None => forward(&bytes, shared, false).await,
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&reply);
        timeout(CONNECTION_TIMEOUT, stream.write_all(&framed)).await??;
    }
}

/// The answer that needs nobody else; empty if there is to be none, `None` if the question must be
/// passed on.
fn answer_at_once(bytes: &[u8], shared: &Shared, over_udp: bool) -> Option<Vec<u8>> {
    match Query::parse(bytes) {
        Ok(query) => read(&shared.names).answer(&query, over_udp),
        Err(Refusal::Reply(reply)) => Some(reply),
        Err(Refusal::Drop) => Some(Vec::new()),
    }
}

async fn forward(bytes: &[u8], shared: &Shared, over_udp: bool) -> Vec<u8> {
    let Ok(query) = Query::parse(bytes) else {
        return Vec::new();
    };
    let Ok(_permit) = shared.forwards.try_acquire() else {
        return query.reply(super::message::SERVER_FAILURE, &[], 0, over_udp);
    };
    let upstream = read(&shared.upstream);
    upstream.forward(&query, bytes, over_udp).await
}

fn read<T>(lock: &RwLock<Arc<T>>) -> Arc<T> {
    match lock.read() {
        Ok(value) => Arc::clone(&value),
        Err(poisoned) => Arc::clone(&poisoned.into_inner()),
    }
}

fn write<T>(lock: &RwLock<Arc<T>>, value: Arc<T>) {
    match lock.write() {
        Ok(mut current) => *current = value,
        Err(poisoned) => *poisoned.into_inner() = value,
    }
}
