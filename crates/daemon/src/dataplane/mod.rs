//! The data plane: gateway and name server in a process of their own, which serves on while the
//! daemon is away.
//!
//! The daemon writes who is where into a snapshot file and tells the process to read it; the
//! answer says that it is in force.

mod feeder;
mod process;
mod snapshot;

pub use process::main;

pub(crate) use feeder::DataPlane;
pub(crate) use snapshot::{gateway_urls, http_port};
