//! Builds images from Dockerfiles.
//!
//! ```text
//! Dockerfile ─▶ stages needed for the target ─▶ for each instruction: key ─▶ cached? ─▶ carry out
//! ```
//! An instruction's key is the digest of the key before it and of everything that decides its
//! result: its text with variables put in, and the content of the files that it copies (paths,
//! modes, bytes; no times). A stage starts with a key of its base's layers and configuration.

mod builder;
mod cache;
mod copy;
mod event;
mod file_digests;
mod run;
mod selection;
mod stage;
mod tree_digest;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use bulkhead_model::{Mount, Result};

pub use builder::Builder;
pub(crate) use cache::BuildCache;
pub use event::BuildEvent;

/// What to build, and how.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// A directory; its `.dockerignore` is honoured.
    pub context: PathBuf,
    /// As the process sees it; it may be outside of the context.
    pub dockerfile: PathBuf,
    /// How errors name the Dockerfile; its path if it is empty.
    pub dockerfile_name: String,
    pub tags: Vec<String>,
    /// The stage to build, by name or number; the last one if it is `None`.
    pub target: Option<String>,
    pub build_args: Vec<(String, String)>,
    /// Every step is carried out anew.
    pub no_cache: bool,
    pub labels: Vec<(String, String)>,
}

/// Runs the commands of RUN.
pub trait StepRunner {
    /// Runs one command to its end in a sandbox, with the network that builds have.
    ///
    /// Whatever the command changes has to be in `step.upper` afterwards, and the overlay no
    /// longer mounted. What the command prints goes to `output`, in the order in which it comes.
    ///
    /// # Errors
    /// If it could not be run at all. A command that ran gives its exit code.
    fn run(&self, step: &RunStep, output: &mut dyn Write) -> Result<i32>;
}

/// One command of RUN.
#[derive(Debug, Clone, PartialEq)]
pub struct RunStep {
    /// Topmost first; never empty.
    pub layers: Vec<PathBuf>,
    /// Names the content of `layers` together.
    pub chain_id: String,
    /// The overlay's upper directory: empty, with the root's owner and mode. To be mounted with
    /// `redirect_dir=off,metacopy=off,index=off`.
    pub upper: PathBuf,
    /// The overlay's work directory, beside `upper`.
    pub work: PathBuf,
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: String,
    /// `""`, `user`, `uid:gid`, …
    pub user: String,
    pub mounts: Vec<Mount>,
    /// The command gets no network (`RUN --network=none`).
    pub no_network: bool,
}

impl fmt::Display for RunStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.args.join(" "))
    }
}
