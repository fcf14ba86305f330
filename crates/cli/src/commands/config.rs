use clap::{Args, ValueEnum};

use crate::arguments::LateGlobals;
use crate::failure::{Failure, Result};
use crate::output;
use crate::session::Session;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ConfigFormat {
    Yaml,
    Json,
}

#[derive(Debug, Args)]
pub struct Config {
    #[command(flatten)]
    pub late: LateGlobals,
    #[arg(long, value_enum, default_value = "yaml")]
    format: ConfigFormat,
    /// Print the names of the services only
    #[arg(long)]
    services: bool,
    /// Print the names of the volumes only
    #[arg(long)]
    volumes: bool,
    /// Print the names of the images only
    #[arg(long)]
    images: bool,
    /// Print nothing: only say whether the files are right
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(session: &Session, arguments: Config) -> Result<u8> {
    let project = session.require_project()?;
    if arguments.quiet {
        return Ok(0);
    }
    if arguments.services {
        for name in project.services.keys() {
            output::line(name)?;
        }
    } else if arguments.volumes {
        for name in project.volumes.keys() {
            output::line(name)?;
        }
    } else if arguments.images {
        for service in project.services.values() {
            output::line(crate::convert::image_name(&project, service))?;
        }
    } else if arguments.format == ConfigFormat::Json {
        let text = serde_json::to_string_pretty(&project.to_json())
            .map_err(|error| Failure::new(format!("write the project as JSON: {error}")))?;
        output::line(text)?;
    } else {
        output::line(project.to_yaml().trim_end())?;
    }
    Ok(0)
}
