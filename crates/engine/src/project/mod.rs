//! Projects: many sandboxes brought up and taken down as one.
//!
//! [`up`] is a transaction: what it replaces is kept, stopped, until everything stands, and comes
//! back if something fails; what it made goes again.

mod down;
mod plan;
mod undo;
mod up;

pub use plan::{
    Condition, DependsOn, DownOptions, PlannedNetwork, PlannedVolume, Progress, ProjectPlan,
    ProjectRecord, ProjectService, ServicePlan, Stage, UpOptions,
};
