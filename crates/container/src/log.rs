//! The log lines of the command line: to a file or to stderr, as text or as JSON.
//!
//! Invariant: until [`set`] nothing is written; a log that cannot be written costs nothing but
//! the line.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_model::{Error, ErrorKind};

use crate::{time, trace};

/// How much somebody wants to know; each level has those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error,
    Warning,
    Info,
    Debug,
    /// Where the time goes, too: [`crate::trace`].
    Trace,
}

impl Level {
    const ALL: [Self; 5] = [
        Level::Error,
        Level::Warning,
        Level::Info,
        Level::Debug,
        Level::Trace,
    ];

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// Where the lines go.
#[derive(Debug)]
pub(crate) struct Log {
    /// stderr if there is none.
    pub(crate) file: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) level: Level,
}

static LOG: OnceLock<Log> = OnceLock::new();
static SILENT: AtomicBool = AtomicBool::new(false);

/// Legal once, before anything is logged.
pub(crate) fn set(log: Log) {
    if log.level == Level::Trace {
        trace::enable(&log);
    }
    let _ = LOG.set(log);
}

/// Ends the writing for this process: it leaves the place where the log's path means the log.
pub(crate) fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

pub(crate) fn debug(message: impl FnOnce() -> String) {
    line(Level::Debug, message);
}

pub(crate) fn warn(message: impl FnOnce() -> String) {
    line(Level::Warning, message);
}

fn line(level: Level, message: impl FnOnce() -> String) {
    let wanted = |log: &&Log| level <= log.level && !SILENT.load(Ordering::Relaxed);
    if let Some(log) = LOG.get().filter(wanted) {
        log.line(level, &message());
    }
}

/// Tells of the failure that ends the program, in the log and, where that is a file, on stderr.
pub(crate) fn report(error: &Error) {
    const STDERR: Log = Log {
        file: None,
        json: false,
        level: Level::Info,
    };
    let log = LOG.get().unwrap_or(&STDERR);
    let message = error.to_string();
    // What is wrong with the program to run is told in the words of a shell.
    let plain = matches!(
        error.kind(),
        ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable
    );
    if log.file.is_some() || !plain {
        log.line(Level::Error, &message);
    }
    if log.file.is_some() || plain {
        let _ = writeln!(std::io::stderr(), "{message}");
    }
}

impl Log {
    fn line(&self, level: Level, message: &str) {
        let (time, level) = (time::now(), level.name());
        let line = if self.json {
            serde_json::json!({"level": level, "msg": message, "time": time}).to_string()
        } else {
            format!("time=\"{time}\" level={level} msg={message:?}")
        };
        let written = self.file.as_ref().and_then(|path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            writeln!(file.ok()?, "{line}").ok()
        });
        if written.is_none() {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}
