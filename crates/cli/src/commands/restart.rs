use clap::Args;

use crate::failure::Result;
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Restart {
    /// Seconds until a sandbox that does not stop is killed
    #[arg(
        short,
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS"
    )]
    timeout_seconds: Option<u64>,
    /// Services or sandboxes; the whole project's if none is named
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Restart) -> Result<u8> {
    let sandboxes = names::select(session, &arguments.names).await?;
    let client = session.client().await?;
    names::for_each(&sandboxes, async |sandbox| {
        let timeout = arguments.timeout_seconds;
        client.restart_container(&sandbox.id, timeout).await?;
        Ok(output::line(&sandbox.name)?)
    })
    .await?;
    Ok(0)
}
