//! Where the time of a command goes: a line at the end of each phase, for `--log-level trace`.
//!
//! Invariant: without it a phase costs the load of a flag.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::time::{ClockId, clock_gettime};

use crate::log::Log;

/// Above all numbers that a workload may be given (`--preserve-fds`, socket activation).
const ABOVE: RawFd = 300;

/// Which process a line is of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Runtime,
    /// The child of the runtime that joins and makes namespaces.
    Joiner,
    /// The container's.
    Process,
}

const ROLES: [&str; 3] = ["runtime", "joiner", "process"];

#[derive(Debug)]
struct Trace {
    /// Kept open, as the log's path means something else in a container.
    file: File,
    json: bool,
}

static TRACE: OnceLock<Trace> = OnceLock::new();
static ON: AtomicBool = AtomicBool::new(false);
/// The end of the phase before, in nanoseconds of the monotonic clock; a clone has its parent's.
static LAST: AtomicU64 = AtomicU64::new(0);
static ROLE: AtomicU8 = AtomicU8::new(Role::Runtime as u8);

/// Lines go to the log from now on.
pub(crate) fn enable(log: &Log) {
    let file = match &log.file {
        Some(path) => OpenOptions::new().append(true).create(true).open(path).ok(),
        None => None,
    };
    let copy = match &file {
        Some(file) => fcntl_dupfd_cloexec(file, ABOVE),
        None => fcntl_dupfd_cloexec(rustix::stdio::stderr(), ABOVE),
    };
    let Ok(copy) = copy else {
        crate::log::warn(|| "--log-level trace: there is no descriptor left for it".into());
        return;
    };
    let trace = Trace {
        file: copy.into(),
        json: log.json,
    };
    if TRACE.set(trace).is_ok() {
        LAST.store(now(), Ordering::Relaxed);
        ON.store(true, Ordering::Relaxed);
    }
}

/// The number of the open descriptor, if there is one.
pub(crate) fn descriptor() -> Option<RawFd> {
    let trace = TRACE.get().filter(|_| ON.load(Ordering::Relaxed))?;
    Some(trace.file.as_raw_fd())
}

/// Ends the lines of this process, whose descriptors are about to be closed.
pub(crate) fn end() {
    ON.store(false, Ordering::Relaxed);
}

/// What this process is, from now on.
pub(crate) fn role(role: Role) {
    ROLE.store(role as u8, Ordering::Relaxed);
}

/// A phase ends here.
pub(crate) fn phase(name: &str) {
    if ON.load(Ordering::Relaxed) {
        line(name);
    }
}

fn line(name: &str) {
    let Some(trace) = TRACE.get() else { return };
    let now = now();
    let took = now.saturating_sub(LAST.swap(now, Ordering::Relaxed));
    let (seconds, microseconds) = (now / 1_000_000_000, now / 1000 % 1_000_000);
    let role = ROLES[usize::from(ROLE.load(Ordering::Relaxed))];
    let took = took / 1000;
    let line = if trace.json {
        format!(
            "{{\"level\":\"trace\",\"msg\":\"{name}\",\"process\":\"{role}\",\"monotonic\":\
             \"{seconds}.{microseconds:06}\",\"microseconds\":{took}}}\n"
        )
    } else {
        format!(
            "monotonic={seconds}.{microseconds:06} level=trace process={role:?} \
             microseconds={took} msg={name:?}\n"
        )
    };
    // In one write, as several processes write.
    let _ = (&trace.file).write_all(line.as_bytes());
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
