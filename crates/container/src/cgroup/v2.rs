//! Limits, readings and the freezer of cgroup v2 (kernel: `admin-guide/cgroup-v2.rst`).

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_model::{ByteSize, Error, Resources, Result, Stats};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::Context;

use super::{PATIENCE, files, missing};

/// The period of CPU quotas, in microseconds.
const PERIOD: u64 = 100_000;
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "pids", "io", "cpuset"];

/// Hands the controllers that there are down to the groups of sandboxes. One that cannot be had
/// is missed by the limit that needs it, and by nothing else.
pub(super) fn delegate(root: &Path, parent: &str) -> Result<()> {
    let available = files::read(&root.join("cgroup.controllers"))?;
    for directory in [root.to_owned(), root.join(parent)] {
        let enabled = files::read(&directory.join("cgroup.subtree_control"))?;
        let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
        for controller in CONTROLLERS {
            if has(&available, controller) && !has(&enabled, controller) {
                let _ = files::write(
                    &directory.join("cgroup.subtree_control"),
                    &format!("+{controller}"),
                );
            }
        }
    }
    Ok(())
}

/// Gives the group all controllers of the hierarchy's root. One that cannot be had is missed by
/// the limit that needs it, and by nothing else.
///
/// # Errors
/// `EOPNOTSUPP` if the group cannot have processes and domain controllers.
pub(super) fn hand_down(path: &Path) -> io::Result<()> {
    let names = |path: &Path, file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    // The root of the hierarchy is where the group above is none.
    let above: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|above| above.join("cgroup.controllers").exists())
        .collect();
    let Some(root) = above.last() else {
        return Ok(());
    };
    let all = names(root, "cgroup.controllers");
    if names(path, "cgroup.controllers") != all {
        let wanted: Vec<String> = all
            .split_whitespace()
            .map(|name| format!("+{name}"))
            .collect();
        for directory in above.iter().rev() {
            let file = directory.join("cgroup.subtree_control");
            if files::try_write(&file, &wanted.join(" ")).is_err() {
                for name in &wanted {
                    let _ = files::try_write(&file, name);
                }
            }
        }
    }
    // Below a group with processes of its own (cgroups(7), "Thread mode").
    if names(path, "cgroup.type").trim() == "domain invalid" {
        files::try_write(&path.join("cgroup.type"), "threaded")?;
    }
    Ok(())
}

pub(super) fn set_limits(path: &Path, resources: &Resources) -> Result<()> {
    let text = |limit: Option<u64>| limit.map_or("max".into(), |limit| limit.to_string());
    let memory = resources.memory.map(|size| size.0);
    set(
        path,
        "memory.max",
        resources.memory.is_some(),
        &text(memory),
        "memory",
    )?;
    // v2 counts swap apart. As Docker: as much swap as memory, where nothing is said.
    let swap = match (resources.memory_swap, resources.memory) {
        (Some(ByteSize(u64::MAX)), _) | (None, None) => None,
        (Some(total), memory) => Some(total.0.saturating_sub(memory.map_or(0, |size| size.0))),
        (None, Some(size)) => Some(size.0),
    };
    let swap_wanted = resources
        .memory_swap
        .is_some_and(|total| total.0 != u64::MAX);
    set(path, "memory.swap.max", swap_wanted, &text(swap), "swap")?;
    let quota = resources
        .cpu_millis
        .map(|millis| (millis * PERIOD / 1000).max(1000));
    set(
        path,
        "cpu.max",
        quota.is_some(),
        &format!("{} {PERIOD}", text(quota)),
        "CPU",
    )?;
    let weight = resources.cpu_shares.map_or(100, weight);
    set(
        path,
        "cpu.weight",
        resources.cpu_shares.is_some(),
        &weight.to_string(),
        "CPU shares",
    )?;
    // An empty line is the parent's set.
    let cpus = resources.cpuset_cpus.clone().unwrap_or_else(|| "\n".into());
    set(
        path,
        "cpuset.cpus",
        resources.cpuset_cpus.is_some(),
        &cpus,
        "CPU set",
    )?;
    set(
        path,
        "pids.max",
        resources.pids.is_some(),
        &text(resources.pids),
        "process",
    )
}

/// From the range of v1's shares (2 to 262144) to that of v2's weight (1 to 10000), such that the
/// default of the one, 1024, becomes that of the other, 100: a parabola over the logarithms.
pub(crate) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let logarithm = (shares as f64).log2();
            let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

fn set(path: &Path, file: &str, wanted: bool, value: &str, limit: &str) -> Result<()> {
    let path = path.join(file);
    if path.exists() {
        return files::write(&path, value);
    }
    if wanted {
        let controller = file.split('.').next().unwrap_or(file);
        return Err(missing(limit, controller));
    }
    Ok(())
}

pub(super) fn stats(path: &Path) -> Result<Stats> {
    let cpu = files::read(&path.join("cpu.stat"))?;
    let time = |key| Duration::from_micros(files::value_of(&cpu, key).unwrap_or(0));
    let mut stats = Stats {
        cpu: time("usage_usec"),
        cpu_user: time("user_usec"),
        cpu_system: time("system_usec"),
        ..Stats::default()
    };
    if path.join("memory.current").exists() {
        let usage = files::number(&path.join("memory.current"))?.unwrap_or(0);
        let cache = files::keyed(&path.join("memory.stat"), "inactive_file")?.unwrap_or(0);
        stats.memory = ByteSize(usage.saturating_sub(cache));
        stats.memory_limit = files::number(&path.join("memory.max"))?.map(ByteSize);
    }
    if path.join("pids.current").exists() {
        stats.pids = files::number(&path.join("pids.current"))?.unwrap_or(0);
    }
    if path.join("io.stat").exists() {
        (stats.block_read, stats.block_written) = block_bytes(&files::read(&path.join("io.stat"))?);
    }
    Ok(stats)
}

/// Lines such as `254:0 rbytes=4096 wbytes=0 rios=1 …`.
fn block_bytes(text: &str) -> (ByteSize, ByteSize) {
    let sum = |key: &str| {
        let values = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(key));
        ByteSize(values.filter_map(|value| value.parse::<u64>().ok()).sum())
    };
    (sum("rbytes="), sum("wbytes="))
}

pub(super) fn set_frozen(path: &Path, frozen: bool) -> Result<()> {
    files::write(&path.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    if !frozen {
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    let events = path.join("cgroup.events");
    let file = fs::File::open(&events).host(|| format!("open {}", events.display()))?;
    while files::keyed(&events, "frozen")? != Some(1) {
        if Instant::now() > deadline {
            // What is half frozen would stay so.
            let _ = files::write(&path.join("cgroup.freeze"), "0");
            return Err(Error::host(format!("freeze {}", path.display())));
        }
        // The kernel tells of changes by an exceptional condition; one that came between the
        // reading and this is waited for in vain, for a moment.
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        let _ = poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&moment));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written for these limits, in a directory with the files of all controllers.
    fn written(resources: &Resources) -> Vec<String> {
        let files = [
            "memory.max",
            "memory.swap.max",
            "cpu.max",
            "cpu.weight",
            "cpuset.cpus",
            "pids.max",
        ];
        let directory = tempfile::tempdir().expect("directory");
        for file in files {
            std::fs::write(directory.path().join(file), "").expect("file");
        }
        set_limits(directory.path(), resources).expect("limits");
        let read = |file| std::fs::read_to_string(directory.path().join(file)).expect("read");
        files.into_iter().map(read).collect()
    }

    #[test]
    fn limits_are_written_in_the_units_of_v2() {
        let none = Resources::default();
        assert_eq!(
            written(&none),
            ["max", "max", "max 100000", "100", "\n", "max"]
        );
        let all = Resources {
            memory: Some(ByteSize(1000)),
            memory_swap: Some(ByteSize(1500)),
            cpu_millis: Some(1500),
            cpu_shares: Some(2),
            cpuset_cpus: Some("0-1".into()),
            pids: Some(7),
            ..Resources::default()
        };
        assert_eq!(
            written(&all),
            ["1000", "500", "150000 100000", "1", "0-1", "7"]
        );
        let swap = |memory_swap| {
            let memory = Some(ByteSize(1000));
            written(&Resources {
                memory,
                memory_swap,
                ..Resources::default()
            })[1]
                .clone()
        };
        assert_eq!(swap(None), "1000");
        assert_eq!(swap(Some(ByteSize(u64::MAX))), "max");
    }

    #[test]
    fn shares_become_weights_over_the_whole_range() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 100, 10_000));
        assert_eq!((weight(100), weight(3333), weight(200)), (17, 256, 29));
        assert_eq!((weight(0), weight(u64::MAX)), (1, 10_000));
    }

    #[test]
    fn block_bytes_are_summed_over_devices() {
        let text =
            "254:0 rbytes=4096 wbytes=10 rios=1 wios=1 dbytes=7 dios=0\n8:0 rbytes=4 wbytes=5\n";
        assert_eq!(block_bytes(text), (ByteSize(4100), ByteSize(15)));
    }
}
