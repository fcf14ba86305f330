use clap::Args;

use crate::failure::Result;
use crate::names;
use crate::output;
use crate::session::Session;
use crate::table::Table;

#[derive(Debug, Args)]
pub struct Top {
    /// Services or sandboxes; the whole project's if none is named
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Top) -> Result<u8> {
    let sandboxes = names::select(session, &arguments.names).await?;
    let client = session.client().await?;
    let one = sandboxes.len() == 1;
    let running = sandboxes
        .iter()
        .filter(|sandbox| one || sandbox.is_running());
    for sandbox in running {
        let top = client.top_container(&sandbox.id, None).await?;
        let titles = top.titles.unwrap_or_default();
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let mut table = Table::new(&titles);
        for process in top.processes.unwrap_or_default() {
            table.row(process);
        }
        if !one {
            output::line(&sandbox.name)?;
        }
        table.print()?;
    }
    Ok(0)
}
