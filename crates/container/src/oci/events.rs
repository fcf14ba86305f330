//! `events`: readings of a container's control group, once or at intervals, and kills for want
//! of memory; one JSON object a line, as runc has it.

use std::time::{Duration, Instant};

use bulkhead_model::{Error, Result};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use serde_json::Value;

use crate::cgroup::Notice;

use super::arguments::{Arguments, Flag, flag, option};
use super::container::{Container, Status};
use super::{Global, print, stats};

pub(super) const FLAGS: &[Flag] = &[option("interval", None), flag("stats", None)];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let interval = interval(arguments.value("interval").unwrap_or("5s"))?;
    let container = Container::load(&global.root, arguments.only_container()?)?;
    if matches!(container.status(), Status::Stopped | Status::Creating) {
        return Err(Error::conflict(format!(
            "container with id {} is not running",
            container.record.id
        )));
    }
    let (group, id) = (container.cgroup(), container.record.id.as_str());
    let readings = || {
        let mut data = stats::read(group);
        if let Some(rdt) = &container.record.rdt {
            data["intel_rdt"] = rdt.read();
        }
        line("stats", id, Some(data))
    };
    if arguments.is_set("stats") {
        return readings();
    }
    let init = Pid::from_raw(container.record.pid as i32)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(init) = init.filter(|_| container.status() != Status::Stopped) else {
        return Ok(());
    };
    let mut notifications = group.notifications(init)?;
    let mut next = Instant::now() + interval;
    loop {
        match notifications.next(next)? {
            Notice::OutOfMemory => line("oom", id, None)?,
            Notice::Ended => return Ok(()),
            Notice::TimedOut => {
                readings()?;
                next += interval;
            }
        }
    }
}

/// One line of output; the order of the fields is what others match.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

fn line(kind: &str, id: &str, data: Option<Value>) -> Result<()> {
    let event = serde_json::to_string(&Event { kind, id, data })
        .map_err(|error| Error::host("write an event").with_source(error))?;
    print(&format!("{event}\n"))
}

/// A duration as Go writes it, of one unit: `5s`, `500ms`.
fn interval(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: Option<f64> = digits.parse().ok();
    let unit = match &text[digits.len()..] {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    match (number, unit) {
        (Some(number), Some(unit)) if number > 0.0 && number < 1e9 => {
            Ok(Duration::from_secs_f64(number * unit))
        }
        _ => Err(Error::invalid(format!(
            "--interval: '{text}': duration interval must be greater than 0: use 5s or 500ms"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_a_unit_and_are_above_zero() {
        assert_eq!(interval("500ms").expect("ms"), Duration::from_millis(500));
        assert_eq!(interval("2m").expect("m"), Duration::from_secs(120));
        for text in ["0s", "5", "s", "-1s", "5d", ""] {
            interval(text).expect_err(text);
        }
    }
}
