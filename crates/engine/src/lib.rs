//! The engine: what should run against what runs.
//!
//! It owns the records of sandboxes, networks, volumes and projects, and brings the host to them
//! through the traits of [`ports`], which the daemon fills in. Data flows down; what must travel
//! up is an [`Event`].
//!
//! Deliberately absent: how a sandbox is isolated, what a client's request looks like, and how
//! traffic is routed ([`topology`] says who is where, the daemon makes tables of it).

mod adopt;
mod config;
mod engine;
mod entry;
mod events;
mod health;
mod lifecycle;
mod networks;
mod ports;
mod project;
mod record;
mod restart;
mod start;
mod step;
#[cfg(test)]
mod testing;
mod topology;
mod volumes;

pub use config::{
    HealthCheck, MountRequest, MountRequestSource, NetworkJoin, NetworkRequest, PortRequest,
    Replica, RestartPolicy, SandboxConfig,
};
pub use engine::{Engine, Settings};
pub use events::{Action, Event, Subject};
pub use lifecycle::{Attached, StopOptions, WaitFor};
pub use networks::NetworkRequestNew;
pub use ports::{Input, Launcher, Output, RemoteSandbox, Session, StartRequest, Store};
pub use project::{
    Condition, DependsOn, DownOptions, PlannedNetwork, PlannedVolume, Progress, ProjectPlan,
    ProjectRecord, ProjectService, ServicePlan, Stage, UpOptions,
};
pub use record::{
    Attachment, Health, HealthStatus, NetworkRecord, Probe, Record, State, VolumeRecord,
};
pub use step::Step;
pub use topology::{Member, Topology};
