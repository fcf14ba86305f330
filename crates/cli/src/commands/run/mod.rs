mod request;

use std::path::PathBuf;

use bulkhead_api::client::{AttachOptions, WaitCondition};
use bulkhead_api::{Client, Error};
use clap::Args;

use super::{DAEMON_FAILURE, start_failure_code};
use crate::attach::{self, DETACH_KEYS, Ending, Happening};
use crate::emulation;
use crate::failure::{Failure, Result};
use crate::output::{self, Look};
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
    /// What runs a micro VM's processor, kvm or tcg; what this host is proven to run if not given
    #[arg(long, value_name = "ACCELERATOR")]
    accelerator: Option<String>,
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
    /// size=SIZE: of what a micro VM can write to its root
    #[arg(long = "storage-opt", value_name = "NAME=VALUE")]
    storage_options: Vec<String>,
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
    let body = request::create_body(&arguments)?;
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
    if Look::of_stderr().terminal
        && let Some(info) = emulation::host(client, [&body]).await
        && let Some(reason) = emulation::reason(&body, &info)
    {
        output::note(emulation::note(&reason));
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
