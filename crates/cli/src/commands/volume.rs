use bulkhead_api::client::Filters;
use clap::{Args, Subcommand};
use serde_json::json;

use super::Format;
use crate::failure::Result;
use crate::output;
use crate::session::Session;
use crate::table::Table;

#[derive(Debug, Args)]
pub struct Volume {
    #[command(subcommand)]
    verb: VolumeVerb,
}

#[derive(Debug, Subcommand)]
enum VolumeVerb {
    /// List volumes
    Ls {
        /// Print names only
        #[arg(short, long)]
        quiet: bool,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove volumes
    Rm {
        #[arg(short, long)]
        force: bool,
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub async fn run(session: &Session, arguments: Volume) -> Result<u8> {
    let client = session.client().await?;
    match arguments.verb {
        VolumeVerb::Rm { force, names } => {
            for name in &names {
                client.remove_volume(name, force).await?;
                output::line(name)?;
            }
        }
        VolumeVerb::Ls { quiet, format } => {
            let mut table = Table::new(&["DRIVER", "VOLUME NAME"]);
            let mut objects = Vec::new();
            for volume in client.list_volumes(&Filters::new()).await? {
                if quiet {
                    output::line(&volume.name)?;
                    continue;
                }
                objects.push(json!({
                    "Name": volume.name,
                    "Driver": volume.driver,
                    "Mountpoint": volume.mountpoint,
                    "Labels": volume.labels,
                }));
                table.row(vec![volume.driver, volume.name]);
            }
            match format {
                _ if quiet => {}
                Format::Json => super::print_json(&objects)?,
                Format::Table => table.print()?,
            }
        }
    }
    Ok(0)
}
