use bulkhead_api::bulkhead::ProjectDown;
use clap::Args;

use crate::arguments::LateGlobals;
use crate::failure::{Failure, Result};
use crate::progress::{self, Progress};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    pub late: LateGlobals,
    /// Remove the named volumes, too
    #[arg(short, long)]
    volumes: bool,
    /// Remove sandboxes of services that the project no longer has, too
    #[arg(long)]
    remove_orphans: bool,
    /// Seconds until a sandbox that does not stop is killed
    #[arg(short, long = "timeout", value_name = "SECONDS")]
    timeout_seconds: Option<u64>,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
    /// Services; all if none is named
    services: Vec<String>,
}

pub async fn run(session: &Session, arguments: Down) -> Result<u8> {
    let Some(name) = session.project_name()? else {
        return Err(Failure::new(
            "no project here: name one with -p before the verb; 'bulkhead ls' lists them",
        ));
    };
    let request = ProjectDown {
        volumes: arguments.volumes,
        remove_orphans: arguments.remove_orphans,
        timeout_seconds: arguments.timeout_seconds,
        services: arguments.services.clone(),
    };
    let client = session.client().await?;
    let mut progress = Progress::new(arguments.quiet);
    let result = match client.project_down(&name, &request).await {
        Ok(lines) => progress::follow(lines, &mut progress).await,
        Err(error) => Err(error.into()),
    };
    progress.finish();
    result?;
    Ok(0)
}
