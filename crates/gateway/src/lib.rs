//! The HTTP entry of the machine: one listener that leads a request by its host and path to a
//! healthy replica of a service.
//!
//! Invariant: the gateway decides nothing. Which hosts exist, which replicas are healthy and why
//! a service has none is told to it in a [`RouteTable`], which may be exchanged at any instant
//! without a request being lost; it keeps no state that its successor would need. A request is
//! sent to a backend a second time only where the first one cannot have acted on it (RFC 9110
//! §9.2.2).
//!
//! ```text
//! client ─▶ server (accept, drain) ─▶ proxy (route, headers, trace) ─▶ forward (choose, retry)
//!                                        │                               │
//!                                        ▼                               ▼
//!                                 pages (404, 503 …)          pool (connections by backend)
//! ```
//! Deliberately absent: TLS, caching, rewriting of paths, compression and any reading of labels.

mod access_log;
mod body;
mod counters;
mod exchange;
mod forward;
mod headers;
mod pages;
mod pool;
mod proxy;
mod rotating_file;
mod route;
mod router;
mod server;
mod settings;
mod timestamp;
mod trace;
mod upgrade;

pub use access_log::{AccessLog, AccessLogSettings};
pub use counters::{Counters, LATENCY_BOUNDS_MS, ServiceCounters};
pub use route::{Backend, Route, RouteTable};
pub use server::Gateway;
pub use settings::Settings;
