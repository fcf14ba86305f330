use std::time::Duration;

use bulkhead_api::bulkhead::ServiceStatus;
use bulkhead_model::ByteSize;
use clap::Args;

use super::Format;
use crate::failure::{Failure, Result};
use crate::session::Session;
use crate::table::Table;

#[derive(Debug, Args)]
pub struct Status {
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Only these services
    services: Vec<String>,
}

pub async fn run(session: &Session, arguments: Status) -> Result<u8> {
    let Some(name) = session.project_name()? else {
        return Err(Failure::new(
            "no project here: name one with -p before the verb; 'bulkhead ls' lists them",
        ));
    };
    let project = session.client().await?.project_status(&name).await?;
    let wanted = |service: &&ServiceStatus| {
        arguments.services.is_empty() || arguments.services.contains(&service.name)
    };
    let services: Vec<&ServiceStatus> = project.services.iter().filter(wanted).collect();
    match arguments.format {
        Format::Json => {
            let objects = services.iter().map(serde_json::to_value);
            let objects: Vec<_> = objects.filter_map(|object| object.ok()).collect();
            super::print_json(&objects)?;
        }
        Format::Table => table(&services).print()?,
    }
    Ok(0)
}

fn table(services: &[&ServiceStatus]) -> Table {
    let mut table = Table::new(&[
        "SERVICE", "KIND", "REPLICAS", "HEALTH", "MEMORY", "START", "READY", "URL",
    ]);
    for service in services {
        let or_dash = |text: String| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text
            }
        };
        let memory = service
            .memory_bytes
            .map(|bytes| ByteSize(bytes).to_string());
        let reached: Vec<String> = service.urls.iter().chain(&service.ports).cloned().collect();
        table.row(vec![
            service.name.clone(),
            service.kind.clone(),
            format!("{}/{}", service.replicas_running, service.replicas_desired),
            or_dash(service.health.clone()),
            or_dash(memory.unwrap_or_default()),
            or_dash(milliseconds(service.start_milliseconds)),
            or_dash(milliseconds(service.ready_milliseconds)),
            or_dash(reached.join(" ")),
        ]);
    }
    table
}

/// `430ms` or `1.2s`.
fn milliseconds(value: Option<u64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value < 1000 => format!("{value}ms"),
        Some(value) => format!("{:.1}s", Duration::from_millis(value).as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let service = ServiceStatus {
            name: "db".into(),
            kind: "container".into(),
            replicas_desired: 2,
            replicas_running: 1,
            start_milliseconds: Some(43),
            ready_milliseconds: Some(1240),
            memory_bytes: Some(40 << 20),
            ..ServiceStatus::default()
        };
        assert_eq!(
            table(&[&service]).render(),
            "SERVICE   KIND        REPLICAS   HEALTH   MEMORY   START   READY   URL\n\
             db        container   1/2        -        40MiB    43ms    1.2s    -\n"
        );
    }
}
