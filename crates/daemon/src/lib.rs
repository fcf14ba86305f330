//! The daemon: the control plane. It answers the Docker Engine API and `/bulkhead/`, keeps records
//! in SQLite, and gives the engine its backends.
//!
//! Invariant: nothing that runs depends on it. It may be killed at any instant; supervisors and
//! data plane go on, and the next daemon adopts them.

mod accelerator;
mod app;
mod build_runner;
mod convert;
pub mod dataplane;
pub mod doctor;
mod error;
mod handlers;
mod launcher;
mod paths;
mod remote;
mod router;
mod serve;
mod shutdown;
mod store;

pub use paths::Paths;
pub use serve::{Options, main};

/// What is logged: `BULKHEAD_LOG`, else what somebody must know.
pub(crate) fn log_filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_env("BULKHEAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"))
}
