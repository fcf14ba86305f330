//! The supervisor: the one small process that is parent to one sandbox.
//!
//! ```text
//!   daemon ── spawns ──▶ supervisor ── Backend::create ──▶ created
//!                            │  one line on stdout: created, or why not
//!                            ▼
//!   daemon ── `start` ──▶ running ── the workload ends ──▶ status file, delete, exit
//! ```
//!
//! It outlives the daemon and needs nothing of it: everything it must know is in the launch file,
//! everything that must be known of it afterwards is in the status file. It is synchronous and
//! holds no queue without a bound, so that a flood of output blocks the workload, not the machine.
//!
//! Deliberately absent: images, networks (it attaches to a bridge that is there), restart, health.

mod hub;
mod launch;
mod log;
pub mod protocol;
mod server;
mod status;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bulkhead_model::{Error, ExitStatus, Result};

pub use launch::{Launch, MicrovmSettings};
pub use status::{Status, read_status};

use hub::Hub;
use log::LogWriter;
use protocol::CreateReport;

/// Name of the launch file in the run directory.
pub const LAUNCH_FILE: &str = "launch.json";
/// Name of the control socket in the run directory.
pub const SOCKET_FILE: &str = "supervisor.sock";

/// Entry point of `bulkhead supervisor RUN_DIR`.
///
/// Writes one line of JSON ([`CreateReport`]) to stdout as soon as the sandbox is made or could
/// not be made, then closes stdout.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("BULKHEAD_LOG"))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let Some(run_dir) = arguments.first().map(PathBuf::from) else {
        tracing::error!("the supervisor is started by the daemon, with a run directory");
        return ExitCode::from(125);
    };
    match supervise(&run_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, run_dir = %run_dir.display(), "supervisor failed");
            ExitCode::from(125)
        }
    }
}

fn supervise(run_dir: &Path) -> Result<()> {
    let launch = Launch::read(&run_dir.join(LAUNCH_FILE))?;
    // The daemon, or a terminal that it was started from, may go; the sandbox stays.
    ignore_signals()?;
    let supervised = match Supervised::create(&launch, run_dir) {
        Ok(supervised) => {
            report(&CreateReport::Created {
                pid: supervised.sandbox.pid(),
            });
            Arc::new(supervised)
        }
        Err(error) => {
            report(&CreateReport::Failed((&error).into()));
            return Err(error);
        }
    };
    let exit = server::serve(&supervised)?;
    finish(&launch, &supervised, &exit)
}

/// What the threads of a supervisor share.
pub(crate) struct Supervised {
    pub sandbox: Arc<dyn bulkhead_model::Sandbox>,
    pub hub: Arc<Hub>,
    pub status: status::StatusFile,
    pub socket: std::os::unix::net::UnixListener,
    monitor_cgroup: Option<bulkhead_container::cgroup::Cgroup>,
    memory_limit: Option<bulkhead_model::ByteSize>,
}

impl Supervised {
    fn create(launch: &Launch, run_dir: &Path) -> Result<Self> {
        let socket_path = run_dir.join(SOCKET_FILE);
        let socket = std::os::unix::net::UnixListener::bind(&socket_path).map_err(|error| {
            Error::host(format!("listen on {}", socket_path.display())).with_source(error)
        })?;
        // Whoever can write to it can run anything in the sandbox.
        fs::set_permissions(&socket_path, fs::Permissions::from_mode(0o600)).map_err(|error| {
            Error::host(format!("protect {}", socket_path.display())).with_source(error)
        })?;
        let log = LogWriter::open(&launch.log_file)?;
        let (sandbox, monitor_cgroup) = launch::create(launch)?;
        let hub = Hub::start(sandbox.take_io(), log);
        let status = status::StatusFile::new(launch.status_file.clone());
        Ok(Self {
            sandbox,
            hub,
            status,
            socket,
            monitor_cgroup,
            memory_limit: launch.spec.resources.memory,
        })
    }

    /// What the sandbox uses: as its backend reads it, or as the monitor's cgroup does.
    pub(crate) fn stats(&self) -> Result<bulkhead_model::Stats> {
        if let Some(cgroup) = &self.monitor_cgroup {
            let mut stats = cgroup.stats()?;
            stats.memory_limit = self.memory_limit;
            return Ok(stats);
        }
        match self.sandbox.stats() {
            Some(source) => source.read(),
            None => Err(Error::unsupported(
                "this kind of sandbox reports no figures",
            )),
        }
    }

    /// A monitor killed by the kernel for want of memory counts as the workload's end by it.
    pub(crate) fn exit_status(&self, mut exit: ExitStatus) -> ExitStatus {
        if let Some(cgroup) = &self.monitor_cgroup {
            exit.oom_killed |= cgroup.oom_kills() > 0;
        }
        exit
    }
}

fn finish(launch: &Launch, supervised: &Supervised, exit: &server::Exit) -> Result<()> {
    // Whatever fails here, those who wait are told of the end.
    let deleted = if exit.status().is_some() {
        // What was written before the end is in the log before anybody hears of the end.
        supervised.hub.drain();
        supervised.sandbox.delete()
    } else {
        // Its streams end with a process that waits to be started, and not before.
        let deleted = supervised.sandbox.delete();
        supervised.hub.drain();
        deleted
    };
    let cgroup = match &supervised.monitor_cgroup {
        Some(cgroup) => cgroup.kill().and_then(|()| cgroup.remove()),
        None => Ok(()),
    };
    let written = supervised.status.write(&exit.status());
    supervised.hub.finish(exit.ending().exit);
    exit.announce();
    // The run directory goes last and as a whole: its absence says that nothing is left.
    if let Err(error) = fs::remove_dir_all(&launch.spec.run_dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "run directory is left behind");
    }
    supervised.hub.wait_for_sessions();
    deleted.and(cgroup).and(written)
}

fn report(report: &CreateReport) {
    let line = serde_json::to_string(report).expect("a report has no map with odd keys");
    let mut stdout = std::io::stdout().lock();
    // Nobody listens if the daemon died meanwhile: the next one finds the socket.
    if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        tracing::debug!(%error, "nobody reads the report");
    }
    drop(stdout);
    let null = fs::OpenOptions::new().write(true).open("/dev/null");
    if let Ok(null) = null
        && let Err(error) = rustix::stdio::dup2_stdout(&null)
    {
        tracing::debug!(%error, "stdout stays open");
    }
}

fn ignore_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ignored = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ignored))
            .map_err(|error| Error::host(format!("ignore signal {signal}")).with_source(error))?;
    }
    Ok(())
}
