//! One verb, one file, with its arguments and one function `run`.

pub mod build;
pub mod completion;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod down;
pub mod events;
pub mod exec;
pub mod images;
pub mod import;
pub mod info;
pub mod inspect;
pub mod kill;
pub mod logs;
pub mod ls;
pub mod network;
pub mod pause;
pub mod port;
pub mod ps;
pub mod pull;
pub mod restart;
pub mod rm;
pub mod rmi;
pub mod run;
pub mod start;
pub mod stats;
pub mod status;
pub mod stop;
pub mod tag;
pub mod top;
pub mod unpause;
pub mod up;
pub mod version;
pub mod volume;
pub mod wait;

use std::rc::Rc;

use clap::{Parser, ValueEnum};
use tokio::task::LocalSet;

use crate::arguments::{Arguments, Verb};
use crate::failure::{Failure, Result};
use crate::output;
use crate::session::Session;

/// Exit code of a command line that is wrong, and of `run` and `exec` where the daemon fails.
pub const DAEMON_FAILURE: u8 = 125;

/// How a listing is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    /// One JSON object a line
    Json,
}

/// Reads the command line, carries it out and gives the exit code.
pub fn main() -> u8 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                DAEMON_FAILURE
            } else {
                0
            };
        }
    };
    match carry_out(arguments) {
        Ok(code) => code,
        Err(failure) => {
            if let Some(report) = failure.report() {
                output::note(report);
            }
            failure.code()
        }
    }
}

fn carry_out(arguments: Arguments) -> Result<u8> {
    let mut session = Session::new(arguments.globals)?;
    match &arguments.verb {
        Verb::Up(verb) => session.merge(&verb.late),
        Verb::Down(verb) => session.merge(&verb.late),
        Verb::Ps(verb) => session.merge(&verb.late),
        Verb::Config(verb) => session.merge(&verb.late),
        _ => {}
    }
    // These need no runtime and run for long or not at all.
    match arguments.verb {
        Verb::Completion(verb) => return completion::run(verb),
        Verb::Pull(verb) => return pull::run(verb),
        Verb::Config(verb) => return config::run(&session, verb),
        Verb::Doctor(verb) => return doctor::run(&session, verb),
        Verb::Daemon(verb) if !verb.stops() => return daemon::run(&session, verb),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    let code = LocalSet::new().block_on(&runtime, ask(Rc::new(session), arguments.verb));
    // Whatever still reads or waits ends with the process.
    runtime.shutdown_background();
    code
}

async fn ask(session: Rc<Session>, verb: Verb) -> Result<u8> {
    match verb {
        Verb::Up(verb) => up::run(&session, verb).await,
        Verb::Down(verb) => down::run(&session, verb).await,
        Verb::Ps(verb) => ps::run(&session, verb).await,
        Verb::Status(verb) => status::run(&session, verb).await,
        Verb::Ls(verb) => ls::run(&session, verb).await,
        Verb::Logs(verb) => logs::run(&session, verb).await,
        Verb::Exec(verb) => exec::run(&session, verb).await,
        Verb::Run(verb) => run::run(&session, *verb).await,
        Verb::Build(verb) => build::run(&session, verb).await,
        Verb::Images(verb) => images::run(&session, verb).await,
        Verb::Import(verb) => import::run(&session, verb).await,
        Verb::Rmi(verb) => rmi::run(&session, verb).await,
        Verb::Tag(verb) => tag::run(&session, verb).await,
        Verb::Stop(verb) => stop::run(&session, verb).await,
        Verb::Start(verb) => start::run(&session, verb).await,
        Verb::Restart(verb) => restart::run(&session, verb).await,
        Verb::Kill(verb) => kill::run(&session, verb).await,
        Verb::Rm(verb) => rm::run(&session, verb).await,
        Verb::Pause(verb) => pause::run(&session, verb).await,
        Verb::Unpause(verb) => unpause::run(&session, verb).await,
        Verb::Wait(verb) => wait::run(&session, verb).await,
        Verb::Top(verb) => top::run(&session, verb).await,
        Verb::Stats(verb) => stats::run(&session, verb).await,
        Verb::Port(verb) => port::run(&session, verb).await,
        Verb::Inspect(verb) => inspect::run(&session, verb).await,
        Verb::Events(verb) => events::run(&session, verb).await,
        Verb::Network(verb) => network::run(&session, verb).await,
        Verb::Volume(verb) => volume::run(&session, verb).await,
        Verb::Version(verb) => version::run(&session, verb).await,
        Verb::Info(verb) => info::run(&session, verb).await,
        Verb::Daemon(verb) => daemon::stop(&session, verb).await,
        Verb::Completion(_) | Verb::Pull(_) | Verb::Config(_) | Verb::Doctor(_) => Ok(0),
    }
}

/// Prints objects as one JSON object a line.
pub fn print_json(objects: &[serde_json::Value]) -> Result<()> {
    use std::io::Write;
    let mut stdout = output::stdout();
    for object in objects {
        writeln!(stdout, "{object}")?;
    }
    stdout.flush()?;
    Ok(())
}

/// What a failed start says about the workload's program: 127 if it is not there, 126 if it
/// cannot be run, else 125, as Docker does by the same words.
pub fn start_failure_code(message: &str) -> u8 {
    let message = message.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    if says(&[
        "executable file not found",
        "no such file or directory",
        "command not found",
    ]) {
        127
    } else if says(&[
        "permission denied",
        "not executable",
        "is a directory",
        "exec format error",
    ]) {
        126
    } else {
        DAEMON_FAILURE
    }
}
