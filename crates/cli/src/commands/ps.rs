use std::collections::BTreeSet;

use bulkhead_api::docker::{Port, PortTypeEnum};
use clap::Args;
use serde_json::json;

use super::Format;
use crate::arguments::LateGlobals;
use crate::failure::Result;
use crate::names::{self, Sandbox};
use crate::output;
use crate::session::Session;
use crate::table::{Table, short_id};
use crate::time;

#[derive(Debug, Args)]
pub struct Ps {
    #[command(flatten)]
    pub late: LateGlobals,
    /// Show those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print the names of the services only
    #[arg(long)]
    services: bool,
    /// Show the sandboxes of every project, and of none
    #[arg(long)]
    all_projects: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Only these services
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Ps) -> Result<u8> {
    let project = match arguments.all_projects {
        true => None,
        false => session.project_name()?,
    };
    let client = session.client().await?;
    let mut sandboxes = names::list(client, project.as_deref(), arguments.all).await?;
    if !arguments.names.is_empty() {
        let all = sandboxes.clone();
        let mut wanted = Vec::new();
        for name in &arguments.names {
            wanted.extend(names::find(&all, project.as_deref(), name)?);
        }
        sandboxes.retain(|sandbox| wanted.iter().any(|one| one.id == sandbox.id));
    }
    if arguments.services {
        let services: BTreeSet<&String> = sandboxes
            .iter()
            .filter_map(|sandbox| sandbox.service.as_ref())
            .collect();
        for service in services {
            output::line(service)?;
        }
        return Ok(0);
    }
    if arguments.quiet {
        for sandbox in &sandboxes {
            output::line(match arguments.no_trunc {
                true => &sandbox.id,
                false => short_id(&sandbox.id),
            })?;
        }
        return Ok(0);
    }
    match arguments.format {
        Format::Json => {
            let objects: Vec<_> = sandboxes.iter().map(object).collect();
            super::print_json(&objects)?;
        }
        Format::Table => table(&sandboxes, arguments.no_trunc).print()?,
    }
    Ok(0)
}

fn table(sandboxes: &[Sandbox], whole_ids: bool) -> Table {
    let mut table = Table::new(&["ID", "NAME", "SERVICE", "KIND", "IMAGE", "STATUS", "PORTS"]);
    for sandbox in sandboxes {
        let id = match whole_ids {
            true => &sandbox.id,
            false => short_id(&sandbox.id),
        };
        table.row(vec![
            id.to_owned(),
            sandbox.name.clone(),
            sandbox.service.clone().unwrap_or_default(),
            sandbox.kind().to_owned(),
            sandbox.summary.image.clone().unwrap_or_default(),
            sandbox.summary.status.clone().unwrap_or_default(),
            ports(sandbox.summary.ports.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

/// With Compose's names, and `Kind`.
fn object(sandbox: &Sandbox) -> serde_json::Value {
    let summary = &sandbox.summary;
    let ports_list = summary.ports.as_deref().unwrap_or_default();
    json!({
        "ID": sandbox.id,
        "Name": sandbox.name,
        "Project": sandbox.project,
        "Service": sandbox.service,
        "Kind": sandbox.kind(),
        "Image": summary.image,
        "Command": summary.command,
        "State": sandbox.state.to_string(),
        "Status": summary.status,
        "Health": health(summary.status.as_deref().unwrap_or_default()),
        "CreatedAt": summary.created,
        "RunningFor": time::ago(summary.created.unwrap_or_default()),
        "Ports": ports(ports_list),
        "Publishers": ports_list,
        "Labels": summary.labels,
    })
}

/// The word in the status's brackets, as in `Up 3 minutes (healthy)`.
fn health(status: &str) -> &str {
    let words = ["(healthy)", "(unhealthy)", "(health: starting)"];
    match words.into_iter().find(|word| status.contains(word)) {
        Some("(health: starting)") => "starting",
        Some(word) => word.trim_matches(['(', ')']),
        None => "",
    }
}

/// As `docker ps` writes them: `127.0.0.1:8080->80/tcp, 9000/tcp`.
fn ports(ports: &[Port]) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by_key(|port| (port.private_port, port.public_port, port.ip.clone()));
    for port in sorted {
        let protocol = port.typ.unwrap_or(PortTypeEnum::TCP);
        let inside = format!("{}/{protocol}", port.private_port);
        let text = match port.public_port {
            None => inside,
            Some(public) => {
                let address = port.ip.as_deref().unwrap_or("0.0.0.0");
                match address.contains(':') {
                    true => format!("[{address}]:{public}->{inside}"),
                    false => format!("{address}:{public}->{inside}"),
                }
            }
        };
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::tests::sandbox;

    #[test]
    fn a_row_says_what_runs_where() {
        let mut one = sandbox("0123456789abcdef", "shop-db-1", "shop", "db", 1);
        one.summary.status = Some("Up 3 minutes (healthy)".into());
        one.summary.ports = Some(vec![
            Port {
                private_port: 9000,
                typ: Some(PortTypeEnum::TCP),
                ..Port::default()
            },
            Port {
                ip: Some("127.0.0.1".into()),
                private_port: 80,
                public_port: Some(8080),
                typ: Some(PortTypeEnum::TCP),
            },
        ]);
        assert_eq!(object(&one)["Health"], "healthy");
        let table = table(&[one], false).render();
        assert!(table.contains("0123456789ab   shop-db-1   db"), "{table}");
        assert!(
            table.contains("127.0.0.1:8080->80/tcp, 9000/tcp"),
            "{table}"
        );
    }
}
