//! From a sandbox's record to what Docker's clients read.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::SystemTime;

use bulkhead_api::docker::{ContainerCreateBody, HostConfig};
use bulkhead_engine::{
    Attachment, Engine, HealthStatus, MountRequestSource, NetworkRequest, Record, State,
};
use bulkhead_network::PublishedPort;
use serde_json::{Value, json};

use super::status::{health_word, state_word, status_text};

/// How Docker writes that something never happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

pub(crate) fn rfc3339(time: Option<SystemTime>) -> String {
    time.map_or_else(
        || NEVER.to_owned(),
        |time| humantime::format_rfc3339_nanos(time).to_string(),
    )
}

pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}

/// One element of `GET /containers/json`.
pub(crate) fn summary(record: &Record) -> Value {
    let command = record.config.process.args.join(" ");
    json!({
        "Id": record.id,
        "Names": [format!("/{}", record.config.name)],
        "Image": record.config.image,
        "ImageID": record.config.image_id,
        "Command": command,
        "Created": unix_seconds(record.created_at),
        "Ports": summary_ports(record),
        "Labels": record.config.labels,
        "State": state_word(record.state),
        "Status": status_text(record),
        "HostConfig": { "NetworkMode": network_mode(record), "Annotations": { "bulkhead.runtime": record.config.kind.to_string() } },
        "NetworkSettings": { "Networks": networks(record) },
        "Mounts": mounts(record, None),
    })
}

fn network_mode(record: &Record) -> String {
    match &record.config.network {
        NetworkRequest::None => "none".to_owned(),
        NetworkRequest::Host => "host".to_owned(),
        NetworkRequest::Join(joins) => joins
            .first()
            .map(|join| join.network.clone())
            .unwrap_or_default(),
    }
}

fn summary_ports(record: &Record) -> Vec<Value> {
    let mut ports: Vec<Value> = record
        .ports
        .iter()
        .map(|port| {
            json!({
                "IP": port.host_ip.to_string(),
                "PrivatePort": port.target_port,
                "PublicPort": port.host_port,
                "Type": port.protocol.to_string(),
            })
        })
        .collect();
    if record.state.is_running() {
        let published = |number: u16| record.ports.iter().any(|port| port.target_port == number);
        let only_exposed = record
            .config
            .exposed
            .iter()
            .filter(|number| !published(**number));
        ports.extend(only_exposed.map(|number| json!({ "PrivatePort": number, "Type": "tcp" })));
    }
    ports
}

/// `GET /containers/{id}/json`.
pub(crate) fn inspect(engine: &Engine, record: &Record, exec_ids: Vec<String>) -> Value {
    let body: ContainerCreateBody = serde_json::from_str(&record.config.source).unwrap_or_default();
    let mut host = body.host_config.clone().unwrap_or_default();
    complete_host(&mut host, record);
    let args = &record.config.process.args;
    let lower: Vec<String> = record
        .config
        .layers
        .iter()
        .map(|layer| layer.display().to_string())
        .collect();
    let upper = engine.writable_dir(&record.id).join("upper");
    json!({
        "Id": record.id,
        "Created": rfc3339(Some(record.created_at)),
        "Path": args.first(),
        "Args": args.get(1..).unwrap_or_default(),
        "State": state(record),
        "Image": record.config.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": engine.log_file(&record.id),
        "Name": format!("/{}", record.config.name),
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": exec_ids,
        "HostConfig": host,
        "GraphDriver": {
            "Name": "overlay2",
            "Data": { "UpperDir": upper, "LowerDir": lower.join(":") },
        },
        "Mounts": mounts(record, Some(engine)),
        "Config": config(&body, record),
        "NetworkSettings": network_settings(record),
    })
}

fn state(record: &Record) -> Value {
    json!({
        "Status": state_word(record.state),
        "Running": record.state.is_running() || record.state == State::Restarting,
        "Paused": record.state == State::Paused,
        "Restarting": record.state == State::Restarting,
        "OOMKilled": record.exit.is_some_and(|exit| exit.oom_killed),
        "Dead": record.state == State::Dead,
        "Pid": record.pid.unwrap_or(0),
        "ExitCode": record.exit_code(),
        "Error": record.error.clone().unwrap_or_default(),
        "StartedAt": rfc3339(record.started_at),
        "FinishedAt": rfc3339(record.finished_at),
        "Health": health(record),
    })
}

/// `null` where there is no health check.
fn health(record: &Record) -> Value {
    if record.config.health.is_none() {
        return Value::Null;
    }
    let log: Vec<Value> = record
        .health
        .probes
        .iter()
        .map(|probe| {
            json!({
                "Start": rfc3339(Some(probe.started_at)),
                "End": rfc3339(Some(probe.ended_at)),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            })
        })
        .collect();
    json!({
        "Status": health_word(record.health.status),
        "FailingStreak": record.health.failing_streak,
        "Log": log,
    })
}

fn config(body: &ContainerCreateBody, record: &Record) -> Value {
    let exposed: BTreeMap<String, Value> = record
        .config
        .exposed
        .iter()
        .map(|port| (format!("{port}/tcp"), json!({})))
        .collect();
    let hostname = record
        .config
        .hostname
        .as_deref()
        .unwrap_or_else(|| record.short_id());
    json!({
        "Hostname": hostname,
        "Domainname": body.domainname.clone().unwrap_or_default(),
        "User": record.config.process.user,
        "AttachStdin": body.attach_stdin.unwrap_or(false),
        "AttachStdout": body.attach_stdout.unwrap_or(false),
        "AttachStderr": body.attach_stderr.unwrap_or(false),
        "ExposedPorts": exposed,
        "Tty": record.config.process.terminal.is_some(),
        "OpenStdin": record.config.process.stdin,
        "StdinOnce": body.stdin_once.unwrap_or(false),
        "Env": record.config.process.env,
        "Cmd": body.cmd,
        "Healthcheck": body.healthcheck,
        "Image": record.config.image,
        "Volumes": body.volumes,
        "WorkingDir": record.config.process.cwd,
        "Entrypoint": body.entrypoint,
        "OnBuild": null,
        "Labels": record.config.labels,
        "StopSignal": record.config.stop_signal.to_string(),
        "StopTimeout": record.config.stop_timeout.as_secs(),
    })
}

fn network_settings(record: &Record) -> Value {
    let first = record
        .attachments
        .first()
        .map(|attachment| &attachment.endpoint);
    json!({
        "Bridge": "",
        "SandboxID": "",
        "Ports": port_map(record),
        "Gateway": first.map(|endpoint| endpoint.gateway.to_string()).unwrap_or_default(),
        "IPAddress": first.map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
        "IPPrefixLen": first.map_or(0, |endpoint| endpoint.prefix_length),
        "MacAddress": first.map(|endpoint| mac_text(endpoint.mac)).unwrap_or_default(),
        "Networks": networks(record),
    })
}

fn complete_host(host: &mut HostConfig, record: &Record) {
    host.runtime = Some(record.config.kind.to_string());
    host.network_mode = Some(network_mode(record));
    host.shm_size = i64::try_from(record.config.shm_size.bytes()).ok();
}

pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    let parts: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

fn networks(record: &Record) -> BTreeMap<String, Value> {
    if !record.attachments.is_empty() {
        let named = record.attachments.iter();
        return named
            .map(|a| (a.network_name.clone(), endpoint_settings(record, a)))
            .collect();
    }
    match &record.config.network {
        NetworkRequest::Join(joins) => joins
            .iter()
            .map(|join| {
                (
                    join.network.clone(),
                    json!({ "Aliases": join.aliases, "IPAddress": "" }),
                )
            })
            .collect(),
        NetworkRequest::Host => BTreeMap::from([("host".to_owned(), json!({}))]),
        NetworkRequest::None => BTreeMap::from([("none".to_owned(), json!({}))]),
    }
}

fn endpoint_settings(record: &Record, attachment: &Attachment) -> Value {
    let endpoint = &attachment.endpoint;
    json!({
        "NetworkID": attachment.network_id,
        "EndpointID": record.id,
        "Gateway": endpoint.gateway.to_string(),
        "IPAddress": endpoint.address.to_string(),
        "IPPrefixLen": endpoint.prefix_length,
        "MacAddress": mac_text(endpoint.mac),
        "Aliases": attachment.aliases,
        "DNSNames": dns_names(record, attachment),
    })
}

fn dns_names(record: &Record, attachment: &Attachment) -> Vec<String> {
    let mut names = vec![record.config.name.clone(), record.short_id().to_owned()];
    names.extend(
        record
            .config
            .replica
            .as_ref()
            .map(|replica| replica.service.clone()),
    );
    names.extend(attachment.aliases.iter().cloned());
    names
}

/// `{"80/tcp": [{"HostIp": …, "HostPort": …}]}`, exposed ports with `null`.
fn port_map(record: &Record) -> HashMap<String, Value> {
    let mut map: HashMap<String, Value> = HashMap::new();
    if !record.state.is_running() {
        return map;
    }
    for port in &record.config.exposed {
        map.insert(format!("{port}/tcp"), Value::Null);
    }
    for port in &record.ports {
        let key = format!("{}/{}", port.target_port, port.protocol);
        let binding =
            json!({ "HostIp": port.host_ip.to_string(), "HostPort": port.host_port.to_string() });
        match map.get_mut(&key) {
            Some(Value::Array(bindings)) => bindings.push(binding),
            _ => {
                map.insert(key, json!([binding]));
            }
        }
    }
    map
}

/// A published port as `docker ps` writes it.
pub(crate) fn port_text(port: &PublishedPort) -> String {
    format!(
        "{}:{}->{}/{}",
        port.host_ip, port.host_port, port.target_port, port.protocol
    )
}

fn mounts(record: &Record, engine: Option<&Engine>) -> Vec<Value> {
    let mut anonymous = record.anonymous_volumes.iter();
    record
        .config
        .mounts
        .iter()
        .map(|mount| {
            let path = |name: &str| {
                engine
                    .map(|engine| engine.volume_path(name))
                    .unwrap_or_default()
            };
            let (kind, name, source) = match &mount.source {
                MountRequestSource::Volume { name, .. } => ("volume", name.clone(), path(name)),
                MountRequestSource::AnonymousVolume => {
                    let name = anonymous.next().cloned().unwrap_or_default();
                    let source = path(&name);
                    ("volume", name, source)
                }
                MountRequestSource::Bind { path, .. } => ("bind", String::new(), path.clone()),
                MountRequestSource::Tmpfs { .. } => ("tmpfs", String::new(), Path::new("").into()),
            };
            json!({
                "Type": kind,
                "Name": name,
                "Source": source,
                "Destination": mount.target,
                "Driver": if kind == "volume" { "local" } else { "" },
                "Mode": "",
                "RW": !mount.read_only,
                "Propagation": if kind == "bind" { "rprivate" } else { "" },
            })
        })
        .collect()
}

/// Whether the sandbox's health is shown at all.
pub(crate) fn has_health(record: &Record) -> bool {
    record.health.status != HealthStatus::None
}
