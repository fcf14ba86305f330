//! What a sandbox uses and may use.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bulkhead_api::docker::HostConfig;
use bulkhead_engine::{Engine, Output, Record};
use bulkhead_model::{Error, ErrorKind, ProcessSpec, Stats};
use serde_json::{Value, json};

use super::query::is_true;
use crate::app::App;
use crate::convert::create::restart;
use crate::convert::inspect::rfc3339;
use crate::convert::limits::resources;
use crate::error::ApiResult;

pub(crate) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    Json(host): Json<HostConfig>,
) -> ApiResult<Json<Value>> {
    let wanted = resources(&host)?;
    let policy = match &host.restart_policy {
        Some(_) => Some(restart(&host)?),
        None => None,
    };
    app.engine
        .update(&id, move |config| {
            let limits = &mut config.resources;
            // What the request leaves out stays as it is.
            limits.memory = wanted.memory.or(limits.memory);
            limits.memory_swap = wanted.memory_swap.or(limits.memory_swap);
            limits.cpu_millis = wanted.cpu_millis.or(limits.cpu_millis);
            limits.cpu_shares = wanted.cpu_shares.or(limits.cpu_shares);
            limits.pids = wanted.pids.or(limits.pids);
            if wanted.cpuset_cpus.is_some() {
                limits.cpuset_cpus = wanted.cpuset_cpus;
            }
            if let Some(policy) = policy {
                config.restart = policy;
            }
        })
        .await?;
    Ok(Json(json!({ "Warnings": [] })))
}

pub(crate) async fn stats(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> ApiResult<Response> {
    let record = app.engine.get(&id)?;
    let follow = query
        .get("stream")
        .is_none_or(|_| is_true(query.get("stream")));
    let one_shot = is_true(query.get("one-shot"));
    let engine = app.engine.clone();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Error>>(1);
    let mut previous = Reading::take(&engine, &record).await?;
    tokio::spawn(async move {
        if one_shot && !follow {
            let line = previous.report(&record, &Reading::default());
            return drop(sender.send(Ok(line)).await);
        }
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Ok(now) = Reading::take(&engine, &record).await else {
                return;
            };
            let line = now.report(&record, &previous);
            previous = now;
            if sender.send(Ok(line)).await.is_err() || !follow {
                return;
            }
        }
    });
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// One reading of the counters, and of the host's own, which clients divide by.
#[derive(Default)]
struct Reading {
    time: Option<SystemTime>,
    stats: Stats,
    host_cpu: Duration,
    network: Vec<(String, [u64; 2])>,
}

impl Reading {
    async fn take(engine: &Engine, record: &Record) -> Result<Self, Error> {
        let stats = engine.stats(&record.id).await?;
        Ok(Self {
            time: Some(SystemTime::now()),
            stats,
            host_cpu: host_cpu()?,
            network: network_counters(record),
        })
    }

    fn report(&self, record: &Record, previous: &Self) -> Bytes {
        let cpu = |reading: &Self| {
            json!({
                "cpu_usage": {
                    "total_usage": nanoseconds(reading.stats.cpu),
                    "usage_in_kernelmode": nanoseconds(reading.stats.cpu_system),
                    "usage_in_usermode": nanoseconds(reading.stats.cpu_user),
                },
                "system_cpu_usage": nanoseconds(reading.host_cpu),
                "online_cpus": std::thread::available_parallelism().map_or(1, usize::from),
                "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
            })
        };
        let networks: serde_json::Map<String, Value> = self
            .network
            .iter()
            .map(|(name, [received, sent])| {
                (
                    name.clone(),
                    json!({ "rx_bytes": received, "tx_bytes": sent }),
                )
            })
            .collect();
        let limit = self
            .stats
            .memory_limit
            .map_or_else(host_memory, |limit| limit.bytes());
        let block = [
            ("read", self.stats.block_read),
            ("write", self.stats.block_written),
        ];
        let block: Vec<Value> = block
            .iter()
            .map(|(op, size)| json!({ "major": 0, "minor": 0, "op": op, "value": size.bytes() }))
            .collect();
        let line = json!({
            "id": record.id,
            "name": format!("/{}", record.config.name),
            "read": rfc3339(self.time),
            "preread": rfc3339(previous.time),
            "pids_stats": { "current": self.stats.pids },
            "blkio_stats": { "io_service_bytes_recursive": block },
            "num_procs": 0,
            "cpu_stats": cpu(self),
            "precpu_stats": cpu(previous),
            "memory_stats": { "usage": self.stats.memory.bytes(), "stats": {}, "limit": limit },
            "networks": networks,
        });
        Bytes::from(format!("{line}\n"))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time of the whole host, of which a clock tick is a hundredth of a second.
fn host_cpu() -> Result<Duration, Error> {
    let text = std::fs::read_to_string("/proc/stat")
        .map_err(|error| Error::host("read /proc/stat").with_source(error))?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: u64 = first
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}

pub(crate) fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Bytes received and sent, as the sandbox sees them: the host's end counts the other way round.
fn network_counters(record: &Record) -> Vec<(String, [u64; 2])> {
    let read = |device: &str, counter: &str| {
        let path = format!("/sys/class/net/{device}/statistics/{counter}");
        std::fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    };
    record
        .attachments
        .iter()
        .map(|attachment| {
            let device = &attachment.endpoint.host_device;
            let counters = [read(device, "tx_bytes"), read(device, "rx_bytes")];
            (attachment.endpoint.interface.clone(), counters)
        })
        .collect()
}

/// The processes in the process namespace of `pid`, with their numbers on the host.
fn processes_beside(pid: u32) -> Vec<[String; 4]> {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let (own, wanted) = (namespace(std::process::id()), namespace(pid));
    // A monitor is in the host's own namespace: what runs in its guest is not seen from here.
    if wanted.is_none() || wanted == own {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut pids: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter()
        .filter(|pid| namespace(*pid) == wanted)
        .filter_map(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                Some(line.split_whitespace().next()?.to_owned())
            };
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command)
                .trim_end_matches('\0')
                .replace('\0', " ");
            Some([field("Uid:")?, pid.to_string(), field("PPid:")?, command])
        })
        .collect()
}

/// Runs through `/proc` in the sandbox by its own `ps` where it has one.
pub(crate) async fn top(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> ApiResult<Json<Value>> {
    let record = app.engine.get(&id)?;
    let arguments = query.get("ps_args").map_or("-ef", String::as_str);
    let mut args = vec!["ps".to_owned()];
    args.extend(arguments.split_whitespace().map(str::to_owned));
    let process = ProcessSpec {
        args,
        env: record.config.process.env.clone(),
        cwd: "/".to_owned(),
        user: "0".to_owned(),
        ..ProcessSpec::default()
    };
    let (_, mut session) = match app.engine.exec(&record.id, process).await {
        // An image without `ps`: the host sees the processes of a container.
        Err(error) if error.kind() == ErrorKind::CommandNotFound && record.pid.is_some() => {
            let processes = processes_beside(record.pid.unwrap_or_default());
            return Ok(Json(
                json!({ "Titles": ["UID", "PID", "PPID", "CMD"], "Processes": processes }),
            ));
        }
        started => started?,
    };
    let mut output = Vec::new();
    while let Some(chunk) = session.output.recv().await {
        match chunk {
            Output::Stdout(data) => output.extend_from_slice(&data),
            Output::Stderr(_) => {}
            Output::Exited(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&output);
    let mut lines = text.lines();
    let titles: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let processes: Vec<Vec<String>> = lines
        .map(|line| {
            let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            if words.len() > titles.len() && !titles.is_empty() {
                let last = words.split_off(titles.len() - 1).join(" ");
                words.push(last);
            }
            words
        })
        .collect();
    Ok(Json(json!({ "Titles": titles, "Processes": processes })))
}
