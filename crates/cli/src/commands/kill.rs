use clap::Args;

use crate::failure::Result;
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Kill {
    /// Name or number of the signal
    #[arg(short, long, default_value = "KILL", value_name = "SIGNAL")]
    signal: String,
    /// Services or sandboxes; the whole project's if none is named
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Kill) -> Result<u8> {
    let mut sandboxes = names::select(session, &arguments.names).await?;
    if arguments.names.is_empty() {
        sandboxes.retain(names::Sandbox::is_running);
    }
    let client = session.client().await?;
    names::for_each(&sandboxes, async |sandbox| {
        client
            .kill_container(&sandbox.id, &arguments.signal)
            .await?;
        Ok(output::line(&sandbox.name)?)
    })
    .await?;
    Ok(0)
}
