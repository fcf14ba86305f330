//! What `run` asks the daemon for.

use std::collections::HashMap;
use std::path::Path;

use bulkhead_api::docker::{
    ACCELERATOR_LABEL, ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig,
    HostConfig, NetworkingConfig, ResourcesUlimits,
};
use bulkhead_microvm::Accelerator;
use bulkhead_model::Kind;

use super::Run;
use crate::failure::{Failure, Result};
use crate::flags::environment;
use crate::flags::limits::{
    parse_cpus, parse_nanoseconds, parse_restart, parse_security_option, parse_size,
    parse_storage_options, parse_ulimit,
};
use crate::flags::mounts::{Volumes, parse_mount, parse_tmpfs};
use crate::flags::ports::Ports;
use crate::terminal;

pub(super) fn create_body(arguments: &Run) -> Result<ContainerCreateBody> {
    let directory = std::env::current_dir()
        .map_err(|error| Failure::new(format!("the working directory: {error}")))?;
    if !matches!(arguments.pull.as_str(), "missing" | "never") {
        return Err(Failure::new(format!(
            "--pull {}: this version talks to no registry yet; use missing or never",
            arguments.pull
        )));
    }
    let own = |name: &str| std::env::var(name).ok();
    let files = &arguments.environment_files;
    let volumes = Volumes::parse(&arguments.volumes, &directory)?;
    let mut ports = Ports::parse(&arguments.ports)?;
    for port in &arguments.expose {
        let only = Ports::parse(std::slice::from_ref(port))
            .map_err(|_| Failure::new(format!("--expose {port}: write it as PORT[/PROTOCOL]")))?;
        for (key, value) in only.exposed {
            ports.exposed.entry(key).or_insert(value);
        }
    }
    let attached = !arguments.detach;
    let mut host_config = host_config(arguments, &directory)?;
    host_config.binds = list(volumes.binds);
    host_config.port_bindings = (!ports.bindings.is_empty()).then_some(ports.bindings);
    Ok(ContainerCreateBody {
        image: Some(arguments.image.clone()),
        cmd: list(arguments.command.clone()),
        entrypoint: arguments.entrypoint.clone().map(|program| vec![program]),
        hostname: arguments.hostname.clone(),
        user: arguments.user.clone(),
        working_dir: arguments.workdir.clone(),
        env: list(environment::parse(files, &arguments.environment, own)?),
        labels: Some(labels(arguments)?),
        tty: Some(arguments.tty),
        open_stdin: Some(arguments.interactive),
        stdin_once: Some(arguments.interactive && attached),
        attach_stdin: Some(arguments.interactive && attached),
        attach_stdout: Some(attached),
        attach_stderr: Some(attached),
        exposed_ports: (!ports.exposed.is_empty()).then_some(ports.exposed),
        volumes: (!volumes.anonymous.is_empty()).then_some(volumes.anonymous),
        healthcheck: healthcheck(arguments)?,
        stop_signal: arguments.stop_signal.clone(),
        stop_timeout: arguments.stop_timeout,
        networking_config: networking(arguments)?,
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    })
}

fn list<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

fn labels(arguments: &Run) -> Result<HashMap<String, String>> {
    let mut labels = environment::parse_labels(&arguments.labels)?;
    let Some(accelerator) = &arguments.accelerator else {
        return Ok(labels);
    };
    if arguments.runtime.as_deref() != Some("microvm") {
        return Err(Failure::new(
            "--accelerator: a container has none; add --runtime microvm",
        ));
    }
    if let Err(error) = accelerator.parse::<Accelerator>() {
        return Err(Failure::new(format!("--accelerator: {error}")));
    }
    let other = labels.insert(ACCELERATOR_LABEL.to_owned(), accelerator.clone());
    if other.is_some_and(|other| other != *accelerator) {
        return Err(Failure::new(format!(
            "--accelerator and --label {ACCELERATOR_LABEL} contradict each other"
        )));
    }
    Ok(labels)
}

fn host_config(arguments: &Run, directory: &Path) -> Result<HostConfig> {
    let size = |flag, text: &Option<String>| match text.as_deref() {
        Some("-1") => Ok(Some(-1)),
        Some(text) => parse_size(flag, text).map(Some),
        None => Ok(None),
    };
    let kind: Kind = match &arguments.runtime {
        Some(runtime) => runtime.parse()?,
        None => Kind::default(),
    };
    if arguments.rm
        && arguments
            .restart
            .as_deref()
            .is_some_and(|policy| policy != "no")
    {
        return Err(Failure::new(
            "--rm and --restart exclude each other: what is removed cannot be restarted",
        ));
    }
    let mounts = arguments.mounts.iter();
    let mounts = mounts.map(|mount| parse_mount(mount, directory));
    let ulimits = arguments.ulimits.iter().map(|limit| parse_ulimit(limit));
    let security = arguments.security_options.iter();
    let security = security.map(|option| parse_security_option(option));
    let sysctls = arguments.sysctls.iter().map(|sysctl| {
        let (name, value) = sysctl
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("--sysctl {sysctl}: write it as NAME=VALUE")))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    Ok(HostConfig {
        auto_remove: Some(arguments.rm),
        runtime: Some(kind.to_string()),
        network_mode: Some(
            arguments
                .network
                .clone()
                .unwrap_or_else(|| "default".into()),
        ),
        mounts: list(mounts.collect::<Result<Vec<_>>>()?),
        tmpfs: match arguments.tmpfs.is_empty() {
            true => None,
            false => Some(parse_tmpfs(&arguments.tmpfs)?),
        },
        memory: size("--memory", &arguments.memory)?,
        memory_swap: size("--memory-swap", &arguments.memory_swap)?,
        nano_cpus: match &arguments.cpus {
            Some(cpus) => Some(parse_cpus(cpus)?),
            None => None,
        },
        cpu_shares: arguments.cpu_shares,
        cpuset_cpus: arguments.cpuset_cpus.clone(),
        pids_limit: arguments.pids_limit,
        ulimits: list(ulimits.collect::<Result<Vec<ResourcesUlimits>>>()?),
        shm_size: size("--shm-size", &arguments.shm_size)?,
        storage_opt: match arguments.storage_options.is_empty() {
            true => None,
            false => Some(parse_storage_options(&arguments.storage_options)?),
        },
        sysctls: match arguments.sysctls.is_empty() {
            true => None,
            false => Some(sysctls.collect::<Result<_>>()?),
        },
        readonly_rootfs: Some(arguments.read_only),
        cap_add: list(arguments.capabilities_add.clone()),
        cap_drop: list(arguments.capabilities_drop.clone()),
        privileged: Some(arguments.privileged),
        security_opt: list(security.collect::<Result<Vec<_>>>()?),
        init: arguments.init.then_some(true),
        restart_policy: match &arguments.restart {
            Some(policy) => Some(parse_restart(policy)?),
            None => None,
        },
        dns: list(arguments.dns.clone()),
        extra_hosts: list(arguments.hosts.clone()),
        console_size: match arguments.tty {
            true => terminal::size().map(|(rows, columns)| vec![rows.into(), columns.into()]),
            false => None,
        },
        ..HostConfig::default()
    })
}

fn networking(arguments: &Run) -> Result<Option<NetworkingConfig>> {
    if arguments.network_aliases.is_empty() && arguments.ip.is_none() {
        return Ok(None);
    }
    let Some(network) = &arguments.network else {
        return Err(Failure::new(
            "--network-alias and --ip need a --network that is not the default one",
        ));
    };
    let endpoint = EndpointSettings {
        aliases: list(arguments.network_aliases.clone()),
        ipam_config: arguments.ip.clone().map(|address| EndpointIpamConfig {
            ipv4_address: Some(address),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    };
    Ok(Some(NetworkingConfig {
        endpoints_config: Some([(network.clone(), endpoint)].into()),
    }))
}

fn healthcheck(arguments: &Run) -> Result<Option<HealthConfig>> {
    let duration = |flag, text: &Option<String>| match text {
        Some(text) => parse_nanoseconds(flag, text).map(Some),
        None => Ok(None),
    };
    let mut config = HealthConfig {
        test: arguments
            .health_cmd
            .clone()
            .map(|command| vec!["CMD-SHELL".to_owned(), command]),
        interval: duration("--health-interval", &arguments.health_interval)?,
        timeout: duration("--health-timeout", &arguments.health_timeout)?,
        retries: arguments.health_retries,
        start_period: duration("--health-start-period", &arguments.health_start_period)?,
        start_interval: duration("--health-start-interval", &arguments.health_start_interval)?,
    };
    let given = config != HealthConfig::default();
    if arguments.no_healthcheck {
        if given {
            return Err(Failure::new(
                "--no-healthcheck excludes the other --health flags",
            ));
        }
        config.test = Some(vec!["NONE".to_owned()]);
        return Ok(Some(config));
    }
    Ok(given.then_some(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Verb};
    use clap::Parser;

    fn body(line: &[&str]) -> Result<ContainerCreateBody> {
        let words = ["bulkhead", "run"].iter().chain(line);
        match Arguments::try_parse_from(words).expect("command line").verb {
            Verb::Run(run) => create_body(&run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_reach_the_request() {
        let body = body(&[
            "--rm",
            "-it",
            "--runtime",
            "microvm",
            "-p",
            "8080:80",
            "-v",
            "data:/data",
            "-e",
            "A=1",
            "-w",
            "/srv",
            "-u",
            "web",
            "--entrypoint",
            "/bin/sh",
            "--memory",
            "64m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "-1",
            "--health-cmd",
            "true",
            "--label",
            "a=b",
            "--network",
            "none",
            "--hostname",
            "h",
            "image:1",
            "-c",
            "echo --rm",
        ])
        .expect("request");
        let host = body.host_config.expect("host configuration");
        assert_eq!(body.image.as_deref(), Some("image:1"));
        assert_eq!(body.cmd, Some(vec!["-c".into(), "echo --rm".into()]));
        assert_eq!(body.entrypoint, Some(vec!["/bin/sh".to_owned()]));
        assert_eq!(body.hostname.as_deref(), Some("h"));
        assert_eq!((body.tty, body.open_stdin), (Some(true), Some(true)));
        assert_eq!(host.runtime.as_deref(), Some("microvm"));
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.binds, Some(vec!["data:/data".to_owned()]));
        assert_eq!(
            (host.memory, host.nano_cpus),
            (Some(64 << 20), Some(500_000_000))
        );
        assert_eq!((host.pids_limit, host.auto_remove), (Some(-1), Some(true)));
        assert_eq!(
            body.healthcheck.expect("check").test.expect("test")[1],
            "true"
        );
    }

    #[test]
    fn an_accelerator_is_a_label() {
        let line = ["--runtime", "microvm", "--accelerator", "tcg", "i"];
        let labels = body(&line).expect("request").labels.expect("labels");
        assert_eq!(labels[ACCELERATOR_LABEL], "tcg");
    }

    #[test]
    fn what_excludes_each_other_is_said() {
        for (line, part) in [
            (
                &["--rm", "--restart", "always", "i"][..],
                "--rm and --restart",
            ),
            (&["--runtime", "vm", "i"], "unknown runtime 'vm'"),
            (&["--pull", "always", "i"], "no registry"),
            (&["--no-healthcheck", "--health-cmd", "x", "i"], "excludes"),
            (&["--ip", "10.0.0.2", "i"], "need a --network"),
            (&["--sysctl", "x", "i"], "--sysctl x"),
            (&["--accelerator", "kvm", "i"], "add --runtime microvm"),
            (
                &["--runtime", "microvm", "--accelerator", "hvf", "i"],
                "use 'kvm' or 'tcg'",
            ),
            (
                &[
                    "--runtime",
                    "microvm",
                    "--accelerator",
                    "kvm",
                    "-l",
                    "bulkhead.accelerator=tcg",
                    "i",
                ],
                "contradict each other",
            ),
            (&["--expose", "x", "i"], "--expose x"),
        ] {
            let error = body(line).expect_err(part);
            assert!(error.message().contains(part), "{error}");
        }
    }
}
