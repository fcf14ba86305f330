use bulkhead_api::client::Filters;
use clap::{Args, Subcommand};
use serde_json::json;

use super::Format;
use crate::failure::Result;
use crate::output;
use crate::session::Session;
use crate::table::{Table, short_id};

#[derive(Debug, Args)]
pub struct Network {
    #[command(subcommand)]
    verb: NetworkVerb,
}

#[derive(Debug, Subcommand)]
enum NetworkVerb {
    /// List networks
    Ls {
        /// Print ids only
        #[arg(short, long)]
        quiet: bool,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove networks
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub async fn run(session: &Session, arguments: Network) -> Result<u8> {
    let client = session.client().await?;
    match arguments.verb {
        NetworkVerb::Rm { names } => {
            for name in &names {
                client.remove_network(name).await?;
                output::line(name)?;
            }
        }
        NetworkVerb::Ls { quiet, format } => {
            let mut table = Table::new(&["NETWORK ID", "NAME", "DRIVER", "SUBNET"]);
            let mut objects = Vec::new();
            for network in client.list_networks(&Filters::new()).await? {
                let id = network.id.unwrap_or_default();
                let name = network.name.unwrap_or_default();
                let driver = network.driver.unwrap_or_default();
                let configurations = network.ipam.and_then(|ipam| ipam.config);
                let subnets = configurations.unwrap_or_default().into_iter();
                let subnets: Vec<String> = subnets.filter_map(|one| one.subnet).collect();
                let subnet = subnets.join(",");
                if quiet {
                    output::line(short_id(&id))?;
                    continue;
                }
                objects.push(json!({"ID": id, "Name": name, "Driver": driver, "Subnet": subnet}));
                table.row(vec![short_id(&id).to_owned(), name, driver, subnet]);
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
