//! What a host shows of Bulkhead, read from the host itself and not from Bulkhead.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Everything on the host that may be Bulkhead's, each as one line that names it.
///
/// Other instances may run on the same host, so what counts is the difference of two readings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostState(BTreeSet<String>);

impl HostState {
    /// Network devices and namespaces, nftables tables, mounts below `root`, cgroups, and
    /// processes in these cgroups.
    ///
    /// # Errors
    /// The host cannot be read.
    pub fn of_sandboxes(root: &Path) -> Result<Self> {
        let mut lines = BTreeSet::new();
        network_devices(&mut lines)?;
        tables(&mut lines);
        mounts(root, &mut lines)?;
        cgroups(Path::new("/sys/fs/cgroup"), 6, false, &mut lines);
        processes_by_cgroup(&mut lines)?;
        Ok(Self(lines))
    }

    /// The same, and every process that was started with a path below `root`.
    ///
    /// # Errors
    /// The host cannot be read.
    pub fn of_everything(root: &Path) -> Result<Self> {
        let mut state = Self::of_sandboxes(root)?;
        for (pid, arguments) in processes_of(root)? {
            state.0.insert(format!("process {pid}: {arguments}"));
        }
        Ok(state)
    }

    /// What this reading shows and `before` did not.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// The processes that were started with a path below `root` (this one left out), with arguments.
///
/// # Errors
/// `/proc` cannot be read.
pub fn processes_of(root: &Path) -> Result<Vec<(u32, String)>> {
    let root = format!("{}/", root.display());
    let mut found = Vec::new();
    for pid in pids()? {
        // A process may have ended since it was listed.
        let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        // `--root DIR` names the directory itself.
        if format!("{arguments}/").replace(' ', "/ ").contains(&root) {
            found.push((pid, arguments.chars().take(160).collect()));
        }
    }
    Ok(found)
}

fn pids() -> Result<Vec<u32>> {
    let own = std::process::id();
    Ok(fs::read_dir("/proc")
        .context("read /proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .collect())
}

fn network_devices(lines: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir("/sys/class/net").context("read /sys/class/net")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("bh") {
            lines.insert(format!("network device {name}"));
        }
    }
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("bh") || name.starts_with("bulkhead") {
            lines.insert(format!("network namespace {name}"));
        }
    }
    Ok(())
}

fn tables(lines: &mut BTreeSet<String>) {
    // Without nft, Bulkhead cannot have made any.
    let Ok(output) = Command::new("nft").args(["list", "tables"]).output() else {
        return;
    };
    for table in String::from_utf8_lossy(&output.stdout).lines() {
        if table.contains("bulkhead") {
            lines.insert(format!("nftables {table}"));
        }
    }
}

fn mounts(root: &Path, lines: &mut BTreeSet<String>) -> Result<()> {
    let root = root.display().to_string();
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    for mount in mountinfo.lines().filter(|mount| mount.contains(&root)) {
        let target = mount.split(' ').nth(4).unwrap_or(mount);
        lines.insert(format!("mount {target}"));
    }
    Ok(())
}

fn cgroups(directory: &Path, depth: usize, inside: bool, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let ours = inside || entry.file_name().to_string_lossy().starts_with("bulkhead");
        if ours {
            lines.insert(format!("cgroup {}", entry.path().display()));
        }
        if depth > 0 {
            cgroups(&entry.path(), depth - 1, ours, lines);
        }
    }
}

fn processes_by_cgroup(lines: &mut BTreeSet<String>) -> Result<()> {
    for pid in pids()? {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        if read("cgroup").is_ok_and(|cgroup| cgroup.contains("bulkhead")) {
            let name = read("comm").unwrap_or_default();
            lines.insert(format!("process {pid} in a cgroup: {}", name.trim()));
        }
    }
    Ok(())
}
