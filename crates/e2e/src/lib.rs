//! What the end-to-end tests share: an instance of Bulkhead of their own, HTTP, a look at what a
//! host shows, and the shop's scenario.
//!
//! Invariant: it knows Bulkhead only from outside, by its command, its sockets and the host. It
//! links none of Bulkhead's crates.

pub mod host;
pub mod http;
pub mod instance;
pub mod scenario;
pub mod shop;

pub use instance::Instance;
pub use scenario::Scenario;
