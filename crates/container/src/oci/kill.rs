//! `kill`: a signal for the container's init, or with runc's `--all` for all its processes
//! (runtime.md, "Kill").
//!
//! Invariant: SIGKILL leaves no process of the container, whosever PID namespace it is in.

use std::os::fd::AsFd;

use bulkhead_model::{Error, ErrorKind, Result};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::failure::Context;
use crate::sys;

use super::Global;
use super::arguments::{Arguments, Flag, flag};
use super::container::{Container, Status};

/// By number from 1 (signal(7), x86-64).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

pub(super) const FLAGS: &[Flag] = &[flag("all", Some('a'))];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse_leading(arguments, FLAGS)?;
    let (id, rest) = arguments.container()?;
    let signal = match rest {
        [] => libc::SIGTERM,
        [text] => number(text)?,
        [_, other, ..] => return Err(Error::invalid(format!("'{other}' is too much"))),
    };
    let container = Container::load(&global.root, id)?;
    let all = arguments.is_set("all");
    match send(&container, signal, all) {
        // As with runc: who asks for all has what is asked for.
        Err(error) if all && error.kind() == ErrorKind::Conflict => Ok(()),
        result => result,
    }
}

/// # Errors
/// `Conflict` if the container is not running.
fn send(container: &Container, signal: i32, all: bool) -> Result<()> {
    let group = container.cgroup();
    if signal == libc::SIGKILL && !container.has_own_pids()? && group.exists() {
        // The kernel kills the others with the init only where they have it for a parent of all.
        return group.kill();
    }
    if all {
        for pid in group.processes() {
            // One that has ended meanwhile needs none.
            let _ = sys::kill(pid, signal);
        }
    } else {
        let stopped = || Error::conflict("container not running");
        let pid = Pid::from_raw(container.record.pid as i32).ok_or_else(stopped)?;
        let init = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| stopped())?;
        // The descriptor is of this process whatever becomes of the number.
        if matches!(container.status(), Status::Stopped | Status::Creating) {
            return Err(stopped());
        }
        sys::pidfd_send_signal(init.as_fd(), signal).host(|| format!("send signal {signal}"))?;
    }
    if signal == libc::SIGKILL && group.is_frozen() {
        // What is frozen on cgroup v1 dies when it thaws.
        group.thaw()?;
    }
    Ok(())
}

fn number(text: &str) -> Result<i32> {
    // Zero asks whether there is a process (kill(2)).
    if let Ok(number @ 0..=64) = text.parse() {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = name
        .strip_prefix("RTMIN")
        .map(|offset| (34, offset))
        .or_else(|| name.strip_prefix("RTMAX").map(|offset| (64, offset)));
    let found = match real_time {
        Some((base, "")) => Some(base),
        Some((base, offset)) => offset.parse::<i32>().ok().map(|offset| base + offset),
        None => NAMES
            .iter()
            .position(|known| *known == name)
            .map(|index| index as i32 + 1),
    };
    found
        .filter(|number| (1..=64).contains(number))
        .ok_or_else(|| Error::invalid(format!("unknown signal \"{text}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("0", 0),
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("SYS", 31),
            ("RTMIN+1", 35),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(number(text).expect(text), expected);
        }
        for text in ["65", "FOO", "", "RTMAX+1", "-9"] {
            number(text).expect_err(text);
        }
    }
}
