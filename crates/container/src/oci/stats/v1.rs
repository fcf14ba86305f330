//! Readings of cgroup v1 (kernel: `admin-guide/cgroup-v1`).

use serde_json::{Value, json};

use crate::cgroup::Cgroup;

use super::{
    CPUSET, Files, block_entry, huge_page_sizes, huge_pages, memory_entry, object, pids,
    throttling, without_zeros,
};

/// The lists of block devices: the name that `events` has for each, and the kernel's.
const BLOCK_LISTS: [(&str, &str); 8] = [
    ("ioServicedRecursive", "io_serviced"),
    ("ioServiceBytesRecursive", "io_service_bytes"),
    ("ioQueueRecursive", "io_queued"),
    ("ioServiceTimeRecursive", "io_service_time"),
    ("ioWaitTimeRecursive", "io_wait_time"),
    ("ioMergedRecursive", "io_merged"),
    ("ioTimeRecursive", "time"),
    ("sectorsRecursive", "sectors"),
];

pub(super) fn read(group: &Cgroup) -> Value {
    let files = |controller| Files(group.v1(controller));
    let pid_files = files("pids");
    object(vec![
        ("cpu", cpu(&files("cpu"), &files("cpuacct"))),
        ("cpuset", cpuset(&files("cpuset"))),
        ("memory", memory(&files("memory"))),
        (
            "pids",
            pids(
                pid_files.number("pids.current").unwrap_or(0),
                pid_files.number("pids.max"),
            ),
        ),
        ("blkio", block_io(&files("blkio"))),
        ("hugetlb", huge_tlb(&files("hugetlb"))),
        ("intel_rdt", json!({})),
    ])
}

fn cpu(cpu: &Files<'_>, accounting: &Files<'_>) -> Value {
    // In hundredths of a second (`USER_HZ`).
    let times = accounting.keyed("cpuacct.stat");
    let nanoseconds = |key: &str| times.get(key).and_then(Value::as_u64).unwrap_or(0) * 10_000_000;
    let (mut kernel, mut user) = (Vec::new(), Vec::new());
    // Lines of `CPU USER SYSTEM` below a header.
    let table = accounting.text("cpuacct.usage_all").unwrap_or_default();
    for line in table.lines().skip(1) {
        let fields: Vec<u64> = line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        if let [_, in_user, in_kernel, ..] = fields[..] {
            user.push(in_user);
            kernel.push(in_kernel);
        }
    }
    let mut usage = without_zeros(&[
        ("total", accounting.number("cpuacct.usage").into()),
        ("percpu", accounting.numbers("cpuacct.usage_percpu").into()),
        ("percpu_kernel", kernel.into()),
        ("percpu_user", user.into()),
    ]);
    usage["kernel"] = nanoseconds("system").into();
    usage["user"] = nanoseconds("user").into();
    let stat = cpu.keyed("cpu.stat");
    let throttled = stat.get("throttled_time").and_then(Value::as_u64);
    json!({"usage": usage, "throttling": throttling(&stat, throttled.unwrap_or(0))})
}

fn cpuset(files: &Files<'_>) -> Value {
    let mut data = json!({});
    for name in CPUSET {
        let text = files.text(&format!("cpuset.{name}")).unwrap_or_default();
        data[name] = text.parse::<i64>().unwrap_or(0).into();
    }
    for name in ["cpus", "mems"] {
        let list = range(&files.text(&format!("cpuset.{name}")).unwrap_or_default());
        if !list.is_empty() {
            data[name] = list.into();
        }
    }
    data
}

/// The numbers of a list such as `0-2,7` (cpuset(7), "List format").
fn range(text: &str) -> Vec<u16> {
    let parts = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse().ok()?)
    });
    parts.flatten().collect()
}

fn memory(files: &Files<'_>) -> Value {
    let raw = files.keyed("memory.stat");
    let entry = |prefix: &str| {
        let read = |name: &str| {
            let number = files.number(&format!("memory.{prefix}{name}"));
            number.unwrap_or(0)
        };
        memory_entry(
            read("limit_in_bytes"),
            read("usage_in_bytes"),
            read("max_usage_in_bytes"),
            read("failcnt"),
        )
    };
    object(vec![
        ("cache", cache(raw.get("cache"))),
        ("usage", entry("")),
        ("swap", entry("memsw.")),
        ("kernel", entry("kmem.")),
        ("kernelTCP", entry("kmem.tcp.")),
        (
            "raw",
            match raw.is_empty() {
                true => Value::Null,
                false => Value::Object(raw),
            },
        ),
    ])
}

fn cache(value: Option<&Value>) -> Value {
    let number = value.and_then(Value::as_u64).filter(|&number| number != 0);
    number.into()
}

/// The lists of the first scheduler that keeps any.
fn block_io(files: &Files<'_>) -> Value {
    for (prefix, suffix) in [
        ("blkio.bfq.", "_recursive"),
        ("blkio.", "_recursive"),
        ("blkio.throttle.", "_recursive"),
        ("blkio.throttle.", ""),
    ] {
        let lists = BLOCK_LISTS.map(|(name, file)| {
            let text = files.text(&format!("{prefix}{file}{suffix}"));
            (name, block_list(&text.unwrap_or_default()))
        });
        if lists.iter().any(|(_, list)| !list.is_empty()) {
            return without_zeros(&lists.map(|(name, list)| (name, list.into())));
        }
    }
    json!({})
}

/// Lines of `MAJOR:MINOR OPERATION VALUE` or `MAJOR:MINOR VALUE`, and a total.
fn block_list(text: &str) -> Vec<Value> {
    let entries = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields[..] {
            [device, operation, value] => block_entry(device, operation, value.parse().ok()?),
            [device, value] => block_entry(device, "", value.parse().ok()?),
            _ => None,
        }
    });
    entries.collect()
}

fn huge_tlb(files: &Files<'_>) -> Value {
    let mut data = json!({});
    for size in huge_page_sizes() {
        for reserved in [".rsvd", ""] {
            let read = |name: &str| files.number(&format!("hugetlb.{size}{reserved}.{name}"));
            if let Some(usage) = read("usage_in_bytes") {
                let (max, failcnt) = (read("max_usage_in_bytes"), read("failcnt"));
                data[&size] = huge_pages(usage, max.unwrap_or(0), failcnt.unwrap_or(0));
                break;
            }
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::super::tests::directory;
    use super::*;

    #[test]
    fn times_and_throttling_are_read() {
        let directory = directory(&[
            (
                "cpu.stat",
                "nr_periods 4\nnr_throttled 3\nthrottled_time 2\n",
            ),
            ("cpuacct.stat", "user 5\nsystem 6\n"),
            ("cpuacct.usage", "77\n"),
            ("cpuacct.usage_percpu", "33 44 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 1 2\n1 3 4\n"),
        ]);
        let files = Files(Some(directory.path()));
        assert_eq!(
            cpu(&files, &files),
            json!({
                "usage": {"total": 77, "percpu": [33, 44], "percpu_kernel": [2, 4],
                    "percpu_user": [1, 3], "kernel": 60_000_000, "user": 50_000_000},
                "throttling": {"periods": 4, "throttledPeriods": 3, "throttledTime": 2},
            })
        );
    }

    #[test]
    fn block_devices_are_those_of_the_first_scheduler_with_any() {
        let directory = directory(&[
            (
                "blkio.throttle.io_serviced_recursive",
                "8:0 Read 7\n8:0 Total 7\nTotal 7\n",
            ),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 4096\nTotal 4096\n",
            ),
        ]);
        assert_eq!(
            block_io(&Files(Some(directory.path()))),
            json!({
                "ioServicedRecursive": [
                    {"major": 8, "op": "Read", "value": 7}, {"major": 8, "op": "Total", "value": 7},
                ],
                "ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 4096}],
            })
        );
    }

    #[test]
    fn a_list_of_cpus_has_ranges() {
        assert_eq!(range("0-2,7"), [0, 1, 2, 7]);
        assert!(range("").is_empty());
    }
}
