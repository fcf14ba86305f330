//! What a host shows of Bulkhead, read from the host itself and not from Bulkhead.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// The names by which an instance's objects on the host are told from another's.
#[derive(Debug, Clone)]
pub struct Names {
    root: String,
    digits: String,
}

impl Names {
    /// Of the instance with this `--root`.
    ///
    /// # Errors
    /// `sha256sum` cannot be run.
    pub fn of(root: &Path) -> Result<Self> {
        use std::io::Write;
        let mut program = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run sha256sum")?;
        let mut stdin = program.stdin.take().context("no stdin")?;
        stdin.write_all(root.join("lib").as_os_str().as_encoded_bytes())?;
        drop(stdin);
        let output = program.wait_with_output()?;
        let digits = String::from_utf8_lossy(&output.stdout)
            .chars()
            .take(5)
            .collect();
        let root = root.display().to_string();
        Ok(Self { root, digits })
    }

    /// Whether a line is of a network, not of a sandbox on it.
    pub fn is_of_network(&self, line: &str) -> bool {
        line.contains(&self.bridge()) || line.contains(&format!("bulkhead_{}", self.digits))
    }

    /// A cgroup that is taken for one of this instance's.
    pub fn cgroup(&self) -> String {
        format!("bulkhead-{}", self.digits)
    }

    fn bridge(&self) -> String {
        format!("bh-{}", self.digits)
    }

    fn is_ours(&self, line: &str) -> bool {
        if line.contains(&self.root) {
            return true;
        }
        if let Some(device) = line.strip_prefix("network device bhe") {
            // A sandbox's end of a cable is named by its sandbox.
            let bridge = fs::read_link(format!("/sys/class/net/bhe{device}/master"));
            return bridge.is_ok_and(|bridge| bridge.to_string_lossy().contains(&self.bridge()));
        }
        self.is_of_network(line) || line.contains(&self.cgroup())
    }
}

/// Everything on the host that is an instance's, each as one line that names it; read twice, so
/// that what counts is the difference.
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
        let names = Names::of(root)?;
        lines.retain(|line| names.is_ours(line));
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
        let cgroups = read("cgroup").unwrap_or_default();
        if let Some(cgroup) = cgroups.lines().find(|line| line.contains("bulkhead")) {
            let name = read("comm").unwrap_or_default();
            lines.insert(format!(
                "process {pid} ({}) in cgroup {cgroup}",
                name.trim()
            ));
        }
    }
    Ok(())
}
