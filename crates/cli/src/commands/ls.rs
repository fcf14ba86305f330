use clap::Args;
use serde_json::json;

use super::Format;
use crate::failure::Result;
use crate::output;
use crate::session::Session;
use crate::table::Table;

#[derive(Debug, Args)]
pub struct Ls {
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub async fn run(session: &Session, arguments: Ls) -> Result<u8> {
    let projects = session.client().await?.list_projects().await?;
    if arguments.quiet {
        for project in &projects {
            output::line(&project.name)?;
        }
        return Ok(0);
    }
    let mut table = Table::new(&["NAME", "STATUS", "CONFIG FILES"]);
    let mut objects = Vec::new();
    for project in projects {
        objects.push(json!({
            "Name": project.name,
            "Status": project.status,
            "ConfigFiles": project.config_files.join(","),
            "Services": project.services,
            "Sandboxes": project.sandboxes,
        }));
        let files = project.config_files.join(",");
        table.row(vec![project.name, project.status, files]);
    }
    match arguments.format {
        Format::Json => super::print_json(&objects)?,
        Format::Table => table.print()?,
    }
    Ok(0)
}
