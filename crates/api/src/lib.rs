//! What travels between a client and the daemon: the Docker Engine API's types, our own under
//! `/bulkhead/`, and a typed client for both.
//!
//! Invariant: nothing here knows how a request is carried out, and nothing of Docker's API is
//! repeated under `/bulkhead/`: what Docker's API can say is said through it.

pub mod bulkhead;
pub mod client;
pub mod docker;
pub mod multiplex;

pub use client::{Client, Error, Result};

/// The version of the Docker Engine API that both sides speak.
pub const API_VERSION: &str = "1.51";
/// The oldest version of the Docker Engine API that a client may ask for.
pub const MINIMUM_API_VERSION: &str = "1.24";
