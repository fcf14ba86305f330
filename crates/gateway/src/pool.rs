//! Connections to one replica: made, lent, kept and closed.
//!
//! ```text
//! connect ─▶ lent ─▶ given back ─▶ ready ─▶ idle ─▶ lent again
//!              └ dropped: closed     └ closed by the replica: forgotten
//! ```
//! Invariant: a connection is lent to one request at a time, and comes back only after the whole
//! response was read.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::body::RequestBody;
use crate::route::Backend;
use crate::settings::Settings;

/// A replica with its idle connections.
#[derive(Debug)]
pub(crate) struct BackendState {
    pub(crate) backend: Arc<Backend>,
    idle: Mutex<Vec<IdleConnection>>,
    suspended_until: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct IdleConnection {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// A connection that is lent to one request.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) sender: SendRequest<RequestBody>,
    backend: Arc<BackendState>,
    max_idle: usize,
}

/// Why no connection came about; nothing was sent.
#[derive(Debug)]
pub(crate) enum ConnectError {
    Timeout(Duration),
    Failed(std::io::Error),
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout(after) => write!(formatter, "no answer within {} ms", after.as_millis()),
            Self::Failed(error) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused => formatter.write_str("connection refused"),
                std::io::ErrorKind::HostUnreachable => formatter.write_str("host unreachable"),
                std::io::ErrorKind::NetworkUnreachable => {
                    formatter.write_str("network unreachable")
                }
                _ => error.fmt(formatter),
            },
        }
    }
}

impl BackendState {
    pub(crate) fn new(backend: Backend) -> Self {
        Self {
            backend: Arc::new(backend),
            idle: Mutex::default(),
            suspended_until: Mutex::default(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.backend.address
    }

    pub(crate) fn sandbox(&self) -> &str {
        &self.backend.sandbox
    }

    pub(crate) fn is_suspended(&self) -> bool {
        lock(&self.suspended_until).is_some_and(|until| Instant::now() < until)
    }

    /// The connection that was used last and is still open, if it was used within `max_age`.
    pub(crate) fn take_idle(
        self: &Arc<Self>,
        max_age: Duration,
        settings: &Settings,
    ) -> Option<Lease> {
        let mut idle = lock(&self.idle);
        // The oldest are in front.
        let stale = idle
            .iter()
            .take_while(|connection| connection.since.elapsed() > settings.idle_timeout)
            .count();
        idle.drain(..stale);
        while let Some(connection) = idle.pop() {
            if !connection.sender.is_ready() {
                continue;
            }
            if connection.since.elapsed() > max_age {
                idle.push(connection);
                return None;
            }
            return Some(self.lease(connection.sender, settings));
        }
        None
    }

    /// Makes a new connection. A failure makes this replica the last choice for a while.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        settings: &Settings,
    ) -> Result<Lease, ConnectError> {
        let attempt = async {
            let stream = TcpStream::connect(self.address()).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = match tokio::time::timeout(settings.connect_timeout, attempt).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.suspend(settings, ConnectError::Failed(error))),
            Err(_) => {
                let error = ConnectError::Timeout(settings.connect_timeout);
                return Err(self.suspend(settings, error));
            }
        };
        *lock(&self.suspended_until) = None;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Failed(std::io::Error::other(error)))?;
        tokio::spawn(async move {
            // The request that used the connection has the error, too.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a replica ended");
            }
        });
        Ok(self.lease(sender, settings))
    }

    fn suspend(&self, settings: &Settings, error: ConnectError) -> ConnectError {
        *lock(&self.suspended_until) = Some(Instant::now() + settings.suspension);
        error
    }

    fn lease(self: &Arc<Self>, sender: SendRequest<RequestBody>, settings: &Settings) -> Lease {
        Lease {
            sender,
            backend: self.clone(),
            max_idle: settings.max_idle_per_backend,
        }
    }
}

impl Lease {
    /// After the whole response was read: keeps the connection for the next request, if the
    /// replica does.
    pub(crate) fn give_back(self) {
        if self.sender.is_ready() {
            return self.keep();
        }
        if self.sender.is_closed() {
            return;
        }
        // The connection's own task may not have noticed yet that the exchange has ended, or the
        // request's body is still being sent.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let mut lease = self;
            let ready = tokio::time::timeout(Duration::from_secs(5), lease.sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                lease.keep();
            }
        });
    }

    fn keep(self) {
        let mut idle = lock(&self.backend.idle);
        if idle.len() < self.max_idle {
            idle.push(IdleConnection {
                sender: self.sender,
                since: Instant::now(),
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
