use bulkhead_api::docker::ContainerStatsResponse;
use bulkhead_model::ByteSize;
use clap::Args;
use serde_json::json;

use super::Format;
use crate::failure::Result;
use crate::names::{self, Sandbox};
use crate::output::{self, Look};
use crate::session::Session;
use crate::table::{Table, decimal_size, short_id};

#[derive(Debug, Args)]
pub struct Stats {
    /// Print one reading and end
    #[arg(long)]
    no_stream: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Services or sandboxes; all that run if none is named
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Stats) -> Result<u8> {
    loop {
        let rows = readings(session, &arguments.names).await?;
        if !arguments.no_stream && Look::of_stdout().terminal {
            // Clears the screen, so that the table stays in its place.
            output::line("\x1b[2J\x1b[H")?;
        }
        match arguments.format {
            Format::Json => {
                let objects: Vec<_> = rows.iter().map(Row::object).collect();
                super::print_json(&objects)?;
            }
            Format::Table => {
                let mut table = Table::new(&[
                    "ID",
                    "NAME",
                    "CPU %",
                    "MEMORY / LIMIT",
                    "NET IN / OUT",
                    "DISK IN / OUT",
                    "PIDS",
                ]);
                for row in &rows {
                    table.row(row.cells());
                }
                table.print()?;
            }
        }
        if arguments.no_stream {
            return Ok(0);
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

async fn readings(session: &Session, wanted: &[String]) -> Result<Vec<Row>> {
    let client = session.client().await?;
    let mut sandboxes = match wanted {
        [] => match session.project_name()? {
            Some(project) => names::list(client, Some(&project), false).await?,
            None => names::list(client, None, false).await?,
        },
        wanted => names::select(session, wanted).await?,
    };
    sandboxes.retain(Sandbox::is_running);
    let rows = std::cell::RefCell::new(Vec::new());
    names::for_each(&sandboxes, async |sandbox| {
        match client.container_stats(&sandbox.id, false).await {
            Ok(mut readings) => {
                if let Some(reading) = readings.next().await? {
                    rows.borrow_mut().push(Row::new(sandbox, &reading));
                }
                Ok(())
            }
            // It has ended since.
            Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    let mut rows = rows.into_inner();
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(rows)
}

#[derive(Debug, Default, PartialEq)]
struct Row {
    id: String,
    name: String,
    cpu_percent: f64,
    memory: u64,
    memory_limit: u64,
    received: u64,
    sent: u64,
    read: u64,
    written: u64,
    pids: u64,
}

impl Row {
    fn new(sandbox: &Sandbox, reading: &ContainerStatsResponse) -> Self {
        let memory = reading.memory_stats.clone().unwrap_or_default();
        // Docker's rule: cache that can be dropped is not counted; its name depends on the cgroup
        // version.
        let cache = memory.stats.as_ref().and_then(|stats| {
            stats
                .get("total_inactive_file")
                .or_else(|| stats.get("inactive_file"))
        });
        let networks = reading
            .networks
            .iter()
            .flat_map(|networks| networks.values());
        let (received, sent) = networks.fold((0, 0), |(received, sent), network| {
            (
                received + network.rx_bytes.unwrap_or(0),
                sent + network.tx_bytes.unwrap_or(0),
            )
        });
        let blocks = reading.blkio_stats.as_ref();
        let blocks = blocks.and_then(|stats| stats.io_service_bytes_recursive.as_ref());
        let block = |wanted: &str| -> u64 {
            let entries = blocks.into_iter().flatten();
            let entries = entries.filter(|entry| {
                entry
                    .op
                    .as_deref()
                    .is_some_and(|op| op.eq_ignore_ascii_case(wanted))
            });
            entries.filter_map(|entry| entry.value).sum()
        };
        Self {
            id: sandbox.id.clone(),
            name: sandbox.name.clone(),
            cpu_percent: cpu_percent(reading),
            memory: memory
                .usage
                .unwrap_or(0)
                .saturating_sub(cache.copied().unwrap_or(0)),
            memory_limit: memory.limit.unwrap_or(0),
            received,
            sent,
            read: block("read"),
            written: block("write"),
            pids: reading
                .pids_stats
                .as_ref()
                .and_then(|pids| pids.current)
                .unwrap_or(0),
        }
    }

    fn cells(&self) -> Vec<String> {
        let limit = match self.memory_limit {
            0 => "-".to_owned(),
            limit => ByteSize(limit).to_string(),
        };
        vec![
            short_id(&self.id).to_owned(),
            self.name.clone(),
            format!("{:.2}%", self.cpu_percent),
            format!("{} / {limit}", ByteSize(self.memory)),
            format!(
                "{} / {}",
                decimal_size(self.received),
                decimal_size(self.sent)
            ),
            format!(
                "{} / {}",
                decimal_size(self.read),
                decimal_size(self.written)
            ),
            self.pids.to_string(),
        ]
    }

    fn object(&self) -> serde_json::Value {
        json!({
            "ID": self.id,
            "Name": self.name,
            "CPUPercent": self.cpu_percent,
            "MemoryBytes": self.memory,
            "MemoryLimitBytes": self.memory_limit,
            "NetworkReceivedBytes": self.received,
            "NetworkSentBytes": self.sent,
            "BlockReadBytes": self.read,
            "BlockWrittenBytes": self.written,
            "PIDs": self.pids,
        })
    }
}

/// Docker's formula: the sandbox's share of the host's CPU time between two readings, times the
/// number of CPUs.
fn cpu_percent(reading: &ContainerStatsResponse) -> f64 {
    let used = |stats: &Option<bulkhead_api::docker::ContainerCpuStats>| {
        let usage = stats.as_ref()?.cpu_usage.as_ref()?.total_usage?;
        Some((usage, stats.as_ref()?.system_cpu_usage.unwrap_or(0)))
    };
    let Some((usage, system)) = used(&reading.cpu_stats) else {
        return 0.0;
    };
    let (usage_before, system_before) = used(&reading.precpu_stats).unwrap_or((0, 0));
    let cpus = reading
        .cpu_stats
        .as_ref()
        .and_then(|stats| stats.online_cpus)
        .unwrap_or(1);
    let (used, passed) = (
        usage.saturating_sub(usage_before) as f64,
        system.saturating_sub(system_before) as f64,
    );
    if passed <= 0.0 {
        return 0.0;
    }
    used / passed * f64::from(cpus) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::tests::sandbox;

    #[test]
    fn a_reading_as_docker_counts_it() {
        let reading: ContainerStatsResponse = serde_json::from_value(json!({
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3145728, "limit": 67108864, "stats": {"inactive_file": 1048576}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2000}},
            "blkio_stats": {"io_service_bytes_recursive": [
                {"op": "Read", "value": 1}, {"op": "write", "value": 2}]},
            "pids_stats": {"current": 3}
        }))
        .expect("reading");
        let row = Row::new(&sandbox("0123456789abcdef", "db", "", "", 0), &reading);
        assert_eq!(
            row.cells(),
            [
                "0123456789ab",
                "db",
                "40.00%",
                "2MiB / 64MiB",
                "1kB / 2kB",
                "1B / 2B",
                "3"
            ]
        );
    }
}
