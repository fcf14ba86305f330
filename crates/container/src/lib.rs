//! The container runtime: makes a sandbox out of the host's own kernel, with namespaces, an
//! overlay root, cgroups, capabilities and a system call filter.
//!
//! Invariants:
//! - No image, no network device and no nftables rule is touched here: a container gets its
//!   layers as directories, and its network namespace is attached by the caller through
//!   `/proc/PID/ns/net` between create and start.
//! - Nothing runs between fork and exec of a process with threads: a helper with one thread
//!   ([`init_main`]) does the set-up, and is run from a binary that cannot be written.
//! - Nothing is mounted on the host, so that all of a container but its cgroup ends with its
//!   processes, and these end with the process that made them.
//!
//! Needs Linux 5.12 (`mount_setattr`) and root.

mod attributes;
mod backend;
mod capabilities;
pub mod cgroup;
mod channel;
mod config;
mod console;
mod container;
mod devices;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod helper;
mod labels;
mod launch;
mod log;
mod mounts;
mod namespaces;
mod netlink;
mod oci;
mod process;
mod program;
mod reaper;
mod resolve;
mod rootfs;
mod seccomp;
mod spawn;
mod sys;
mod time;
mod trace;

pub use backend::{ContainerBackend, Helper};
pub use helper::init_main;
pub use oci::main as oci_main;
