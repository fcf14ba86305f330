//! `update`: changes the limits of a container.
//!
//! Invariant: what is in force and what the state says agree, so that limits which depend on each
//! other (memory and swap, quota and period) are found together.

use std::io::Read;

use bulkhead_model::{Error, Result};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};

use crate::cgroup::Setting;
use crate::failure::Context;

use super::Global;
use super::arguments::{Arguments, Flag, option};
use super::config::{self, Resources};
use super::container::{Container, Status};
use super::resources;

pub(super) const FLAGS: &[Flag] = &[
    option("resources", Some('r')),
    option("blkio-weight", None),
    option("cpu-period", None),
    option("cpu-quota", None),
    option("cpu-burst", None),
    option("cpu-share", None),
    option("cpu-rt-period", None),
    option("cpu-rt-runtime", None),
    option("cpu-idle", None),
    option("cpuset-cpus", None),
    option("cpuset-mems", None),
    option("memory", None),
    option("memory-reservation", None),
    option("memory-swap", None),
    option("kernel-memory", None),
    option("kernel-memory-tcp", None),
    option("pids-limit", None),
    option("l3-cache-schema", None),
    option("mem-bw-schema", None),
];

/// Whole numbers: the flag, and where `linux.resources` has it.
const NUMBERS: [(&str, &str, &str); 9] = [
    ("blkio-weight", "blockIO", "weight"),
    ("cpu-period", "cpu", "period"),
    ("cpu-quota", "cpu", "quota"),
    ("cpu-burst", "cpu", "burst"),
    ("cpu-share", "cpu", "shares"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("cpu-idle", "cpu", "idle"),
    ("pids-limit", "pids", "limit"),
];
const TEXTS: [(&str, &str, &str); 2] = [
    ("cpuset-cpus", "cpu", "cpus"),
    ("cpuset-mems", "cpu", "mems"),
];
/// In bytes, or with a unit.
const SIZES: [(&str, &str); 5] = [
    ("memory", "limit"),
    ("memory-reservation", "reservation"),
    ("memory-swap", "swap"),
    ("kernel-memory", "kernel"),
    ("kernel-memory-tcp", "kernelTCP"),
];

/// Settings of which the kernel or the conversion to v2 needs both: where one is given, the other
/// is as it was.
const PAIRS: [(&str, [&str; 2]); 2] = [("memory", ["limit", "swap"]), ("cpu", ["quota", "period"])];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let mut container = Container::load(&global.root, arguments.only_container()?)?;
    if matches!(container.status(), Status::Stopped | Status::Creating) {
        return Err(Error::conflict("container not running"));
    }
    let given = match arguments.value("resources").filter(|path| !path.is_empty()) {
        Some(path) => read(path)?,
        None => of_flags(&arguments)?,
    };
    let mut configuration: Value = container.config()?;
    let mut recorded = configuration["linux"]["resources"].take();
    if !recorded.is_object() {
        recorded = json!({});
    }
    let change = completed(given, &recorded);
    let wanted = parse(&change)?;
    update_rdt(&arguments, &container, &mut configuration)?;
    let group = container.cgroup();
    if wanted.memory.check_before_update == Some(true) && group.is_v2() {
        check_memory(&wanted, group.value("", "memory.current"))?;
    }
    let settings = ordered(
        resources::settings(&wanted, group.is_v2())?,
        group.value("memory", "memory.limit_in_bytes"),
    );
    let policy = change.get("devices").filter(|rules| !rules.is_null());
    let policy = match policy {
        Some(rules) if *rules != recorded["devices"] => {
            Some(resources::device_rules(&wanted.devices)?)
        }
        _ => None,
    };
    let changed = group.apply(&settings).and_then(|()| match &policy {
        Some(rules) => group.set_device_rules(rules),
        None => Ok(()),
    });
    if let Err(error) = changed {
        // As far as it was known, it is again as it was; the failure is what is to be told.
        if let Ok(before) = parse(&before(&change, &recorded))
            && let Ok(settings) = resources::settings(&before, group.is_v2())
        {
            let _ = group.apply(&settings);
        }
        return Err(error);
    }
    merge(&mut recorded, change);
    configuration["linux"]["resources"] = recorded;
    container.record.config = to_raw_value(&configuration)
        .map_err(|error| Error::host("write the configuration").with_source(error))?;
    container.save()
}

/// Changes the schemata of a container that has some.
fn update_rdt(
    arguments: &Arguments,
    container: &Container,
    configuration: &mut Value,
) -> Result<()> {
    let flags = [
        ("l3-cache-schema", "l3CacheSchema"),
        ("mem-bw-schema", "memBwSchema"),
    ];
    let given: Vec<_> = flags
        .into_iter()
        .filter_map(|(flag, name)| {
            let value = arguments.value(flag).filter(|value| !value.is_empty())?;
            Some((flag, name, value))
        })
        .collect();
    let Some((flag, ..)) = given.first() else {
        return Ok(());
    };
    let Some(rdt) = &container.record.rdt else {
        return Err(Error::unsupported(format!(
            "--{flag}: updating a non-existent Intel RDT configuration is not supported: give the \
             container linux.intelRdt at its creation"
        )));
    };
    let mut wanted = configuration["linux"]["intelRdt"].clone();
    for (_, name, value) in &given {
        wanted[name] = (*value).into();
    }
    rdt.set(&config::parse(&wanted.to_string(), "intelRdt")?)?;
    configuration["linux"]["intelRdt"] = wanted;
    Ok(())
}

fn read(path: &str) -> Result<Value> {
    let text = if path == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .host(|| "read stdin".into())?;
        text
    } else {
        config::read_text(path.as_ref())?
    };
    let value: Value = config::parse(&text, "resources")?;
    // Its errors name the place in the text.
    config::parse::<Resources>(&text, "resources")?;
    Ok(value)
}

fn of_flags(arguments: &Arguments) -> Result<Value> {
    let mut resources = json!({});
    let given = |flag| arguments.value(flag).filter(|value| !value.is_empty());
    for (flag, section, name) in NUMBERS {
        if let Some(text) = given(flag) {
            let number: i64 = text.parse().map_err(|_| {
                Error::invalid(format!("invalid value for --{flag}: '{text}' is no number"))
            })?;
            resources[section][name] = number.into();
        }
    }
    for (flag, section, name) in TEXTS {
        if let Some(text) = given(flag) {
            resources[section][name] = text.into();
        }
    }
    for (flag, name) in SIZES {
        if let Some(text) = given(flag) {
            let size = size(text).ok_or_else(|| {
                Error::invalid(format!(
                    "invalid value for --{flag}: '{text}' is no size: use bytes, or 100M"
                ))
            })?;
            resources["memory"][name] = size.into();
        }
    }
    Ok(resources)
}

/// Bytes, with a unit of 1024 or without; -1 is "no limit".
fn size(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match lower[number.len()..]
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    let bytes = number * (1_u64 << shift) as f64;
    (number >= 0.0 && bytes < i64::MAX as f64).then_some(bytes as i64)
}

/// The change with what belongs to it from before.
fn completed(mut change: Value, recorded: &Value) -> Value {
    if change["memory"]["limit"] == -1 && change["memory"]["swap"].is_null() {
        // Without a limit on the memory there is none on the sum either; zero says nothing of it.
        change["memory"]["swap"] = 0.into();
    }
    let is_set = |value: &Value| !value.is_null() && *value != 0;
    for (section, names) in PAIRS {
        for (given, other) in [(names[0], names[1]), (names[1], names[0])] {
            let old = &recorded[section][other];
            if is_set(&change[section][given]) && change[section][other].is_null() && is_set(old) {
                change[section][other] = old.clone();
            }
        }
    }
    change
}

fn parse(resources: &Value) -> Result<Resources> {
    config::parse(&resources.to_string(), "resources")
}

/// The recorded values of what the change touches.
fn before(change: &Value, recorded: &Value) -> Value {
    let (Some(change), Some(recorded)) = (change.as_object(), recorded.as_object()) else {
        return recorded.clone();
    };
    let touched = recorded.iter().filter_map(|(name, old)| {
        let new = change.get(name)?;
        Some((name.clone(), before(new, old)))
    });
    Value::Object(touched.collect::<Map<_, _>>())
}

/// Puts the change into the record; devices of the same number are one.
fn merge(recorded: &mut Value, change: Value) {
    match (recorded, change) {
        (_, Value::Null) => {}
        (Value::Object(recorded), Value::Object(change)) => {
            for (name, value) in change {
                merge(recorded.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(recorded), Value::Array(change))
            if change
                .iter()
                .all(|entry| entry["rate"].is_number() || entry["weight"].is_number()) =>
        {
            for entry in change {
                let same = |old: &&mut Value| {
                    old["major"] == entry["major"] && old["minor"] == entry["minor"]
                };
                match recorded.iter_mut().rev().find(same) {
                    Some(old) => merge(old, entry),
                    None => recorded.push(entry),
                }
            }
        }
        (recorded, change) => *recorded = change,
    }
}

/// v1 holds memory ≤ memory + swap at every step: the one that makes room goes first.
fn ordered(mut settings: Vec<Setting>, limit: Option<String>) -> Vec<Setting> {
    let index = |file: &str| settings.iter().position(|setting| setting.file == file);
    let files = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"].map(index);
    if let [Some(memory), Some(total)] = files {
        let wanted: i64 = settings[total].value.parse().unwrap_or(-1);
        let limit: Option<i64> = limit.and_then(|text| text.parse().ok());
        if wanted < 0 || limit.is_some_and(|limit| limit < wanted) {
            settings.swap(memory, total);
        }
    }
    settings
}

/// v2 takes a limit below what is used and kills; whoever asks is spared that.
fn check_memory(wanted: &Resources, usage: Option<String>) -> Result<()> {
    let Some(usage) = usage.and_then(|text| text.parse::<i64>().ok()) else {
        return Ok(());
    };
    for (field, name, limit) in [
        ("swap", "memory+swap", wanted.memory.swap),
        ("limit", "memory", wanted.memory.limit),
    ] {
        if let Some(limit) = limit.filter(|&limit| limit > 0 && limit <= usage) {
            return Err(Error::invalid(format!(
                "linux.resources.memory.{field}: rejecting {name} limit {limit} <= usage {usage}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, bytes) in [
            ("-1", Some(-1)),
            ("67108864", Some(67_108_864)),
            ("50M", Some(50 << 20)),
            ("1.5g", Some(3 << 29)),
            ("4kb", Some(4096)),
            ("2GiB", Some(2 << 30)),
            ("x", None),
            ("-5", None),
            ("5q", None),
            ("", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn what_depends_on_each_other_is_completed_from_the_record() {
        let recorded =
            json!({"memory": {"limit": 100, "swap": 200}, "cpu": {"quota": 5, "period": 10}});
        for (change, expected) in [
            (
                json!({"memory": {"swap": 300}}),
                json!({"memory": {"swap": 300, "limit": 100}}),
            ),
            (
                json!({"memory": {"limit": 50}}),
                json!({"memory": {"limit": 50, "swap": 200}}),
            ),
            (
                json!({"memory": {"limit": -1}}),
                json!({"memory": {"limit": -1, "swap": 0}}),
            ),
            (
                json!({"cpu": {"period": 20}}),
                json!({"cpu": {"period": 20, "quota": 5}}),
            ),
            (
                json!({"cpu": {"shares": 20}}),
                json!({"cpu": {"shares": 20}}),
            ),
            (json!({"pids": {"limit": 2}}), json!({"pids": {"limit": 2}})),
        ] {
            assert_eq!(completed(change.clone(), &recorded), expected, "{change}");
        }
    }

    #[test]
    fn the_record_has_one_rate_a_device() {
        let device = |minor: i64, rate: i64| json!({"major": 8, "minor": minor, "rate": rate});
        let list = |devices: &[Value]| json!({"blockIO": {"throttleReadBpsDevice": devices}});
        let mut recorded = list(&[device(0, 1), device(0, 1)]);
        merge(&mut recorded, list(&[device(0, 2), device(1, 3)]));
        assert_eq!(recorded, list(&[device(0, 1), device(0, 2), device(1, 3)]));
        merge(&mut recorded, json!({"devices": [], "pids": {"limit": 3}}));
        assert_eq!(recorded["pids"]["limit"], 3);
        assert_eq!(
            before(&json!({"pids": {"limit": 9}, "cpu": {}}), &recorded),
            json!({"pids": {"limit": 3}})
        );
    }

    #[test]
    fn room_is_made_first() {
        let resources = parse(&json!({"memory": {"limit": 60, "swap": 80}})).expect("resources");
        let files = |limit: &str| {
            let settings = resources::settings(&resources, false).expect("settings");
            let settings = ordered(settings, Some(limit.into()));
            settings[0].file.clone()
        };
        assert_eq!(files("30"), "memory.memsw.limit_in_bytes");
        assert_eq!(files("90"), "memory.limit_in_bytes");
    }

    #[test]
    fn a_limit_below_what_is_used_is_rejected_if_asked_for() {
        let rejected = |text: Value| {
            let wanted = parse(&text).expect("resources");
            check_memory(&wanted, Some("5000".into()))
                .err()
                .map(|error| error.to_string())
        };
        let error = rejected(json!({"memory": {"limit": 1024}})).expect("limit");
        assert!(error.contains("rejecting memory limit"), "{error}");
        let error = rejected(json!({"memory": {"limit": 1024, "swap": 2048}})).expect("swap");
        assert!(error.contains("rejecting memory+swap limit"), "{error}");
        assert_eq!(rejected(json!({"memory": {"limit": 6000}})), None);
    }
}
