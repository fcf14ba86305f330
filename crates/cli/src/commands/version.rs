use clap::{Args, ValueEnum};
use serde_json::json;

use crate::failure::Result;
use crate::output;
use crate::session::Session;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VersionFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct Version {
    /// Print our version only
    #[arg(long)]
    short: bool,
    #[arg(long, value_enum, default_value = "text")]
    format: VersionFormat,
}

/// The daemon's version is shown if it runs; it is not started for this.
pub async fn run(session: &Session, arguments: Version) -> Result<u8> {
    let own = env!("CARGO_PKG_VERSION");
    if arguments.short {
        output::line(own)?;
        return Ok(0);
    }
    let server = match session.running_client().await {
        Some(client) => Some(client.version().await?),
        None => None,
    };
    if arguments.format == VersionFormat::Json {
        let client = json!({"Version": own, "ApiVersion": bulkhead_api::API_VERSION});
        output::line(json!({"Client": client, "Server": server}).to_string())?;
        return Ok(0);
    }
    output::line(format!("Client:\n Version:      {own}"))?;
    output::line(format!(" API version:  {}", bulkhead_api::API_VERSION))?;
    match server {
        None => output::line("Server: not running")?,
        Some(server) => {
            let text = |value: Option<String>| value.unwrap_or_default();
            output::line(format!("Server:\n Version:      {}", text(server.version)))?;
            output::line(format!(
                " API version:  {} (minimum {})",
                text(server.api_version),
                text(server.min_api_version)
            ))?;
            output::line(format!(
                " OS/Arch:      {}/{}",
                text(server.os),
                text(server.arch)
            ))?;
            output::line(format!(" Kernel:       {}", text(server.kernel_version)))?;
        }
    }
    Ok(0)
}
