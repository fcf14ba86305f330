//! Limits, readings and the freezer of cgroup v1 (kernel: `admin-guide/cgroup-v1`).

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_model::{ByteSize, Error, Resources, Result, Stats};

use super::{Cgroup, PATIENCE, files, missing, no_freezer, wait_until};

/// What every container may use, as `TYPE MAJOR:MINOR ACCESS`: making nodes of any device is
/// harmless, opening them is not.
pub(super) const DEVICE_RULES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The period of CPU quotas, in microseconds.
const PERIOD: u64 = 100_000;
/// Values at and above this are "no limit" (the largest multiple of a page below 2^63).
const UNLIMITED_MEMORY: u64 = 0x7fff_ffff_ffff_f000;

/// A new cpuset is empty and takes no process until it has its parent's CPUs and memory nodes.
pub(super) fn inherit_cpuset(path: &Path) -> Result<()> {
    if !path.join("cpuset.mems").exists() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(path);
    let root = parent.parent().unwrap_or(parent);
    for (from, to) in [(root, parent), (parent, path)] {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if files::read(&to.join(file))?.trim().is_empty() {
                files::write(&to.join(file), files::read(&from.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

/// Gives a cpuset without CPUs or memory nodes those of the group above, which gets them from the
/// group above it first.
pub(super) fn inherit(path: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit_file(path, file)?;
    }
    Ok(())
}

/// Gives what is in the file afterwards.
fn inherit_file(path: &Path, file: &str) -> io::Result<String> {
    let own = fs::read_to_string(path.join(file))?;
    if !own.trim().is_empty() {
        return Ok(own);
    }
    let above = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let inherited = inherit_file(above, file)?;
    files::try_write(&path.join(file), inherited.trim())?;
    Ok(inherited)
}

pub(super) fn set_limits(group: &Cgroup, resources: &Resources) -> Result<()> {
    memory(group, resources)?;
    let quota = resources.cpu_millis.map(|millis| millis * PERIOD / 1000);
    if let Some(path) = need(group, quota.is_some(), "CPU", "cpu")? {
        files::write(&path.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
        let quota = quota.map_or("-1".into(), |quota| quota.max(1000).to_string());
        files::write(&path.join("cpu.cfs_quota_us"), &quota)?;
    }
    if let Some(path) = need(group, resources.cpu_shares.is_some(), "CPU shares", "cpu")? {
        let shares = resources.cpu_shares.unwrap_or(1024);
        files::write(&path.join("cpu.shares"), &shares.to_string())?;
    }
    if let Some(path) = need(group, resources.cpuset_cpus.is_some(), "CPU set", "cpuset")? {
        let cpus = match &resources.cpuset_cpus {
            Some(cpus) => cpus.clone(),
            None => files::read(&path.parent().unwrap_or(path).join("cpuset.cpus"))?,
        };
        files::write(&path.join("cpuset.cpus"), cpus.trim())?;
    }
    if let Some(path) = need(group, resources.pids.is_some(), "process", "pids")? {
        let pids = resources.pids.map_or("max".into(), |pids| pids.to_string());
        files::write(&path.join("pids.max"), &pids)?;
    }
    Ok(())
}

/// The kernel holds memory ≤ memory + swap at every step, so that the one that makes room is
/// written first.
fn memory(group: &Cgroup, resources: &Resources) -> Result<()> {
    let wanted = resources.memory.is_some() || resources.memory_swap.is_some();
    let Some(path) = need(group, wanted, "memory", "memory")? else {
        return Ok(());
    };
    let memory = resources.memory.map_or(-1, |size| size.0 as i64);
    // As Docker: as much swap as memory, where nothing is said.
    let total = match (resources.memory_swap, resources.memory) {
        (Some(ByteSize(u64::MAX)), _) | (None, None) => -1,
        (Some(total), _) => total.0 as i64,
        (None, Some(size)) => (size.0 as i64).saturating_mul(2),
    };
    let limit_file = path.join("memory.limit_in_bytes");
    let total_file = path.join("memory.memsw.limit_in_bytes");
    if !total_file.exists() {
        if resources
            .memory_swap
            .is_some_and(|total| total.0 != u64::MAX)
        {
            return Err(Error::unsupported(
                "the swap limit needs swap accounting: boot the host with swapaccount=1, or leave \
                 the limit out",
            ));
        }
        return files::write(&limit_file, &memory.to_string());
    }
    let current = files::number(&total_file)?.unwrap_or(u64::MAX);
    let grows = total < 0 || total as u64 > current;
    let mut steps = [(&limit_file, memory), (&total_file, total)];
    if grows {
        steps.reverse();
    }
    for (file, value) in steps {
        files::write(file, &value.to_string())?;
    }
    Ok(())
}

/// The directory of a controller; an error if it is missing and the limit was asked for.
fn need<'a>(
    group: &'a Cgroup,
    wanted: bool,
    limit: &str,
    controller: &str,
) -> Result<Option<&'a Path>> {
    match group.v1(controller) {
        None if wanted => Err(missing(limit, controller)),
        path => Ok(path),
    }
}

pub(super) fn stats(group: &Cgroup) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(path) = group.v1("cpuacct") {
        let nanoseconds = files::number(&path.join("cpuacct.usage"))?.unwrap_or(0);
        stats.cpu = Duration::from_nanos(nanoseconds);
        let text = files::read(&path.join("cpuacct.stat"))?;
        // In hundredths of a second (`USER_HZ`).
        let ticks = |key| Duration::from_millis(10 * files::value_of(&text, key).unwrap_or(0));
        stats.cpu_user = ticks("user");
        stats.cpu_system = ticks("system");
    }
    if let Some(path) = group.v1("memory") {
        let usage = files::number(&path.join("memory.usage_in_bytes"))?.unwrap_or(0);
        let cache = files::keyed(&path.join("memory.stat"), "total_inactive_file")?.unwrap_or(0);
        stats.memory = ByteSize(usage.saturating_sub(cache));
        stats.memory_limit = files::number(&path.join("memory.limit_in_bytes"))?
            .filter(|limit| *limit < UNLIMITED_MEMORY)
            .map(ByteSize);
    }
    if let Some(path) = group.v1("pids") {
        stats.pids = files::number(&path.join("pids.current"))?.unwrap_or(0);
    }
    if let Some(path) = group.v1("blkio") {
        let text = files::read(&path.join("blkio.throttle.io_service_bytes_recursive"))?;
        (stats.block_read, stats.block_written) = block_bytes(&text);
    }
    Ok(stats)
}

/// Lines such as `254:0 Read 4096`.
fn block_bytes(text: &str) -> (ByteSize, ByteSize) {
    let sum = |direction: &str| {
        let bytes = text.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            (fields.next()? == direction).then(|| fields.next()?.parse::<u64>().ok())?
        });
        ByteSize(bytes.sum())
    };
    (sum("Read"), sum("Write"))
}

pub(super) fn restrict_devices(group: &Cgroup) -> Result<()> {
    let path = group
        .v1("devices")
        .ok_or_else(|| missing("device", "devices"))?;
    files::write(&path.join("devices.deny"), "a")?;
    for rule in DEVICE_RULES {
        files::write(&path.join("devices.allow"), rule)?;
    }
    Ok(())
}

/// A process that forks while its group freezes is missed by old kernels: hence the repeated
/// writes, with a thaw in between now and then.
pub(super) fn set_frozen(group: &Cgroup, frozen: bool) -> Result<()> {
    let file = group
        .v1("freezer")
        .ok_or_else(no_freezer)?
        .join("freezer.state");
    if !frozen {
        return files::write(&file, "THAWED");
    }
    let deadline = Instant::now() + PATIENCE;
    let mut round = 0;
    loop {
        files::write(&file, "FROZEN")?;
        if files::read(&file)?.trim() == "FROZEN" {
            return Ok(());
        }
        round += 1;
        if round % 50 == 0 {
            files::write(&file, "THAWED")?;
        }
        wait_until(deadline, || {
            // What is half frozen would stay so.
            let _ = files::write(&file, "THAWED");
            Error::host(format!("freeze {}", file.display()))
        })?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_bytes_are_summed_over_devices() {
        let text = "254:0 Read 4096\n254:0 Write 10\n254:0 Total 4106\n8:0 Read 4\n8:0 Write 5\nTotal 4115\n";
        assert_eq!(block_bytes(text), (ByteSize(4100), ByteSize(15)));
        assert_eq!(block_bytes("Total 0\n"), (ByteSize(0), ByteSize(0)));
    }
}
