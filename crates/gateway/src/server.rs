//! The listener, the clients' connections, and the way out without losing a request.
//!
//! ```text
//! Serving ─shutdown─▶ Draining ─grace─▶ Closing ─all ended, or timeout─▶ Aborting ─▶ returned
//!            no more accepted;   idle connections       what is left
//!            responses close     are closed             is cut
//! ```
//! A successor that inherits the listener (see [`Gateway::from_listener`]) accepts meanwhile: the
//! queue of connections belongs to the listener, not to a process.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bulkhead_model::{Error, Result};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::access_log::{AccessLog, LogHandle};
use crate::counters::Counters;
use crate::proxy;
use crate::route::RouteTable;
use crate::router::Routes;
use crate::settings::Settings;

const LISTEN_BACKLOG: u32 = 4096;
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
const MAX_STREAMS: u32 = 200;
/// At shutdown: how long connections are still taken from the listener's queue.
const QUEUE_DRAIN: Duration = Duration::from_millis(80);

/// The HTTP entry: bound by [`Gateway::bind`], serving in [`Gateway::run`].
#[derive(Debug)]
pub struct Gateway {
    listener: TcpListener,
    local_address: SocketAddr,
    routes: watch::Receiver<Arc<RouteTable>>,
    access_log: AccessLog,
    settings: Settings,
    counters: Counters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Phase {
    Serving,
    Draining,
    Closing,
    Aborting,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) routes: Routes,
    pub(crate) settings: Settings,
    pub(crate) log: LogHandle,
    draining: AtomicBool,
}

/// One client's connection; kept alive by its tunnel after an upgrade.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    shared: Arc<Shared>,
    pub(crate) client: IpAddr,
    requests: AtomicU64,
    active: AtomicUsize,
    phase: watch::Receiver<Phase>,
    _permit: OwnedSemaphorePermit,
}

impl Gateway {
    /// Listens at `address`; port 0 takes any free one. Call within a tokio runtime.
    ///
    /// # Errors
    /// `Conflict` if the address is in use, `Host` if it cannot be bound for another reason.
    pub fn bind(
        address: SocketAddr,
        routes: watch::Receiver<Arc<RouteTable>>,
        access_log: AccessLog,
    ) -> Result<Self> {
        let listen = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(LISTEN_BACKLOG)
        };
        let listener = listen().map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => Error::conflict(format!(
                "listen on {address} for the gateway: the address is in use; stop the program that holds it or choose another one"
            )),
            _ => Error::host(format!("listen on {address} for the gateway")).with_source(error),
        })?;
        Self::new(listener, routes, access_log)
    }

    /// Serves from a listener that a predecessor bound and handed over, so that no connection is
    /// lost while one process takes the place of another.
    ///
    /// # Errors
    /// `Host` if the listener cannot be used.
    pub fn from_listener(
        listener: std::net::TcpListener,
        routes: watch::Receiver<Arc<RouteTable>>,
        access_log: AccessLog,
    ) -> Result<Self> {
        let take = || {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let listener = take()
            .map_err(|error| Error::host("take over the gateway's listener").with_source(error))?;
        Self::new(listener, routes, access_log)
    }

    fn new(
        listener: TcpListener,
        routes: watch::Receiver<Arc<RouteTable>>,
        access_log: AccessLog,
    ) -> Result<Self> {
        let local_address = listener
            .local_addr()
            .map_err(|error| Error::host("read the gateway's address").with_source(error))?;
        Ok(Self {
            listener,
            local_address,
            routes,
            access_log,
            settings: Settings::default(),
            counters: Counters::default(),
        })
    }

    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// A handle to the counters, good before, while and after the gateway runs.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Serves until `shutdown` is ready, then until the requests that run have ended
    /// ([`Settings::drain_timeout`] at most) and the access log is written.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (phase_sender, phase) = watch::channel(Phase::Serving);
        let max_connections = self.settings.max_connections.max(1);
        let permits = Arc::new(Semaphore::new(max_connections as usize));
        let shared = Arc::new(Shared {
            routes: Routes::new(self.routes, self.counters),
            settings: self.settings,
            log: self.access_log.handle(),
            draining: AtomicBool::new(false),
        });
        let settings = shared.settings.clone();
        let acceptor = Acceptor {
            listener: self.listener,
            shared,
            permits: permits.clone(),
            phase,
        };
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                () = acceptor.accept() => {}
            }
        }
        acceptor.shared.draining.store(true, Ordering::Relaxed);
        phase_sender.send_replace(Phase::Draining);
        // Whoever is in the queue was told by the kernel that the connection stands.
        let last = Instant::now() + QUEUE_DRAIN;
        while Instant::now() < last
            && tokio::time::timeout(QUEUE_DRAIN / 4, acceptor.accept())
                .await
                .is_ok()
        {}
        drop(acceptor);
        let ended = async |limit| {
            tokio::time::timeout(limit, permits.acquire_many(max_connections))
                .await
                .is_ok()
        };
        if !ended(settings.drain_grace).await {
            phase_sender.send_replace(Phase::Closing);
            if !ended(settings.drain_timeout).await {
                phase_sender.send_replace(Phase::Aborting);
                if !ended(Duration::from_secs(1)).await {
                    tracing::warn!("connections of the gateway are still open after its drain");
                }
            }
        }
        let log = self.access_log;
        let closed = tokio::task::spawn_blocking(move || log.close());
        if tokio::time::timeout(Duration::from_secs(5), closed)
            .await
            .is_err()
        {
            tracing::warn!("the access log was not written to its end in time");
        }
    }
}

impl AsFd for Gateway {
    /// The listener, for a successor to inherit.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

struct Acceptor {
    listener: TcpListener,
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    phase: watch::Receiver<Phase>,
}

impl Acceptor {
    /// Takes one connection and serves it in a task of its own. May be cancelled at any point
    /// without losing a connection.
    async fn accept(&self) {
        // Never closed while the acceptor lives.
        let Ok(permit) = self.permits.clone().acquire_owned().await else {
            return;
        };
        let (stream, peer) = match self.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that was given up in the queue is no reason to wait; a lack of
                // file descriptors is.
                if !is_of_the_connection(&error) {
                    tracing::warn!(%error, "the gateway cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                return;
            }
        };
        let context = Arc::new(ConnectionContext {
            shared: self.shared.clone(),
            client: peer.ip().to_canonical(),
            requests: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            phase: self.phase.clone(),
            _permit: permit,
        });
        tokio::spawn(serve_connection(stream, context));
    }
}

async fn serve_connection(stream: TcpStream, context: Arc<ConnectionContext>) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE / 3);
    // Both are improvements only.
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let _ = stream.set_nodelay(true);

    let settings = &context.settings;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_read_timeout)
        .max_buf_size(settings.max_header_bytes.max(8192))
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(TCP_KEEPALIVE);
    let service = {
        let context = context.clone();
        service_fn(move |request| proxy::serve(context.clone(), request))
    };
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut phase = context.phase();
    let mut idle_check = tokio::time::interval(settings.header_read_timeout);
    idle_check.reset();
    let mut requests_before = 0;
    let mut target_phase = Phase::Closing;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a client's connection ended");
                }
                break;
            }
            reached = phase.wait_for(|phase| *phase >= target_phase) => {
                let aborting = reached.is_ok_and(|phase| *phase == Phase::Aborting);
                if aborting || target_phase == Phase::Aborting || context.requests() == 0 {
                    break;
                }
                target_phase = Phase::Aborting;
                connection.as_mut().graceful_shutdown();
            }
            _ = idle_check.tick() => {
                let requests = context.requests();
                if context.active.load(Ordering::Relaxed) == 0 && requests == requests_before {
                    if requests == 0 {
                        break;
                    }
                    connection.as_mut().graceful_shutdown();
                }
                requests_before = requests;
            }
        }
    }
}

impl ConnectionContext {
    pub(crate) fn begin_request(&self) -> ActiveRequest<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(self)
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }
}

impl std::ops::Deref for ConnectionContext {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// A request between its header and its response's header.
pub(crate) struct ActiveRequest<'a>(&'a ConnectionContext);

impl Drop for ActiveRequest<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
