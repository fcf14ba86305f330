//! The conformance suite: what every kind of sandbox does, as scenarios that a backend's own
//! tests run over a [`Fixture`].
//!
//! Invariant: no scenario knows which kind it runs on. A capability that a kind lacks is skipped
//! aloud; nothing is timed.

mod exec;
mod filesystem;
mod harness;
mod limits;
mod process;

use std::path::PathBuf;

use crate::{Backend, SandboxSpec};

pub use harness::{Output, Running, run, run_with_input};

/// What a backend's tests provide.
pub trait Fixture: Send + Sync {
    fn backend(&self) -> &dyn Backend;

    /// A fresh specification with an id of its own that runs `args` as root, over a root in which
    /// busybox' applets are in `/bin`, and `/etc/passwd` and `/etc/group` have the lines of
    /// [`PASSWD`] and [`GROUP`]. Its `PATH` is `/bin`; stdin is not connected.
    fn spec(&self, args: &[&str]) -> SandboxSpec;

    /// A fresh directory of the host that is removed with the fixture.
    fn directory(&self) -> PathBuf;
}

pub const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/home/web:/bin/sh\n";
pub const GROUP: &str = "root:x:0:\nweb:x:1001:\nssl:x:1002:web\nstaff:x:50:\n";

/// A scenario panics if the sandbox does not do as it should.
pub type Scenario = fn(&dyn Fixture);

/// All scenarios, by name.
pub fn scenarios() -> Vec<(&'static str, Scenario)> {
    [
        process::SCENARIOS,
        filesystem::SCENARIOS,
        exec::SCENARIOS,
        limits::SCENARIOS,
    ]
    .concat()
}

/// Says that a scenario cannot run here, and why.
fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}
