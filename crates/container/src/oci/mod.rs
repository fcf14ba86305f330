//! `bulkhead oci`: the command line of an OCI runtime, as runc has it (OCI runtime specification
//! 1.2). One file per verb.
//!
//! Invariants:
//! - No process stays beside a container: its init waits at a socket in the state directory until
//!   `start` connects, and all else is read from `state.json`, the control group and procfs.
//! - The process has one thread while it makes a container's process.
//! - A field of `config.json` is carried out or refused by its name, never passed over.

mod arguments;
mod config;
mod container;
mod copy_up;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod filesystem;
mod foreground;
mod hooks;
mod kill;
mod list;
mod mappings;
mod mount_options;
mod namespaces;
mod pause;
mod plan;
mod prepared;
mod process;
mod ps;
mod resources;
mod resume;
mod root;
mod run;
mod setup;
mod spec;
mod start;
mod state;
mod terminal;
mod time;
mod update;
mod user_namespace;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_model::{Error, Result};

use crate::backend::Helper;
use crate::sys;

use arguments::{Arguments, Flag, flag, option};

pub(crate) use namespaces::{join_namespaces, make_namespaces};
pub(crate) use setup::{CreateTask, ExecTask, set_up, set_up_exec};

/// The options before the verb.
#[derive(Debug)]
struct Global {
    root: PathBuf,
    log: Option<PathBuf>,
    json: bool,
}

const GLOBAL: &[Flag] = &[
    flag("debug", None),
    option("log", None),
    option("log-format", None),
    option("root", None),
    option("criu", None),
    flag("systemd-cgroup", None),
    option("rootless", None),
    flag("help", Some('h')),
    flag("version", Some('v')),
];

const VERBS: &str = "create delete events exec features kill list pause ps resume run spec start \
                     state update";

impl Global {
    fn new(arguments: &Arguments) -> Result<Self> {
        if arguments.is_set("systemd-cgroup") {
            return Err(Error::unsupported(
                "--systemd-cgroup is not supported by this version of Bulkhead: leave it out, \
                 and use cgroupfs as the cgroup driver",
            ));
        }
        let rootless = arguments.value("rootless").unwrap_or("auto");
        if !matches!(rootless, "auto" | "false") {
            return Err(Error::unsupported(format!(
                "--rootless {rootless}: rootless containers are not supported by this version of \
                 Bulkhead: use auto or false, as root"
            )));
        }
        let format = arguments.value("log-format").unwrap_or("text");
        if !matches!(format, "text" | "json") {
            return Err(Error::invalid(format!(
                "--log-format {format}: use text or json"
            )));
        }
        Ok(Self {
            root: arguments
                .value("root")
                .unwrap_or("/run/bulkhead-oci")
                .into(),
            log: arguments
                .value("log")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            json: format == "json",
        })
    }

    /// Tells of a failure on stderr and in the log; a log that cannot be written costs nothing
    /// but the line.
    fn report(&self, error: &str) {
        let time = time::now();
        let line = if self.json {
            serde_json::json!({"level": "error", "msg": error, "time": time}).to_string()
        } else {
            format!("time=\"{time}\" level=error msg={error:?}")
        };
        let written = self.log.as_ref().and_then(|path| {
            let file = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path);
            writeln!(file.ok()?, "{line}").ok()
        });
        let line = if written.is_some() { error } else { &line };
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// The entry point: `arguments` are what follows `oci`. Must be called before a thread is started.
///
/// Exits with 1 where the runtime fails (255 for `exec`, as runc), otherwise with the workload's
/// code for `run` and `exec`.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Nothing of the caller's reaches a hook or a container but what is asked for
    // (CVE-2024-21626).
    let _ = sys::close_from(3, true);
    let fallback = Global {
        root: PathBuf::new(),
        log: None,
        json: false,
    };
    let parsed = arguments
        .into_iter()
        .map(|argument| {
            argument.into_string().map_err(|argument| {
                Error::invalid(format!("the argument {} is not UTF-8", argument.display()))
            })
        })
        .collect::<Result<Vec<String>>>()
        .and_then(|arguments| Arguments::parse(&arguments, GLOBAL));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => {
            fallback.report(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    if arguments.is_set("version") {
        let text = format!(
            "bulkhead version {}\nspec: 1.2.0\n",
            env!("CARGO_PKG_VERSION")
        );
        return code(print(&text).map(|()| 0), &fallback, 1);
    }
    let Some((verb, rest)) = arguments
        .rest
        .split_first()
        .filter(|_| !arguments.is_set("help"))
    else {
        let text = format!("usage: bulkhead oci [options] VERB …\nverbs: {VERBS}\n");
        return code(print(&text).map(|()| 0), &fallback, 1);
    };
    let global = match Global::new(&arguments) {
        Ok(global) => global,
        Err(error) => {
            fallback.report(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let done = |result: Result<()>| result.map(|()| 0);
    let result = match verb.as_str() {
        "create" => done(create::main(&global, rest)),
        "start" => done(start::main(&global, rest)),
        "run" => run::main(&global, rest),
        "state" => done(state::main(&global, rest)),
        "kill" => done(kill::main(&global, rest)),
        "delete" => done(delete::main(&global, rest)),
        "exec" => return code(exec::main(&global, rest), &global, 255),
        "ps" => done(ps::main(&global, rest)),
        "list" => done(list::main(&global, rest)),
        "pause" => done(pause::main(&global, rest)),
        "resume" => done(resume::main(&global, rest)),
        "update" => done(update::main(&global, rest)),
        "events" => done(events::main(&global, rest)),
        "spec" => done(spec::main(rest)),
        "features" => done(features::main(rest)),
        "checkpoint" | "restore" => Err(Error::unsupported(format!(
            "{verb} is not supported by this version of Bulkhead"
        ))),
        other => Err(Error::invalid(format!(
            "unknown verb '{other}': use one of {VERBS}"
        ))),
    };
    code(result, &global, 1)
}

fn code(result: Result<u8>, global: &Global, failure: u8) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            global.report(&error.to_string());
            ExitCode::from(failure)
        }
    }
}

fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Error::host("write to stdout").with_source(error))
}

/// This program as the helper of its own.
fn helper() -> Helper {
    Helper {
        program: "/proc/self/exe".into(),
        arguments: vec!["container-init".into()],
    }
}
