//! `events`: readings of a container's control group, once or at intervals, and kills for want
//! of memory; one JSON object a line, as runc has it.

use std::time::Duration;

use bulkhead_model::{Error, Result};
use serde_json::{Map, Value, json};

use crate::cgroup::Cgroup;

use super::arguments::{Arguments, Flag, flag, option};
use super::container::{Container, Status};
use super::{Global, print};

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
    let (group, id) = (container.cgroup(), &container.record.id);
    if arguments.is_set("stats") {
        return line("stats", id, Some(stats(group)));
    }
    let mut kills = group.oom_kills();
    loop {
        std::thread::sleep(interval);
        if container.status() == Status::Stopped {
            return Ok(());
        }
        let now = group.oom_kills();
        if now > kills {
            line("oom", id, None)?;
        }
        kills = now;
        line("stats", id, Some(stats(group)))?;
    }
}

fn line(kind: &str, id: &str, data: Option<Value>) -> Result<()> {
    let mut event = json!({"type": kind, "id": id});
    if let Some(data) = data {
        event["data"] = data;
    }
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
            "--interval: '{text}' is no duration above zero: use 5s or 500ms"
        ))),
    }
}

fn stats(group: &Cgroup) -> Value {
    let number = |controller: &str, file: &str| -> Option<u64> {
        group.value(controller, file)?.parse().ok()
    };
    let keyed = |controller: &str, file: &str| -> Map<String, Value> {
        let text = group.value(controller, file).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs
            .filter_map(|(key, value)| {
                Some((key.to_owned(), value.trim().parse::<u64>().ok()?.into()))
            })
            .collect()
    };
    let (cpu, memory) = if group.is_v2() {
        let times = keyed("cpu", "cpu.stat");
        let nanoseconds = |key: &str| times.get(key).and_then(Value::as_u64).unwrap_or(0) * 1000;
        let memory = json!({
            "usage": {"limit": number("", "memory.max").unwrap_or(u64::MAX), "usage": number("", "memory.current").unwrap_or(0)},
            "raw": keyed("", "memory.stat"),
        });
        (
            json!({"usage": {"total": nanoseconds("usage_usec"), "kernel": nanoseconds("system_usec"), "user": nanoseconds("user_usec")}, "throttling": {}}),
            memory,
        )
    } else {
        let per_cpu: Vec<u64> = group
            .value("cpuacct", "cpuacct.usage_percpu")
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        // In hundredths of a second (`USER_HZ`).
        let times = keyed("cpuacct", "cpuacct.stat");
        let nanoseconds =
            |key: &str| times.get(key).and_then(Value::as_u64).unwrap_or(0) * 10_000_000;
        let entry = |prefix: &str| {
            let read =
                |suffix: &str| number("memory", &format!("memory.{prefix}{suffix}")).unwrap_or(0);
            json!({"limit": read("limit_in_bytes"), "usage": read("usage_in_bytes"), "max": read("max_usage_in_bytes"), "failcnt": read("failcnt")})
        };
        (
            json!({
                "usage": {
                    "total": number("cpuacct", "cpuacct.usage").unwrap_or(0),
                    "percpu": per_cpu,
                    "kernel": nanoseconds("system"),
                    "user": nanoseconds("user"),
                },
                "throttling": {},
            }),
            json!({"usage": entry(""), "swap": entry("memsw."), "kernel": entry("kmem."), "raw": keyed("memory", "memory.stat")}),
        )
    };
    let mut pids = json!({"current": number("pids", "pids.current").unwrap_or(0)});
    if let Some(limit) = number("pids", "pids.max") {
        pids["limit"] = limit.into();
    }
    json!({
        "cpu": cpu,
        "memory": memory,
        "pids": pids,
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
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
