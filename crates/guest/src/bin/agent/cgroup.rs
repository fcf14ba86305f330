//! The workload's control group: its limits inside the guest, and what it uses.

use std::fs;
use std::io;
use std::path::Path;

use bulkhead_guest::Reply;
use bulkhead_model::{Error, Result};
use rustix::mount::{MountFlags, mount};

const MOUNT: &str = "/sys/fs/cgroup";
const WORKLOAD: &str = "/sys/fs/cgroup/workload";

/// Makes the workload's control group.
pub fn prepare() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount("cgroup2", MOUNT, "cgroup2", flags, None)?;
    fs::write(
        "/sys/fs/cgroup/cgroup.subtree_control",
        "+memory +cpu +pids",
    )?;
    fs::create_dir(WORKLOAD)
}

/// Sets the limits that are given, in bytes, thousandths of a CPU and processes.
pub fn limit(memory: Option<u64>, cpu_millis: Option<u64>, pids: Option<u64>) -> Result<()> {
    let write = |name: &str, value: String| {
        fs::write(Path::new(WORKLOAD).join(name), value).map_err(|error| {
            Error::host(format!("set {name} of the workload in the guest")).with_source(error)
        })
    };
    if let Some(bytes) = memory {
        write("memory.max", bytes.to_string())?;
    }
    if let Some(millis) = cpu_millis {
        // The kernel takes no quota below a millisecond.
        write("cpu.max", format!("{} 100000", (millis * 100).max(1000)))?;
    }
    if let Some(limit) = pids {
        write("pids.max", limit.to_string())?;
    }
    Ok(())
}

/// Moves the calling process into the workload's control group.
pub fn join() -> io::Result<()> {
    fs::write(Path::new(WORKLOAD).join("cgroup.procs"), "0")
}

/// Whether the kernel killed a process of the workload for want of memory.
pub fn was_oom_killed() -> bool {
    number("memory.events", "oom_kill ").is_some_and(|count| count > 0)
}

pub fn stats() -> Reply {
    Reply::Stats {
        cpu_user_microseconds: number("cpu.stat", "user_usec ").unwrap_or(0),
        cpu_system_microseconds: number("cpu.stat", "system_usec ").unwrap_or(0),
        memory_bytes: number("memory.current", "").unwrap_or(0),
        pids: number("pids.current", "").unwrap_or(0),
    }
}

/// The number that follows `key` at the start of a line of the file.
fn number(file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(Path::new(WORKLOAD).join(file)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().parse().ok()
}
