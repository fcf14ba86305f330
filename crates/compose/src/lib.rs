//! Reads Compose files: finds, merges, interpolates, validates and resolves them.
//!
//! ```no_run
//! # fn main() -> Result<(), bulkhead_compose::Diagnostics> {
//! let loaded = bulkhead_compose::load(bulkhead_compose::LoadOptions {
//!     files: vec!["compose.yaml".into()],
//!     ..Default::default()
//! })?;
//! for level in loaded.project.start_order() {
//!     // start these together
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Invariant: it reads the files that the caller names (and those that they name) and nothing
//! else: no environment of the process, no network, nothing is written. Any input is answered
//! with a [`Project`] or with [`Diagnostics`], never with a panic, in bounded time and memory.

mod checks;
mod context;
mod derived;
mod diagnostic;
mod dotenv;
mod duration;
mod environment;
mod extends;
mod files;
mod interpolate;
mod limits;
mod load;
mod merge;
mod node;
mod parse;
mod path;
mod ports;
mod project;
mod schema;
mod serial;
mod service;
mod settings;
mod shell;
mod source;
mod supported;
mod toplevel;
mod volumes;
mod yaml;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use files::discover;
pub use load::{LoadOptions, Loaded, load};
pub use project::{
    BindOptions, Build, Dependency, DependencyCondition, Deploy, DeployResources, ExposedPort,
    FileMount, FileObject, FileSource, Healthcheck, HealthcheckTest, Network, Port, Project,
    Protocol, PullPolicy, ResourceLimits, RestartPolicy, Service, ServiceMount, ServiceNetwork,
    ServiceNetworkMode, Subnet, TmpfsOptions, UlimitRange, Variable, Volume, VolumeOptions,
};
