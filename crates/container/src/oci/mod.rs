//! `bulkhead oci`: the command line of an OCI runtime, as runc has it (OCI runtime specification
//! 1.2). One file per verb.
//!
//! Invariants:
//! - No process stays beside a container: its init waits at a socket in the state directory until
//!   `start` connects, and all else is read from `state.json`, the control group and procfs.
//! - The process has one thread while it makes a container's process.
//! - A field of `config.json` is carried out or refused by its name, never passed over.

mod arguments;
mod attributes;
mod bounds;
mod checkpoint;
mod config;
mod container;
mod copy_up;
mod create;
mod criu;
mod delete;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod dry_run;
mod events;
mod exec;
mod features;
mod filesystem;
mod foreground;
mod fork;
mod help;
mod hooks;
mod host_mounts;
mod kill;
mod list;
mod listener;
mod mappings;
mod mount_maker;
mod mount_options;
mod namespaces;
mod network_devices;
mod pause;
mod pid_file;
mod plan;
mod process;
mod ps;
mod rdt;
mod resources;
mod restore;
mod resume;
mod root;
mod run;
mod setup;
mod spec;
mod start;
mod state;
mod stats;
mod terminal;
mod update;
mod user_namespace;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_model::spelling::closest;
use bulkhead_model::{Error, ErrorKind, Result};

use crate::log::{self, Level, Log};
use crate::{program, sys, trace};

use arguments::{Arguments, Flag, flag, option};

/// The version of the specification that is carried out.
const SPECIFICATION: &str = "1.3.0";

/// What the program calls itself: a name that says whose command line it has, as callers look
/// for it.
const PROGRAM: &str = "bulkhead-runc";

const DEFAULT_ROOT: &str = "/run/bulkhead-oci";

/// The options before the verb.
#[derive(Debug)]
struct Global {
    root: PathBuf,
    /// The container's group is a unit of systemd.
    systemd: bool,
    /// The root is not the one that is always there.
    root_given: bool,
    /// A group that cannot be made for want of permission is done without where nothing was asked
    /// of it.
    rootless: bool,
    /// The program, if it is not the one of the path.
    criu: Option<PathBuf>,
}

const GLOBAL: &[Flag] = &[
    flag("debug", None),
    option("log", None),
    option("log-format", None),
    option("log-level", None),
    option("root", None),
    option("criu", None),
    flag("systemd-cgroup", None),
    option("rootless", None),
    flag("help", Some('h')),
    flag("version", Some('v')),
];

impl Global {
    fn new(arguments: &Arguments) -> Result<Self> {
        let ordinary = !rustix::process::geteuid().is_root();
        let rootless = match arguments.value("rootless").unwrap_or("auto") {
            "auto" => ordinary || !in_initial_user_namespace(),
            other => boolean(other).ok_or_else(|| {
                Error::invalid(format!("--rootless {other}: use true, false or auto"))
            })?,
        };
        let root = arguments.value("root");
        if root == Some("") {
            return Err(Error::invalid("--root: it is empty: name a directory"));
        }
        Ok(Self {
            systemd: arguments.is_set("systemd-cgroup"),
            root: root.map_or_else(|| default_root(ordinary), PathBuf::from),
            root_given: root.is_some(),
            rootless,
            criu: arguments
                .value("criu")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        })
    }
}

/// Where the containers of a user are: an ordinary one's in what is his at run time (XDG Base
/// Directory Specification).
fn default_root(ordinary: bool) -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    match own {
        Some(own) if ordinary => PathBuf::from(own).join("bulkhead-oci"),
        _ => DEFAULT_ROOT.into(),
    }
}

/// Whether the ids are the host's: then all are mapped to themselves (user_namespaces(7)).
fn in_initial_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// A truth value as Go reads it.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn log_of(arguments: &Arguments) -> Result<Log> {
    let format = arguments.value("log-format").unwrap_or("text");
    if !matches!(format, "" | "text" | "json") {
        return Err(Error::invalid(format!(
            "--log-format {format}: use text or json"
        )));
    }
    let level = arguments.value("log-level").unwrap_or("info");
    let level = Level::of_name(level).ok_or_else(|| {
        Error::invalid(format!(
            "--log-level {level}: use error, warning, info, debug or trace"
        ))
    })?;
    Ok(Log {
        file: arguments
            .value("log")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        json: format == "json",
        level: level.max(if arguments.is_set("debug") {
            Level::Debug
        } else {
            Level::Error
        }),
    })
}

/// The entry point: `arguments` are what follows `oci`. Must be called before a thread is started.
///
/// Exits with 1 where the runtime fails (255 for `exec`, as runc), otherwise with the workload's
/// code for `run` and `exec`.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut failure = 1;
    match carry_out(arguments, &mut failure) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::report(&error);
            ExitCode::from(failure)
        }
    }
}

/// Gives the exit code, or sets the one of a failure.
fn carry_out(arguments: impl IntoIterator<Item = OsString>, failure: &mut u8) -> Result<u8> {
    let arguments = arguments
        .into_iter()
        .map(|argument| {
            argument.into_string().map_err(|argument| {
                Error::invalid(format!("the argument {} is not UTF-8", argument.display()))
            })
        })
        .collect::<Result<Vec<String>>>()?;
    let arguments = Arguments::parse_leading(&arguments, GLOBAL)?;
    log::set(log_of(&arguments)?);
    trace::phase("arguments read");
    if arguments.is_set("version") {
        let version = env!("CARGO_PKG_VERSION");
        print(&format!(
            "{PROGRAM} version {version}\ncommit: v{version}\nspec: {SPECIFICATION}\n"
        ))?;
        return Ok(0);
    }
    let Some((name, rest)) = arguments
        .rest
        .split_first()
        .filter(|_| !arguments.is_set("help"))
    else {
        print(&help::of_program(PROGRAM, GLOBAL))?;
        return Ok(0);
    };
    // Not all of them may be UTF-8 or flags: most calls ask for no help, and pay nothing for it.
    let asks = rest
        .iter()
        .any(|argument| matches!(argument.trim_start_matches('-'), "h" | "help"));
    let verb = match help::find(name) {
        Some(verb) => verb,
        None if asks => return Err(Error::invalid(format!("No help topic for '{name}'"))),
        None => {
            let verbs: Vec<&str> = help::VERBS.iter().map(|verb| verb.name).collect();
            let meant = closest(name, verbs.iter().copied());
            let meant = meant.map_or(String::new(), |verb| format!("did you mean '{verb}'? "));
            return Err(Error::invalid(format!(
                "unknown verb '{name}': {meant}use one of {}",
                verbs.join(" ")
            )));
        }
    };
    if asks {
        let parsed = if verb.leading {
            Arguments::parse_leading(rest, verb.flags)
        } else {
            Arguments::parse(rest, verb.flags)
        };
        if parsed?.is_set("help") {
            print(&help::of_verb(PROGRAM, verb))?;
            return Ok(0);
        }
    }
    let global = Global::new(&arguments)?;
    if matches!(verb.name, "create" | "run" | "exec") {
        program::reexecute()?;
        trace::phase("run from where nobody can write");
    }
    // Nothing of the caller's reaches a hook or a container but what is asked for
    // (CVE-2024-21626).
    sys::close_from(3, true).map_err(|error| {
        Error::host("keep the caller's descriptors from the container").with_source(error)
    })?;
    let done = |result: Result<()>| result.map(|()| 0);
    match verb.name {
        "create" => done(create::main(&global, rest)).map_err(|error| failed("create", error)),
        "start" => done(start::main(&global, rest)),
        "run" => run::main(&global, rest).map_err(|error| failed("run", error)),
        "state" => done(state::main(&global, rest)),
        "kill" => done(kill::main(&global, rest)),
        "delete" => done(delete::main(&global, rest)),
        "exec" => {
            *failure = 255;
            exec::main(&global, rest)
        }
        "ps" => done(ps::main(&global, rest)),
        "list" => done(list::main(&global, rest)),
        "pause" => done(pause::main(&global, rest)),
        "resume" => done(resume::main(&global, rest)),
        "update" => done(update::main(&global, rest)),
        "events" => done(events::main(&global, rest)),
        "spec" => done(spec::main(rest)),
        "features" => done(features::main(rest)),
        "checkpoint" => done(checkpoint::main(&global, rest)),
        "restore" => restore::main(&global, rest),
        other => Err(Error::unsupported(format!(
            "{other} is not supported by this version of Bulkhead"
        ))),
    }
}

/// In the words that callers of runc look for; what is wrong with the program to run is told in
/// those of a shell, alone.
fn failed(verb: &str, error: Error) -> Error {
    if matches!(
        error.kind(),
        ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable
    ) {
        return error;
    }
    Error::new(error.kind(), format!("runc {verb} failed")).with_source(error)
}

fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::host("write to stdout").with_source(error))
}
