use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_api::bulkhead::Shutdown;
use clap::{Args, Subcommand};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::entry::{self, DaemonOptions};
use crate::failure::{Failure, Result};
use crate::output;
use crate::session::Session;

/// How long a daemon may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long its process may take to end when it answers no more.
const EXIT_TIMEOUT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

#[derive(Debug, Args)]
pub struct Daemon {
    /// Leave the session of the caller, as a daemon that a command has started does
    #[arg(long, hide = true)]
    detach: bool,
    /// Address of the gateway, 127.0.0.1:8080 if not given
    #[arg(long, env = "BULKHEAD_GATEWAY", value_name = "ADDRESS")]
    gateway: Option<SocketAddr>,
    /// Directory of the caches (images, guest kernel)
    #[arg(long, env = "BULKHEAD_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<DaemonVerb>,
}

#[derive(Debug, Subcommand)]
enum DaemonVerb {
    /// End the daemon and the data plane
    Stop {
        /// Also if sandboxes run; they are stopped
        #[arg(short, long)]
        force: bool,
    },
}

impl Daemon {
    pub fn stops(&self) -> bool {
        self.verb.is_some()
    }
}

pub fn run(session: &Session, arguments: Daemon) -> Result<u8> {
    entry::daemon(DaemonOptions {
        root: session.paths.root.clone(),
        detach: arguments.detach,
        gateway: arguments.gateway,
        cache: arguments.cache,
    })
}

pub async fn stop(session: &Session, arguments: Daemon) -> Result<u8> {
    let Some(DaemonVerb::Stop { force }) = arguments.verb else {
        return Ok(0);
    };
    let Some(client) = session.running_client().await else {
        output::note("bulkhead: no daemon runs");
        return Ok(0);
    };
    let pid = client.bulkhead_info().await.map(|info| info.pid as i32);
    let process = pid.ok().and_then(Pid::from_raw);
    let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    client.shutdown(&Shutdown { force }).await?;
    let begin = Instant::now();
    while session.running_client().await.is_some() {
        if begin.elapsed() > STOP_TIMEOUT {
            return Err(Failure::new(format!(
                "the daemon still answers after {} s; its log is {}",
                STOP_TIMEOUT.as_secs(),
                session.paths.daemon_log().display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The socket goes first. Where the id is that of a process elsewhere, behind a socket that was
    // brought here, that is all there is to wait for.
    if let Some(process) = process {
        let mut descriptors = [PollFd::new(&process, PollFlags::IN)];
        let ended = poll(&mut descriptors, Some(&EXIT_TIMEOUT))
            .map_err(|errno| Failure::new(format!("wait for the daemon's end: {errno}")))?;
        if ended == 0 {
            output::note("bulkhead: the daemon answers no more, but its process has not ended yet");
        }
    }
    Ok(0)
}
