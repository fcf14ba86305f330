use clap::Args;

use crate::failure::{Failure, Result};
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Rm {
    /// Remove sandboxes that run, too
    #[arg(short, long)]
    force: bool,
    /// Stop the sandboxes first
    #[arg(short, long)]
    stop: bool,
    /// Remove their volumes without a name, too
    #[arg(short, long)]
    volumes: bool,
    /// Services or sandboxes; the whole project's that do not run if none is named
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Rm) -> Result<u8> {
    let mut sandboxes = names::select(session, &arguments.names).await?;
    if arguments.names.is_empty() && !arguments.stop {
        sandboxes.retain(|sandbox| !sandbox.is_running());
    }
    let client = session.client().await?;
    names::for_each(&sandboxes, async |sandbox| {
        if sandbox.is_running() && !arguments.stop && !arguments.force {
            return Err(Failure::new(format!(
                "{} runs: stop it first with -s, or remove it with -f all the same",
                sandbox.name
            )));
        }
        if sandbox.is_running() && arguments.stop {
            client.stop_container(&sandbox.id, None).await?;
        }
        client
            .remove_container(&sandbox.id, arguments.force, arguments.volumes)
            .await?;
        Ok(output::line(&sandbox.name)?)
    })
    .await?;
    Ok(0)
}
