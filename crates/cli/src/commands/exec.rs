use bulkhead_api::Client;
use bulkhead_api::docker::ExecConfig;
use clap::Args;

use super::{DAEMON_FAILURE, start_failure_code};
use crate::attach::{self, Happening};
use crate::failure::{Failure, Result};
use crate::flags::environment;
use crate::names;
use crate::session::Session;
use crate::terminal;

#[derive(Debug, Args)]
pub struct Exec {
    /// Pass our stdin on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// No terminal (as without -t)
    #[arg(short = 'T', long, hide = true)]
    no_tty: bool,
    /// Do not wait for the command
    #[arg(short, long)]
    detach: bool,
    /// Set a variable
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    environment: Vec<String>,
    /// Read variables from a file
    #[arg(long = "env-file", id = "exec_env_file", value_name = "FILE")]
    environment_files: Vec<std::path::PathBuf>,
    /// Run as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Run in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Which replica of a service
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// Give the command all capabilities
    #[arg(long)]
    privileged: bool,
    /// Service or sandbox
    name: String,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub async fn run(session: &Session, arguments: Exec) -> Result<u8> {
    let tty = arguments.tty && !arguments.no_tty;
    if tty && arguments.interactive && !terminal::stdin_is_terminal() {
        return Err(Failure::new(
            "stdin is no terminal: leave out -t, or run the command from a terminal",
        ));
    }
    let own = |name: &str| std::env::var(name).ok();
    let files = &arguments.environment_files;
    let variables = environment::parse(files, &arguments.environment, own)?;
    let sandbox = names::select_one(session, &arguments.name, arguments.index).await?;
    let config = ExecConfig {
        attach_stdin: Some(arguments.interactive && !arguments.detach),
        attach_stdout: Some(!arguments.detach),
        attach_stderr: Some(!arguments.detach),
        console_size: match tty {
            true => terminal::size().map(|(rows, columns)| vec![rows.into(), columns.into()]),
            false => None,
        },
        tty: Some(tty),
        env: Some(variables),
        cmd: Some(arguments.command.clone()),
        privileged: Some(arguments.privileged),
        user: arguments.user.clone(),
        working_dir: arguments.workdir.clone(),
        ..ExecConfig::default()
    };
    let client = session.client().await?;
    let failed = |error: bulkhead_api::Error| {
        let code = match error.status() {
            Some(_) => start_failure_code(&error.to_string()),
            None => DAEMON_FAILURE,
        };
        Failure::from(error).with_code(code)
    };
    // That it is not there or does not run is the same failure as for every verb.
    let id = client
        .create_exec(&sandbox.id, &config)
        .await
        .map_err(|error| Failure::from(error).with_code(1))?;
    if arguments.detach {
        client.start_exec_detached(&id).await.map_err(failed)?;
        return Ok(0);
    }
    let connection = client.start_exec(&id, tty).await.map_err(failed)?;
    let settings = attach::Settings {
        stdin: arguments.interactive,
        terminal: tty,
        detach_keys: &[],
        pass_signals: false,
    };
    attach::connect(connection, &settings, async |happening| {
        if let Happening::Resized(rows, columns) = happening {
            // It may have ended by now.
            let _ = client.resize_exec(&id, rows, columns).await;
        }
    })
    .await
    .map_err(|failure| failure.with_code(DAEMON_FAILURE))?;
    exit_code(client, &id).await
}

/// The output may end a moment before the process.
async fn exit_code(client: &Client, id: &str) -> Result<u8> {
    for milliseconds in [0, 1, 5, 20, 50, 100, 200, 500, 1000] {
        tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
        let inspected = client.inspect_exec(id).await?;
        if inspected.running != Some(true)
            && let Some(code) = inspected.exit_code
        {
            return Ok(code as u8);
        }
    }
    Err(Failure::new("the command closed its output and goes on running").with_code(DAEMON_FAILURE))
}
