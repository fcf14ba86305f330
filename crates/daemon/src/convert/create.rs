//! From `POST /containers/create` to a sandbox's configuration.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use bulkhead_api::docker::{
    ContainerCreateBody, HealthConfig, HostConfig, RestartPolicyNameEnum, labels,
};
use bulkhead_engine::{
    HealthCheck, NetworkJoin, NetworkRequest, PortRequest, Replica, RestartPolicy, SandboxConfig,
};
use bulkhead_image::Image;
use bulkhead_model::{ByteSize, Error, Kind, ProcessSpec, Result, TerminalSize};
use bulkhead_network::Protocol;
use serde_json::Value;

use super::limits::{refuse_unsupported, resources, root_size, security};
use super::mounts::mounts;
use super::signal::parse_signal;
use crate::accelerator;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_SHM: ByteSize = ByteSize::from_mib(64);
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_STOP_SIGNAL: i32 = 15;
/// Docker's defaults for a health check.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_RETRIES: u32 = 3;
/// Docker's smallest pause between probes.
const MINIMUM_INTERVAL: Duration = Duration::from_millis(1);
/// What Linux takes as a host's name, in bytes.
const MAXIMUM_HOSTNAME: usize = 64;

/// Merges a request with its image.
///
/// # Errors
/// `InvalidInput` and `Unsupported` naming the setting.
pub(crate) fn sandbox_config(
    name: &str,
    body: &ContainerCreateBody,
    image: &Image,
) -> Result<SandboxConfig> {
    let host = body.host_config.clone().unwrap_or_default();
    refuse_zero_bytes(body)?;
    refuse_unsupported(&host)?;
    let kind = kind(&host)?;
    let process = process(body, &host, image)?;
    let (exposed, ports) = ports(body, &host, image)?;
    let labels = merged_labels(body, image);
    accelerator::check(kind, body.labels.as_ref(), &labels)?;
    let network = network(body, &host)?;
    if network == NetworkRequest::Host && kind == Kind::Microvm {
        return Err(Error::unsupported(
            "a micro VM cannot use the host's network: publish its ports, or run it as a container",
        ));
    }
    Ok(SandboxConfig {
        name: checked_name(name)?,
        kind,
        image: body.image.clone().unwrap_or_default(),
        image_id: image.id.to_string(),
        layers: image.layers.clone(),
        chain_id: image.chain_id.clone(),
        hostname: hostname(body)?,
        process,
        mounts: mounts(body, &host, image.config.config.volumes.keys())?,
        network,
        ports,
        exposed,
        resources: resources(&host)?,
        security: security(&host)?,
        read_only_root: host.readonly_rootfs.unwrap_or(false),
        sysctls: host
            .sysctls
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        shm_size: host
            .shm_size
            .and_then(|size| u64::try_from(size).ok())
            .filter(|size| *size > 0)
            .map_or(DEFAULT_SHM, ByteSize),
        root_size: root_size(&host, kind)?,
        health: health(body.healthcheck.as_ref(), image)?,
        restart: restart(&host)?,
        stop_signal: stop_signal(body, image)?,
        stop_timeout: body
            .stop_timeout
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DEFAULT_STOP_TIMEOUT, Duration::from_secs),
        replica: replica(&labels)?,
        labels,
        auto_remove: host.auto_remove.unwrap_or(false),
        extra_hosts: extra_hosts(&host)?,
        dns: host.dns.clone().unwrap_or_default(),
        source: serde_json::to_string(body)
            .map_err(|error| Error::host("encode the request").with_source(error))?,
    })
}

/// No program, variable or path can hold one, and the kernel would cut the text there.
fn refuse_zero_bytes(body: &ContainerCreateBody) -> Result<()> {
    fn has_one(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(has_one),
            Value::Object(map) => map
                .iter()
                .any(|(key, value)| key.contains('\0') || has_one(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    let value = serde_json::to_value(body)
        .map_err(|error| Error::host("encode the request").with_source(error))?;
    if has_one(&value) {
        return Err(Error::invalid(
            "the request has a zero byte in a text: leave it out",
        ));
    }
    Ok(())
}

fn hostname(body: &ContainerCreateBody) -> Result<Option<String>> {
    let Some(name) = body.hostname.clone().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.len() <= MAXIMUM_HOSTNAME && name.bytes().all(fits) {
        return Ok(Some(name));
    }
    Err(Error::invalid(format!(
        "invalid hostname '{name}': use at most {MAXIMUM_HOSTNAME} letters, digits, '-', '_' and '.'"
    )))
}

fn kind(host: &HostConfig) -> Result<Kind> {
    match host.runtime.as_deref() {
        // `runc` is what a stock client sends for a container.
        None | Some("" | "runc") => Ok(Kind::Container),
        Some(runtime) => runtime.parse(),
    }
}

pub(crate) fn checked_name(name: &str) -> Result<String> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest && name.len() >= 2 && name.len() <= 200 {
        return Ok(name.to_owned());
    }
    Err(Error::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

fn process(body: &ContainerCreateBody, host: &HostConfig, image: &Image) -> Result<ProcessSpec> {
    let config = &image.config.config;
    // A new entrypoint makes the image's command meaningless. An empty string takes it away.
    let (entrypoint, command) = match &body.entrypoint {
        Some(entrypoint) if !entrypoint.is_empty() => {
            let words: Vec<String> = entrypoint
                .iter()
                .filter(|word| !word.is_empty() || entrypoint.len() > 1)
                .cloned()
                .collect();
            (words, body.cmd.clone().unwrap_or_default())
        }
        _ => {
            let given = body.cmd.clone().filter(|words| !words.is_empty());
            let command = given.unwrap_or_else(|| config.cmd.clone().unwrap_or_default());
            (config.entrypoint.clone().unwrap_or_default(), command)
        }
    };
    let args: Vec<String> = entrypoint.into_iter().chain(command).collect();
    if args.is_empty() {
        return Err(Error::invalid(format!(
            "No command specified: image {} has neither command nor entrypoint: give one",
            body.image.as_deref().unwrap_or_default()
        )));
    }
    let tty = body.tty.unwrap_or(false);
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned()];
    let terminal_type = tty.then(|| "TERM=xterm".to_owned());
    let given = body.env.iter().flatten().cloned();
    for variable in config.env.iter().cloned().chain(terminal_type).chain(given) {
        set_variable(&mut env, variable);
    }
    let size = match host.console_size.as_deref() {
        Some([rows, columns]) => TerminalSize {
            rows: u16::try_from(*rows).unwrap_or_default(),
            columns: u16::try_from(*columns).unwrap_or_default(),
        },
        _ => TerminalSize::default(),
    };
    let size = if size.rows == 0 || size.columns == 0 {
        TerminalSize::default()
    } else {
        size
    };
    let of_request = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let cwd = of_request(&body.working_dir).unwrap_or_else(|| config.working_dir.clone());
    Ok(ProcessSpec {
        args,
        env,
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        user: of_request(&body.user).unwrap_or_else(|| config.user.clone()),
        terminal: tty.then_some(size),
        stdin: body.open_stdin.unwrap_or(false),
        privileged: false,
    })
}

/// Sets `NAME=value`; a `NAME` alone takes the variable away, as Docker does.
pub(crate) fn set_variable(env: &mut Vec<String>, variable: String) {
    let name = variable.split('=').next().unwrap_or_default().to_owned();
    let position = env
        .iter()
        .position(|known| known.split('=').next() == Some(&name));
    match (position, variable.contains('=')) {
        (Some(position), true) => env[position] = variable,
        (Some(position), false) => {
            env.remove(position);
        }
        (None, true) => env.push(variable),
        (None, false) => {}
    }
}

fn ports(
    body: &ContainerCreateBody,
    host: &HostConfig,
    image: &Image,
) -> Result<(Vec<u16>, Vec<PortRequest>)> {
    let mut exposed = Vec::new();
    let mut keys: Vec<String> = image.config.config.exposed_ports.keys().cloned().collect();
    keys.extend(body.exposed_ports.iter().flat_map(HashMap::keys).cloned());
    let mut ports = Vec::new();
    for (key, bindings) in host.port_bindings.iter().flatten() {
        let (target_port, protocol) = parse_port(key)?;
        keys.push(key.clone());
        for binding in bindings.iter().flatten() {
            let address = binding.host_ip.as_deref().filter(|text| !text.is_empty());
            let host_address = match address {
                None | Some("::" | "::0") => Ipv4Addr::UNSPECIFIED,
                Some(text) => text.parse().map_err(|_| {
                    Error::invalid(format!(
                        "port {key}: '{text}' is no IPv4 address of the host"
                    ))
                })?,
            };
            let text = binding.host_port.as_deref().unwrap_or_default();
            let host_port = match text {
                "" => 0,
                text => text.parse().map_err(|_| {
                    Error::invalid(format!(
                        "port {key}: '{text}' is no port of the host (1-65535)"
                    ))
                })?,
            };
            ports.push(PortRequest {
                host_address,
                host_port,
                target_port,
                protocol,
            });
        }
    }
    for key in keys {
        let (port, protocol) = parse_port(&key)?;
        if protocol == Protocol::Tcp && !exposed.contains(&port) {
            exposed.push(port);
        }
    }
    if host.publish_all_ports.unwrap_or(false) {
        for port in &exposed {
            if !ports.iter().any(|request| request.target_port == *port) {
                ports.push(PortRequest {
                    host_address: Ipv4Addr::UNSPECIFIED,
                    host_port: 0,
                    target_port: *port,
                    protocol: Protocol::Tcp,
                });
            }
        }
    }
    Ok((exposed, ports))
}

fn parse_port(text: &str) -> Result<(u16, Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => {
            return Err(Error::unsupported(format!(
                "port {text}: protocol '{other}' is not supported: use tcp or udp"
            )));
        }
    };
    match number.parse() {
        Ok(number) if number > 0 => Ok((number, protocol)),
        _ => Err(Error::invalid(format!(
            "'{text}' is no port: use 1-65535, with /tcp or /udp"
        ))),
    }
}

fn network(body: &ContainerCreateBody, host: &HostConfig) -> Result<NetworkRequest> {
    let mode = host.network_mode.as_deref().unwrap_or_default();
    let endpoints = body
        .networking_config
        .as_ref()
        .and_then(|config| config.endpoints_config.clone())
        .unwrap_or_default();
    match mode {
        "none" => return Ok(NetworkRequest::None),
        "host" => return Ok(NetworkRequest::Host),
        mode if mode.starts_with("container:") || mode.starts_with("service:") => {
            return Err(Error::unsupported(format!(
                "network mode '{mode}' is not supported: put both on one network instead"
            )));
        }
        _ if body.network_disabled.unwrap_or(false) => return Ok(NetworkRequest::None),
        _ => {}
    }
    let mode = if mode.is_empty() || mode == "default" {
        "bridge"
    } else {
        mode
    };
    let mut names: Vec<&str> = vec![mode];
    let mut others: Vec<&str> = endpoints
        .keys()
        .map(String::as_str)
        .filter(|name| *name != mode && *name != "default")
        .collect();
    others.sort_unstable();
    // Naming networks without a mode means these and not the default one.
    if mode == "bridge" && !others.is_empty() && !endpoints.contains_key("bridge") {
        names.clear();
    }
    names.extend(others);
    let mut joins = Vec::new();
    for name in names {
        let settings = endpoints.get(name);
        let aliases = settings
            .and_then(|settings| settings.aliases.clone())
            .unwrap_or_default();
        let address = settings
            .and_then(|settings| settings.ipam_config.as_ref()?.ipv4_address.clone())
            .filter(|text| !text.is_empty());
        let address = match address {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                Error::invalid(format!("network {name}: '{text}' is no IPv4 address"))
            })?),
        };
        joins.push(NetworkJoin {
            network: name.to_owned(),
            aliases,
            address,
        });
    }
    Ok(NetworkRequest::Join(joins))
}

fn health(given: Option<&HealthConfig>, image: &Image) -> Result<Option<HealthCheck>> {
    let of_image = image
        .config
        .config
        .healthcheck
        .as_ref()
        .map(|health| HealthConfig {
            test: Some(health.test.clone()),
            interval: Some(health.interval),
            timeout: Some(health.timeout),
            retries: Some(health.retries),
            start_period: Some(health.start_period),
            start_interval: Some(health.start_interval),
        });
    let test = given
        .and_then(|given| given.test.clone())
        .filter(|test| !test.is_empty())
        .or_else(|| of_image.as_ref().and_then(|health| health.test.clone()))
        .unwrap_or_default();
    let argv = match test.split_first() {
        None => return Ok(None),
        Some((word, _)) if word == "NONE" => return Ok(None),
        Some((word, rest)) if word == "CMD" && !rest.is_empty() => rest.to_vec(),
        Some((word, [command])) if word == "CMD-SHELL" => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), command.clone()]
        }
        Some((word, _)) => {
            return Err(Error::invalid(format!(
                "health check: test begins with '{word}': use NONE, CMD with a program, or CMD-SHELL with one command"
            )));
        }
    };
    let times = given.map(|given| {
        [
            ("Interval", given.interval),
            ("Timeout", given.timeout),
            ("StartPeriod", given.start_period),
            ("StartInterval", given.start_interval),
        ]
    });
    for (name, nanos) in times.into_iter().flatten() {
        let nanos = nanos.unwrap_or(0);
        if nanos != 0 && Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)) < MINIMUM_INTERVAL
        {
            return Err(Error::invalid(format!(
                "{name} in Healthcheck cannot be less than 1ms: leave it out, or give nanoseconds"
            )));
        }
    }
    let nanoseconds = |read: fn(&HealthConfig) -> Option<i64>, default: Duration| {
        given
            .and_then(read)
            .filter(|nanos| *nanos > 0)
            .or_else(|| of_image.as_ref().and_then(read).filter(|nanos| *nanos > 0))
            .and_then(|nanos| u64::try_from(nanos).ok())
            .map_or(default, Duration::from_nanos)
    };
    let retries = given
        .and_then(|given| given.retries)
        .filter(|retries| *retries > 0)
        .or_else(|| of_image.as_ref().and_then(|health| health.retries));
    Ok(Some(HealthCheck {
        test: argv,
        interval: nanoseconds(|health| health.interval, DEFAULT_INTERVAL),
        timeout: nanoseconds(|health| health.timeout, DEFAULT_INTERVAL),
        start_period: nanoseconds(|health| health.start_period, Duration::ZERO),
        start_interval: nanoseconds(|health| health.start_interval, DEFAULT_START_INTERVAL),
        retries: retries
            .and_then(|retries| u32::try_from(retries).ok())
            .filter(|retries| *retries > 0)
            .unwrap_or(DEFAULT_RETRIES),
    }))
}

pub(crate) fn restart(host: &HostConfig) -> Result<RestartPolicy> {
    let Some(policy) = &host.restart_policy else {
        return Ok(RestartPolicy::No);
    };
    let maximum = policy.maximum_retry_count.unwrap_or(0);
    let chosen = match policy.name {
        None | Some(RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO) => RestartPolicy::No,
        Some(RestartPolicyNameEnum::ALWAYS) => RestartPolicy::Always,
        Some(RestartPolicyNameEnum::UNLESS_STOPPED) => RestartPolicy::UnlessStopped,
        Some(RestartPolicyNameEnum::ON_FAILURE) => RestartPolicy::OnFailure {
            maximum: u32::try_from(maximum).unwrap_or(0),
        },
    };
    if chosen != RestartPolicy::No && host.auto_remove.unwrap_or(false) {
        return Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    Ok(chosen)
}

fn stop_signal(body: &ContainerCreateBody, image: &Image) -> Result<i32> {
    let given = body.stop_signal.clone().filter(|text| !text.is_empty());
    match given.or_else(|| image.config.config.stop_signal.clone()) {
        Some(text) => parse_signal(&text),
        None => Ok(DEFAULT_STOP_SIGNAL),
    }
}

fn merged_labels(
    body: &ContainerCreateBody,
    image: &Image,
) -> std::collections::BTreeMap<String, String> {
    let mut labels = image.config.config.labels.clone();
    labels.extend(body.labels.clone().unwrap_or_default());
    labels
}

fn replica(labels: &std::collections::BTreeMap<String, String>) -> Result<Option<Replica>> {
    let (Some(project), Some(service)) = (labels.get(labels::PROJECT), labels.get(labels::SERVICE))
    else {
        return Ok(None);
    };
    let number = labels.get(labels::CONTAINER_NUMBER).map_or(Ok(1), |text| {
        text.parse().map_err(|_| {
            Error::invalid(format!(
                "label {}: '{text}' is no number",
                labels::CONTAINER_NUMBER
            ))
        })
    })?;
    Ok(Some(Replica {
        project: project.clone(),
        service: service.clone(),
        number,
        config_hash: labels.get(labels::CONFIG_HASH).cloned().unwrap_or_default(),
        one_off: labels
            .get(labels::ONEOFF)
            .is_some_and(|text| text.eq_ignore_ascii_case("true")),
    }))
}

fn extra_hosts(host: &HostConfig) -> Result<Vec<(String, String)>> {
    host.extra_hosts
        .iter()
        .flatten()
        .map(|entry| match entry.split_once([':', '=']) {
            Some((name, address))
                if address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok() =>
            {
                Ok((name.to_owned(), address.to_owned()))
            }
            _ => Err(Error::invalid(format!(
                "invalid IP address in add-host: '{entry}': use NAME:ADDRESS or NAME:host-gateway"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_replace_and_remove() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        for variable in ["A=3", "B", "C=4", "D"] {
            set_variable(&mut env, variable.to_owned());
        }
        assert_eq!(env, ["A=3", "C=4"]);
    }

    #[test]
    fn ports_have_protocols() {
        assert_eq!(parse_port("80").expect("port"), (80, Protocol::Tcp));
        assert_eq!(parse_port("53/udp").expect("port"), (53, Protocol::Udp));
        for wrong in ["0", "x", "80/sctp", "70000", ""] {
            assert!(parse_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_named_alone_replaces_the_default() {
        let body: ContainerCreateBody = serde_json::from_str(
            r#"{"NetworkingConfig":{"EndpointsConfig":{"shop_default":{"Aliases":["web"]}}},
                "HostConfig":{"NetworkMode":"shop_default"}}"#,
        )
        .expect("body");
        let NetworkRequest::Join(joins) =
            network(&body, body.host_config.as_ref().expect("host")).expect("network")
        else {
            panic!("no join");
        };
        assert_eq!(
            (joins.len(), joins[0].aliases.as_slice()),
            (1, &["web".to_owned()][..])
        );
        let plain = network(&ContainerCreateBody::default(), &HostConfig::default());
        assert!(matches!(plain, Ok(NetworkRequest::Join(joins)) if joins[0].network == "bridge"));
    }
}
