use bulkhead_api::client::WaitCondition;
use clap::Args;

use crate::failure::{Failure, Result};
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Wait {
    /// Services or sandboxes
    #[arg(required = true)]
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Wait) -> Result<u8> {
    let sandboxes = names::select(session, &arguments.names).await?;
    let client = session.client().await?;
    for sandbox in &sandboxes {
        let wait = client
            .wait_container(&sandbox.id, WaitCondition::NotRunning)
            .await?;
        let ended = wait.finish().await?;
        if let Some(message) = ended.error.and_then(|error| error.message) {
            return Err(Failure::new(format!("{}: {message}", sandbox.name)));
        }
        output::line(ended.status_code.to_string())?;
    }
    Ok(0)
}
