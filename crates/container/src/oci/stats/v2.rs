//! Readings of cgroup v2 (kernel: `admin-guide/cgroup-v2.rst`), in the names of v1.

use serde_json::{Map, Value, json};

use crate::cgroup::Cgroup;

use super::{
    CPUSET, Files, block_entry, huge_page_sizes, huge_pages, memory_entry, object, pids,
    throttling, without_zeros,
};

pub(super) fn read(group: &Cgroup) -> Value {
    let files = Files(group.unified());
    let current = files.number("pids.current").unwrap_or_else(|| {
        // Without the controller they can be counted all the same.
        let processes = files.text("cgroup.procs").unwrap_or_default();
        processes.lines().count() as u64
    });
    object(vec![
        ("cpu", cpu(&files)),
        // v1's alone; runc has its zeros here.
        ("cpuset", empty_cpuset()),
        ("memory", memory(&files)),
        ("pids", pids(current, files.number("pids.max"))),
        ("blkio", block_io(&files)),
        ("hugetlb", huge_tlb(&files)),
        ("intel_rdt", json!({})),
    ])
}

fn cpu(files: &Files<'_>) -> Value {
    let stat = files.keyed("cpu.stat");
    let nanoseconds = |key: &str| stat.get(key).and_then(Value::as_u64).unwrap_or(0) * 1000;
    let mut usage = without_zeros(&[("total", nanoseconds("usage_usec").into())]);
    usage["kernel"] = nanoseconds("system_usec").into();
    usage["user"] = nanoseconds("user_usec").into();
    object(vec![
        ("usage", usage),
        (
            "throttling",
            throttling(&stat, nanoseconds("throttled_usec")),
        ),
        ("psi", pressure(files, "cpu.pressure")),
    ])
}

fn empty_cpuset() -> Value {
    let fields = CPUSET.map(|name| (name.to_owned(), Value::from(0)));
    Value::Object(fields.into_iter().collect())
}

fn memory(files: &Files<'_>) -> Value {
    let raw = files.keyed("memory.stat");
    let read = |name: &str| files.number(name);
    let usage = read("memory.current").unwrap_or(0);
    let limit = read("memory.max").unwrap_or(0);
    // v1's sum of memory and swap, of which v2 keeps no peak.
    let swap = match (read("memory.swap.current"), read("memory.swap.max")) {
        (Some(swap), Some(u64::MAX)) => (u64::MAX, swap + usage),
        (Some(swap), Some(swap_limit)) => (swap_limit.saturating_add(limit), swap + usage),
        _ => (limit, usage),
    };
    let cache = raw.get("file").and_then(Value::as_u64);
    let mut data = vec![
        ("cache", cache.filter(|&cache| cache != 0).into()),
        (
            "usage",
            memory_entry(limit, usage, read("memory.peak").unwrap_or(0), 0),
        ),
        ("swap", memory_entry(swap.0, swap.1, 0, 0)),
    ];
    if !raw.is_empty() {
        data.push(("raw", Value::Object(raw)));
    }
    data.push(("psi", pressure(files, "memory.pressure")));
    object(data)
}

/// Lines such as `254:0 rbytes=4096 wbytes=0 rios=1 …`.
fn block_io(files: &Files<'_>) -> Value {
    let text = files.text("io.stat").unwrap_or_default();
    let list = |keys: [(&str, &str); 2]| -> Vec<Value> {
        let mut entries = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let device = words.next().unwrap_or_default();
            for word in words {
                let Some((key, value)) = word.split_once('=') else {
                    continue;
                };
                let operation = keys.iter().find(|(known, _)| *known == key);
                if let (Some((_, operation)), Ok(value)) = (operation, value.parse()) {
                    entries.extend(block_entry(device, operation, value));
                }
            }
        }
        entries
    };
    without_zeros(&[
        (
            "ioServiceBytesRecursive",
            list([("rbytes", "Read"), ("wbytes", "Write")]).into(),
        ),
        (
            "ioServicedRecursive",
            list([("rios", "Read"), ("wios", "Write")]).into(),
        ),
        ("psi", pressure(files, "io.pressure")),
    ])
}

fn huge_tlb(files: &Files<'_>) -> Value {
    let mut data = json!({});
    for size in huge_page_sizes() {
        for reserved in [".rsvd", ""] {
            if let Some(usage) = files.number(&format!("hugetlb.{size}{reserved}.current")) {
                let events = files.keyed(&format!("hugetlb.{size}.events"));
                let failed = events.get("max").and_then(Value::as_u64);
                data[&size] = huge_pages(usage, 0, failed.unwrap_or(0));
                break;
            }
        }
    }
    data
}

/// Pressure stall information (kernel: `accounting/psi.rst`); nothing where it is switched off.
fn pressure(files: &Files<'_>, file: &str) -> Value {
    let Some(text) = files.text(file) else {
        return Value::Null;
    };
    let mut data = Map::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(kind) = words.next() else { continue };
        let pairs = words.filter_map(|word| word.split_once('='));
        let values = pairs.filter_map(|(key, value)| {
            let value = match key {
                "total" => Value::from(value.parse::<u64>().ok()?),
                _ => Value::from(value.parse::<f64>().ok()?),
            };
            Some((key.to_owned(), value))
        });
        data.insert(kind.into(), Value::Object(values.collect()));
    }
    Value::Object(data)
}

#[cfg(test)]
mod tests {
    use super::super::tests::directory;
    use super::*;

    #[test]
    fn readings_have_the_names_of_v1() {
        let directory = directory(&[
            (
                "cpu.stat",
                "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 2\nnr_throttled 1\nthrottled_usec 3\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
            ("memory.current", "100\n"),
            ("memory.max", "200\n"),
            ("memory.peak", "150\n"),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "max\n"),
            ("memory.stat", "anon 60\nfile 40\n"),
            (
                "io.stat",
                "8:0 rbytes=4096 wbytes=10 rios=1 wios=2 dbytes=0 dios=0\n",
            ),
        ]);
        let files = Files(Some(directory.path()));
        assert_eq!(
            cpu(&files),
            json!({
                "usage": {"total": 9000, "kernel": 4000, "user": 5000},
                "throttling": {"periods": 2, "throttledPeriods": 1, "throttledTime": 3000},
                "psi": {
                    "some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 7},
                    "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0},
                },
            })
        );
        assert_eq!(
            memory(&files),
            json!({
                "cache": 40,
                "usage": {"limit": 200, "usage": 100, "max": 150, "failcnt": 0},
                "swap": {"limit": u64::MAX, "usage": 110, "failcnt": 0},
                "raw": {"anon": 60, "file": 40},
            })
        );
        assert_eq!(
            block_io(&files),
            json!({
                "ioServiceBytesRecursive": [
                    {"major": 8, "op": "Read", "value": 4096}, {"major": 8, "op": "Write", "value": 10},
                ],
                "ioServicedRecursive": [
                    {"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write", "value": 2},
                ],
            })
        );
    }
}
