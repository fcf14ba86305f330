//! The limits of the gateway, each with the reason for its default.

use std::time::Duration;

/// Limits and timeouts of a [`Gateway`](crate::Gateway).
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long one attempt to connect to a replica may take. A replica on this machine answers at
    /// once, unless its queue of connections is full: then the kernel asks again after 1 s, which
    /// must still count.
    pub connect_timeout: Duration,
    /// How long a request goes on looking for a replica that accepts a connection, while all
    /// refuse: bridges the time between the death of a replica and the route table without it.
    pub connect_window: Duration,
    /// How long a replica may be silent before its response begins, counted anew whenever a part
    /// of the request's body arrives. Then 504.
    pub response_timeout: Duration,
    /// How long a client may take to send a request's header, and how long its connection may be
    /// idle. Guards against clients that hold connections by sending slowly.
    pub header_read_timeout: Duration,
    /// The largest header of a request, in bytes. Then 431.
    pub max_header_bytes: usize,
    /// The most connections from clients at one time; more wait in the listener's queue.
    pub max_connections: u32,
    /// The most idle connections kept to one replica.
    pub max_idle_per_backend: usize,
    /// How long an idle connection to a replica is used again for a request that may be repeated.
    pub idle_timeout: Duration,
    /// The same for a request that must not be repeated. Shorter than the keep-alive timeout of
    /// the usual servers (gunicorn 2 s, Node.js and uvicorn 5 s), so that the replica does not
    /// close the connection just as the request is written to it.
    pub idle_timeout_unsafe: Duration,
    /// How long a replica that could not be connected to is tried last.
    pub suspension: Duration,
    /// At shutdown: how long idle connections of clients are kept open, with `Connection: close`
    /// on the responses, so that no client writes a request to a connection just being closed.
    pub drain_grace: Duration,
    /// At shutdown: how long running requests and tunnels may take to end.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_millis(1200),
            connect_window: Duration::from_secs(3),
            response_timeout: Duration::from_secs(60),
            header_read_timeout: Duration::from_secs(30),
            max_header_bytes: 64 * 1024,
            max_connections: 8192,
            max_idle_per_backend: 64,
            idle_timeout: Duration::from_secs(30),
            idle_timeout_unsafe: Duration::from_secs(1),
            suspension: Duration::from_secs(1),
            drain_grace: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
