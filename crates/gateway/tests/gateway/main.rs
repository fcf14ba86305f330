//! The gateway on loopback, in front of real HTTP servers.

// The helpers of the tests are tests, too; clippy knows functions with `#[test]` only.
#![allow(clippy::unwrap_used)]

mod access;
mod balancing;
mod bodies;
mod pages;
mod protocol;
mod shutdown;
mod smuggling;
mod support;
mod tunnels;
