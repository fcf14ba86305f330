use clap::Args;

use crate::failure::Result;
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Pause {
    /// Services or sandboxes; the whole project's if none is named
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Pause) -> Result<u8> {
    let sandboxes = names::select(session, &arguments.names).await?;
    let client = session.client().await?;
    names::for_each(&sandboxes, async |sandbox| {
        client.pause_container(&sandbox.id).await?;
        Ok(output::line(&sandbox.name)?)
    })
    .await?;
    Ok(0)
}
