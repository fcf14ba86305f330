//! The readings of a container's group in the form of `events` (runc's `types/events.go`): the
//! names of v1 for both versions, and zeros left out where runc leaves them out.

mod v1;
mod v2;

use std::path::Path;

use serde_json::{Map, Value};

use crate::cgroup::Cgroup;

/// The flags and numbers of v1's cpuset, which v2 does not have.
const CPUSET: [&str; 9] = [
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
];

/// All readings of a group; of one that is not there, none.
pub(super) fn read(group: &Cgroup) -> Value {
    let mut data = if group.is_v2() {
        v2::read(group)
    } else {
        v1::read(group)
    };
    data["network_interfaces"] = Value::Null;
    data
}

/// The files of one directory.
struct Files<'a>(Option<&'a Path>);

impl Files<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0?.join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    /// A file with one number; `max` is the largest.
    fn number(&self, name: &str) -> Option<u64> {
        match self.text(name)?.as_str() {
            "max" => Some(u64::MAX),
            text => text.parse().ok(),
        }
    }

    fn numbers(&self, name: &str) -> Vec<u64> {
        let text = self.text(name).unwrap_or_default();
        text.split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    }

    /// A file of lines `KEY VALUE`.
    fn keyed(&self, name: &str) -> Map<String, Value> {
        let text = self.text(name).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs
            .filter_map(|(key, value)| {
                let value: u64 = value.trim().parse().ok()?;
                Some((key.to_owned(), value.into()))
            })
            .collect()
    }
}

/// An object without the fields that are zero or empty.
fn without_zeros(fields: &[(&str, Value)]) -> Value {
    let full = fields.iter().filter(|(_, value)| !is_empty(value));
    Value::Object(
        full.map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// What is counted of one kind of memory. `limit` and `failcnt` are there also as zeros, but not
/// where everything is zero.
fn memory_entry(limit: u64, usage: u64, max: u64, failcnt: u64) -> Value {
    if (limit, usage, max, failcnt) == (0, 0, 0, 0) {
        return Value::Null;
    }
    let mut entry = without_zeros(&[("usage", usage.into()), ("max", max.into())]);
    entry["limit"] = limit.into();
    entry["failcnt"] = failcnt.into();
    entry
}

fn pids(current: u64, limit: Option<u64>) -> Value {
    let limit = limit.filter(|&limit| limit != u64::MAX).unwrap_or(0);
    without_zeros(&[("current", current.into()), ("limit", limit.into())])
}

fn throttling(stat: &Map<String, Value>, time: u64) -> Value {
    let value = |key: &str| stat.get(key).cloned().unwrap_or_default();
    without_zeros(&[
        ("periods", value("nr_periods")),
        ("throttledPeriods", value("nr_throttled")),
        ("throttledTime", time.into()),
    ])
}

fn block_entry(device: &str, operation: &str, value: u64) -> Option<Value> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
    let mut entry = without_zeros(&[
        ("major", major.into()),
        ("minor", minor.into()),
        ("value", value.into()),
    ]);
    if !operation.is_empty() {
        entry["op"] = operation.into();
    }
    Some(entry)
}

/// The sizes of huge pages as the files of `hugetlb` have them: `2MB`, `1GB`.
fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages");
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kilobytes = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
            Some(huge_page_size(kilobytes.parse().ok()?))
        })
        .collect()
}

fn huge_page_size(kilobytes: u64) -> String {
    match kilobytes {
        1_048_576.. => format!("{}GB", kilobytes >> 20),
        1024.. => format!("{}MB", kilobytes >> 10),
        _ => format!("{kilobytes}KB"),
    }
}

fn huge_pages(usage: u64, max: u64, failcnt: u64) -> Value {
    let mut entry = without_zeros(&[("usage", usage.into()), ("max", max.into())]);
    entry["failcnt"] = failcnt.into();
    entry
}

/// `Value::Null` where a version has no such field.
fn object(fields: Vec<(&str, Value)>) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A directory with these files.
    pub(super) fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("directory");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("file");
        }
        directory
    }

    #[test]
    fn zeros_are_left_out_where_runc_leaves_them_out() {
        assert_eq!(memory_entry(0, 0, 0, 0), Value::Null);
        assert_eq!(
            memory_entry(0, 5, 0, 0),
            json!({"limit": 0, "usage": 5, "failcnt": 0})
        );
        assert_eq!(pids(1, Some(u64::MAX)), json!({"current": 1}));
        assert_eq!(
            block_entry("8:0", "Read", 0),
            Some(json!({"major": 8, "op": "Read"}))
        );
        assert_eq!(
            [64, 2048, 1 << 20].map(huge_page_size),
            ["64KB", "2MB", "1GB"]
        );
    }
}
