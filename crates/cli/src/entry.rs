//! The programs that are this binary under another subcommand. They are told by the first
//! argument alone, before anything else is looked at, because each sandbox pays for it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::commands::doctor::Report;
use crate::failure::{Failure, Result};
use crate::paths::Paths;

/// How the daemon is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonOptions {
    /// Moves socket, state and cache; absolute.
    pub root: Option<PathBuf>,
    /// Leave the session of the caller.
    pub detach: bool,
    /// Where the gateway listens; `None` for no gateway.
    pub gateway: Option<SocketAddr>,
    /// Outranks `root` for the caches.
    pub cache: Option<PathBuf>,
}

/// Runs the program that the first argument names; `None` if it names none of them.
pub fn dispatch() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let name = arguments.next()?;
    program(name.to_str()?, arguments.collect())
}

fn program(_name: &str, _arguments: Vec<OsString>) -> Option<ExitCode> {
    None
}

/// Runs the daemon until it is told to end.
pub fn daemon(_options: DaemonOptions) -> Result<u8> {
    Err(Failure::new("the daemon is not part of this build"))
}

/// Looks at the host.
pub fn examine(_paths: &Paths) -> Result<Report> {
    Err(Failure::new("the examination is not part of this build"))
}
