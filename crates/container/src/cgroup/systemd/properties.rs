//! Settings of control group files as properties of a unit (systemd.resource-control(5)), so that
//! systemd knows of them and does not set others.
//!
//! Invariant: each setting is also written to its file, so that one without a property is not lost.

use bulkhead_model::{Error, Result};

use super::super::Setting;
use super::message::{Property, Value};

/// The kernel's period of CPU quotas, in microseconds.
const PERIOD: u64 = 100_000;

/// Properties whose value is a number of the file, or "infinity".
const NUMBERS: [(&str, &str); 11] = [
    ("memory.max", "MemoryMax"),
    ("memory.high", "MemoryHigh"),
    ("memory.low", "MemoryLow"),
    ("memory.min", "MemoryMin"),
    ("memory.swap.max", "MemorySwapMax"),
    ("memory.limit_in_bytes", "MemoryLimit"),
    ("pids.max", "TasksMax"),
    ("cpu.weight", "CPUWeight"),
    ("cpu.shares", "CPUShares"),
    ("blkio.weight", "BlockIOWeight"),
    ("io.weight", "IOWeight"),
];

/// The properties, and the settings as systemd has rounded them.
pub(super) fn of_settings(settings: &[Setting]) -> Result<(Vec<Property>, Vec<Setting>)> {
    let mut settings = settings.to_vec();
    let mut properties = Vec::new();
    let mut add = |name: &str, value| {
        // What comes later wins, in files as in properties.
        properties.retain(|(known, _): &Property| known != name);
        properties.push((name.to_owned(), value));
    };
    let value_of = |settings: &[Setting], file: &str| {
        let found = settings.iter().rev().find(|setting| setting.file == file);
        found.map(|setting| setting.value.clone())
    };
    let idle = value_of(&settings, "cpu.idle").as_deref().map(str::trim) == Some("1");
    let (mut quota, mut period) = (None, None);
    for (index, setting) in settings.iter_mut().enumerate() {
        let (field, file) = (setting.field.clone(), setting.file.clone());
        let value = setting.value.trim().to_owned();
        let number = |text: &str| match text {
            "max" | "-1" => Ok(u64::MAX),
            text => text.parse().map_err(|error| {
                Error::invalid(format!("{field}: '{value}' is no number")).with_source(error)
            }),
        };
        if let Some((_, name)) = NUMBERS.iter().find(|(known, _)| *known == file) {
            if !(idle && file == "cpu.weight") {
                add(name, Value::Uint64(number(&value)?));
            }
            continue;
        }
        match file.as_str() {
            // What systemd makes of this weight is cpu.idle.
            "cpu.idle" if idle => add("CPUWeight", Value::Uint64(0)),
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let (first, second) = (words.next().unwrap_or("max"), words.next());
                let length = second.map_or(Ok(PERIOD), number)?;
                let (second, rounded) = per_second(number(first)?, length);
                add("CPUQuotaPeriodUSec", Value::Uint64(length));
                add("CPUQuotaPerSecUSec", Value::Uint64(second));
                let rounded = rounded.map_or("max".into(), |quota| quota.to_string());
                setting.value = format!("{rounded} {length}");
            }
            "cpu.cfs_quota_us" => quota = Some((index, number(&value)?)),
            "cpu.cfs_period_us" => period = Some(number(&value)?),
            "cpuset.cpus" => add("AllowedCPUs", Value::Bytes(mask(&field, &value)?)),
            "cpuset.mems" => add("AllowedMemoryNodes", Value::Bytes(mask(&field, &value)?)),
            _ => {}
        }
    }
    if let Some(length) = period {
        add("CPUQuotaPeriodUSec", Value::Uint64(length));
    }
    if let Some((index, quota)) = quota {
        let (second, rounded) = per_second(quota, period.unwrap_or(PERIOD));
        add("CPUQuotaPerSecUSec", Value::Uint64(second));
        if let Some(rounded) = rounded {
            settings[index].value = rounded.to_string();
        }
    } else if period.is_some() {
        add("CPUQuotaPerSecUSec", Value::Uint64(u64::MAX));
    }
    Ok((properties, settings))
}

/// The CPU time per second, which systemd rounds to whole percents of a CPU, and the quota that
/// this is; upwards, so that groups in the group can have what they ask for.
fn per_second(quota: u64, period: u64) -> (u64, Option<u64>) {
    if quota == u64::MAX || period == 0 {
        return (u64::MAX, None);
    }
    let exact = quota.saturating_mul(1_000_000) / period;
    if exact.is_multiple_of(10_000) {
        return (exact, Some(quota));
    }
    let rounded = exact.next_multiple_of(10_000);
    (rounded, Some(rounded.saturating_mul(period) / 1_000_000))
}

/// A list such as `0-2,7` as bits, the lowest first.
fn mask(field: &str, list: &str) -> Result<Vec<u8>> {
    let invalid = || Error::invalid(format!("{field}: '{list}' is no list such as 0-2,7"));
    let mut bits = Vec::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().ok().filter(|&bit| bit < 1 << 16);
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err(invalid());
        };
        for bit in first..=last {
            if bits.len() <= bit / 8 {
                bits.resize(bit / 8 + 1, 0);
            }
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    if bits.is_empty() {
        return Err(invalid());
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::super::super::Otherwise;
    use super::*;

    fn of(files: &[(&str, &str)]) -> (Vec<Property>, Vec<String>) {
        let settings: Vec<Setting> = files
            .iter()
            .map(|(file, value)| Setting {
                field: "field".into(),
                controller: "cpu",
                file: (*file).into(),
                value: (*value).into(),
                otherwise: Otherwise::Fail,
            })
            .collect();
        let (properties, settings) = of_settings(&settings).expect("properties");
        let values = settings.into_iter().map(|setting| setting.value);
        (properties, values.collect())
    }

    fn numbers(properties: &[(&str, u64)]) -> Vec<Property> {
        let properties = properties.iter();
        properties
            .map(|(name, number)| ((*name).to_owned(), Value::Uint64(*number)))
            .collect()
    }

    #[test]
    fn limits_become_properties_and_the_last_of_a_file_wins() {
        let (properties, _) = of(&[
            ("memory.max", "5"),
            ("pids.max", "max"),
            ("memory.max", "6"),
            ("io.max", "8:0 rbps=1"),
        ]);
        assert_eq!(
            properties,
            numbers(&[("TasksMax", u64::MAX), ("MemoryMax", 6)])
        );
        let (properties, _) = of(&[("cpuset.cpus", "0-2,9")]);
        assert_eq!(
            properties,
            [("AllowedCPUs".to_owned(), Value::Bytes(vec![7, 2]))]
        );
        let (properties, _) = of(&[("cpu.idle", "1"), ("cpu.weight", "8")]);
        assert_eq!(properties, numbers(&[("CPUWeight", 0)]));
    }

    #[test]
    fn quotas_are_rounded_to_percents_in_both_places() {
        let (properties, values) = of(&[("cpu.max", "5005 100000")]);
        assert_eq!(
            properties,
            numbers(&[
                ("CPUQuotaPeriodUSec", 100_000),
                ("CPUQuotaPerSecUSec", 60_000)
            ])
        );
        assert_eq!(values, ["6000 100000"]);
        let (properties, values) = of(&[
            ("cpu.cfs_period_us", "1000000"),
            ("cpu.cfs_quota_us", "500000"),
        ]);
        assert_eq!(
            properties,
            numbers(&[
                ("CPUQuotaPeriodUSec", 1_000_000),
                ("CPUQuotaPerSecUSec", 500_000)
            ])
        );
        assert_eq!(values, ["1000000", "500000"]);
        let (properties, values) = of(&[("cpu.max", "max 5000")]);
        assert_eq!(
            properties[1],
            numbers(&[("CPUQuotaPerSecUSec", u64::MAX)])[0]
        );
        assert_eq!(values, ["max 5000"]);
    }

    #[test]
    fn a_list_that_is_none_is_refused() {
        for list in ["", "x", "3-x", "99999999"] {
            mask("field", list).expect_err(list);
        }
    }
}
