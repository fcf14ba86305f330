//! The programs that are this binary under another subcommand. They are told by the first
//! argument alone, before anything else is looked at, because each sandbox pays for it.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::commands::doctor::{Check, CheckStatus, Report};
use crate::failure::Result;
use crate::paths::Paths;

/// Where the gateway listens unless told otherwise.
const DEFAULT_GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// How the daemon is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonOptions {
    /// Moves socket, state and cache; absolute.
    pub root: Option<PathBuf>,
    /// Leave the session of the caller.
    pub detach: bool,
    /// Where the gateway listens; `None` for 127.0.0.1:8080.
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

fn program(name: &str, arguments: Vec<OsString>) -> Option<ExitCode> {
    match name {
        "supervisor" => Some(bulkhead_supervisor::main(arguments)),
        "oci" => Some(bulkhead_container::oci_main(arguments)),
        "container-init" => Some(bulkhead_container::init_main(arguments)),
        "microvm-launch" => Some(bulkhead_microvm::monitor_main(as_text(arguments)?)),
        "dataplane" => Some(bulkhead_daemon::dataplane::main(arguments)),
        _ => None,
    }
}

/// Arguments that our own supervisor wrote are text.
fn as_text(arguments: Vec<OsString>) -> Option<Vec<String>> {
    arguments
        .into_iter()
        .map(|argument| argument.into_string().ok())
        .collect()
}

/// Runs the daemon until it is told to end.
pub fn daemon(options: DaemonOptions) -> Result<u8> {
    let paths = bulkhead_daemon::Paths::new(options.root.as_deref(), options.cache.as_deref());
    let root = options
        .root
        .map(|root| root.display().to_string())
        .unwrap_or_default();
    let code = bulkhead_daemon::main(bulkhead_daemon::Options {
        paths,
        root,
        gateway: Some(options.gateway.unwrap_or(DEFAULT_GATEWAY)),
        detach: options.detach,
    });
    Ok(u8::from(code != ExitCode::SUCCESS))
}

/// Looks at the host.
pub fn examine(paths: &Paths) -> Result<Report> {
    use bulkhead_daemon::doctor::Status;
    let paths = bulkhead_daemon::Paths::new(paths.root.as_deref(), paths.cache.as_deref());
    let report = bulkhead_daemon::doctor::examine(&paths);
    let checks = report.checks.into_iter().map(|check| Check {
        name: check.name,
        status: match check.status {
            Status::Ok => CheckStatus::Ok,
            Status::Warning => CheckStatus::Warning,
            Status::Missing => CheckStatus::Missing,
        },
        detail: check.detail,
        remedy: check.remedy,
    });
    Ok(Report {
        checks: checks.collect(),
        uses: report.uses,
    })
}
