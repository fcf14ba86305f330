use std::path::PathBuf;

use bulkhead_api::client::{AttachOptions, WaitCondition};
use bulkhead_api::docker::{ContainerCreateBody, HealthConfig, HostConfig, ResourcesUlimits};
use bulkhead_api::{Client, Error};
use bulkhead_model::Kind;
use clap::Args;

use super::{DAEMON_FAILURE, start_failure_code};
use crate::attach::{self, DETACH_KEYS, Ending, Happening};
use crate::failure::{Failure, Result};
use crate::flags::environment;
use crate::flags::limits::{
    parse_cpus, parse_nanoseconds, parse_restart, parse_security_option, parse_size, parse_ulimit,
};
use crate::flags::mounts::{Volumes, parse_mount, parse_tmpfs};
use crate::flags::ports::Ports;
use crate::output;
use crate::session::Session;
use crate::terminal;

#[derive(Debug, Args)]
pub struct Run {
    /// Remove the sandbox when it ends
    #[arg(long)]
    rm: bool,
    /// Pass our stdin on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Do not wait for the command; print the sandbox's id
    #[arg(short, long)]
    detach: bool,
    /// Name of the sandbox
    #[arg(long)]
    name: Option<String>,
    /// Publish a port, [ADDRESS:][HOST:]PORT[/PROTOCOL]
    #[arg(short, long = "publish", value_name = "PORT", id = "publish")]
    ports: Vec<String>,
    /// Let the gateway and others know a port
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    expose: Vec<String>,
    /// Mount a volume or a path of the host, [SOURCE:]TARGET[:OPTIONS]
    #[arg(short, long = "volume", value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Mount, type=bind|volume|tmpfs,source=…,target=…
    #[arg(long = "mount", value_name = "MOUNT")]
    mounts: Vec<String>,
    /// Mount a tmpfs, TARGET[:OPTIONS]
    #[arg(long, value_name = "TARGET")]
    tmpfs: Vec<String>,
    /// Set a variable
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    environment: Vec<String>,
    /// Read variables from a file
    #[arg(long = "env-file", id = "run_env_file", value_name = "FILE")]
    environment_files: Vec<PathBuf>,
    /// Set a label
    #[arg(short, long = "label", value_name = "NAME[=VALUE]")]
    labels: Vec<String>,
    /// Run in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Program before the command; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// container or microvm
    #[arg(long, value_name = "KIND")]
    runtime: Option<String>,
    /// Network: a name, bridge, none or host
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Option<String>,
    /// One more name on the network
    #[arg(long = "network-alias", value_name = "NAME")]
    network_aliases: Vec<String>,
    /// Address on the network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Name server
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Add a line to /etc/hosts, NAME:ADDRESS
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    hosts: Vec<String>,
    #[arg(long, value_name = "NAME", id = "hostname_flag")]
    hostname: Option<String>,
    /// Memory limit, such as 512m
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Limit of memory and swap together; -1 for none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Number of CPUs, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Relative weight of its CPU time
    #[arg(long, value_name = "WEIGHT")]
    cpu_shares: Option<i64>,
    /// CPUs to run on, such as 0-1
    #[arg(long, value_name = "CPUS")]
    cpuset_cpus: Option<String>,
    /// Number of processes
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Limit of the system, NAME=SOFT[:HARD]
    #[arg(long = "ulimit", value_name = "LIMIT")]
    ulimits: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Parameter of the kernel, NAME=VALUE
    #[arg(long = "sysctl", value_name = "NAME=VALUE")]
    sysctls: Vec<String>,
    /// Make the root filesystem read-only
    #[arg(long)]
    read_only: bool,
    #[arg(long = "cap-add", value_name = "CAPABILITY")]
    capabilities_add: Vec<String>,
    #[arg(long = "cap-drop", value_name = "CAPABILITY")]
    capabilities_drop: Vec<String>,
    /// All capabilities, nothing masked
    #[arg(long)]
    privileged: bool,
    /// seccomp=FILE|unconfined, no-new-privileges, …
    #[arg(long = "security-opt", value_name = "OPTION")]
    security_options: Vec<String>,
    /// Run a small init as PID 1
    #[arg(long)]
    init: bool,
    /// no, always, unless-stopped or on-failure[:TIMES]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Signal that stops it
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds until it is killed when it is stopped
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<i64>,
    /// Shell command that tells whether it is healthy
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    #[arg(long, value_name = "DURATION")]
    health_start_period: Option<String>,
    #[arg(long, value_name = "DURATION")]
    health_start_interval: Option<String>,
    #[arg(long, value_name = "NUMBER")]
    health_retries: Option<i64>,
    /// No health check, not even the image's
    #[arg(long)]
    no_healthcheck: bool,
    /// missing, never or always
    #[arg(long, default_value = "missing", value_name = "WHEN")]
    pull: String,
    /// Image
    image: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub async fn run(session: &Session, arguments: Run) -> Result<u8> {
    carry_out(session, arguments)
        .await
        .map_err(|failure| match failure.code() {
            1 => failure.with_code(DAEMON_FAILURE),
            _ => failure,
        })
}

async fn carry_out(session: &Session, arguments: Run) -> Result<u8> {
    if arguments.interactive && arguments.tty && !arguments.detach && !terminal::stdin_is_terminal()
    {
        return Err(Failure::new(
            "stdin is no terminal: leave out -t, or run the command from a terminal",
        ));
    }
    let body = create_body(&arguments)?;
    let client = session.client().await?;
    let created = match client
        .create_container(arguments.name.as_deref(), &body)
        .await
    {
        Ok(created) => created,
        Err(error) if error.is_not_found() => return Err(not_here(&error, &arguments.image)),
        Err(error) => return Err(error.into()),
    };
    for warning in &created.warnings {
        output::note(format!("bulkhead: warning: {warning}"));
    }
    let result = match arguments.detach {
        true => detached(client, &created.id).await,
        false => attached(client, &created.id, &arguments).await,
    };
    // A sandbox that never ran does not remove itself.
    if let (Err(_), true) = (&result, arguments.rm) {
        let _ = client.remove_container(&created.id, true, true).await;
    }
    result
}

/// Docker's own message says nothing of what to do; ours does.
fn not_here(error: &Error, image: &str) -> Failure {
    let message = error.to_string();
    if message.contains("bulkhead import") {
        return Failure::new(message);
    }
    Failure::new(format!(
        "{error}: build it with 'bulkhead build -t {image} …', \
         or bring it in with 'bulkhead import … {image}'"
    ))
}

async fn detached(client: &Client, id: &str) -> Result<u8> {
    start(client, id).await?;
    output::line(id)?;
    Ok(0)
}

async fn start(client: &Client, id: &str) -> Result<()> {
    let Err(error) = client.start_container(id).await else {
        return Ok(());
    };
    // The daemon notes with which code a start failed, as Docker's does.
    let code = match client.inspect_container(id).await {
        Ok(inspected) => inspected.state.and_then(|state| state.exit_code),
        Err(_) => None,
    };
    let code = match code {
        Some(code @ (126 | 127)) => code as u8,
        _ => start_failure_code(&error.to_string()),
    };
    Err(Failure::from(error).with_code(code))
}

async fn attached(client: &Client, id: &str, arguments: &Run) -> Result<u8> {
    let options = AttachOptions {
        stdin: arguments.interactive,
        stdout: true,
        stderr: true,
        logs: false,
        terminal: arguments.tty,
    };
    let connection = client.attach_container(id, &options).await?;
    let condition = match arguments.rm {
        true => WaitCondition::Removed,
        false => WaitCondition::NextExit,
    };
    let wait = client.wait_container(id, condition).await?;
    start(client, id).await?;
    let settings = attach::Settings {
        stdin: arguments.interactive,
        terminal: arguments.tty,
        detach_keys: match arguments.tty && arguments.interactive {
            true => &DETACH_KEYS,
            false => &[],
        },
        pass_signals: !arguments.tty,
    };
    let ending = attach::connect(connection, &settings, async |happening| {
        // Either may come too late for a workload that has just ended.
        let _ = match happening {
            Happening::Resized(rows, columns) => client.resize_container(id, rows, columns).await,
            Happening::Signal(signal) => client.kill_container(id, signal).await,
        };
    })
    .await?;
    if ending == Ending::Detached {
        return Ok(0);
    }
    let ended = wait.finish().await?;
    if let Some(message) = ended.error.and_then(|error| error.message)
        && !message.is_empty()
    {
        return Err(Failure::new(message));
    }
    Ok(ended.status_code as u8)
}

fn create_body(arguments: &Run) -> Result<ContainerCreateBody> {
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
        labels: Some(environment::parse_labels(&arguments.labels)?),
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

fn host_config(arguments: &Run, directory: &std::path::Path) -> Result<HostConfig> {
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

fn networking(arguments: &Run) -> Result<Option<bulkhead_api::docker::NetworkingConfig>> {
    use bulkhead_api::docker::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};
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
            (&["--expose", "x", "i"], "--expose x"),
        ] {
            let error = body(line).expect_err(part);
            assert!(error.message().contains(part), "{error}");
        }
    }
}
