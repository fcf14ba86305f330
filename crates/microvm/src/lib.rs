//! Micro VMs: sandboxes with a kernel of their own.
//!
//! [`MicroVmBackend`] turns a specification into a guest: `rootfs` and `disk` make what it boots
//! from, a [monitor] gives it virtual hardware, and `agent` talks to PID 1 in it. All that must
//! happen between fork and exec happens in a re-executed copy of our binary, [`monitor_main`].
//!
//! Invariant: a guest is hostile. What comes from it is bounded in memory and on disk, and the
//! worst that it can do is to end itself. Nothing about how it runs is read from its own disk.

pub mod accelerator;
mod agent;
mod backend;
mod cache;
mod clock;
pub mod console;
pub mod disk;
mod initramfs;
mod kvm;
mod launch;
pub mod monitor;
pub mod rootfs;
mod sandbox;
mod sys;
pub mod template;
mod usage;

pub use backend::{DEFAULT_MEMORY, MicroVmBackend, MicroVmConfig};
pub use launch::{Launcher, monitor_main};
pub use monitor::Accelerator;
