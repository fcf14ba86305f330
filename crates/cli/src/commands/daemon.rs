use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_api::bulkhead::Shutdown;
use clap::{Args, Subcommand};

use crate::entry::{self, DaemonOptions};
use crate::failure::{Failure, Result};
use crate::output;
use crate::session::Session;

/// How long a daemon may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

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
    Ok(0)
}
