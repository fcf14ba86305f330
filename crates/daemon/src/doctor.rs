//! What this host offers, what Bulkhead therefore uses, and the remedy for what is missing.

use std::path::Path;

use bulkhead_network::Outcome;

use crate::launcher::find_qemu;
use crate::paths::Paths;

/// The result of an examination.
#[derive(Debug, Clone)]
pub struct Report {
    pub checks: Vec<Check>,
    /// What Bulkhead will use on this host, one sentence each.
    pub uses: Vec<String>,
}

/// One thing looked at.
#[derive(Debug, Clone)]
pub struct Check {
    pub name: String,
    pub status: Status,
    pub detail: String,
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// Something works less well, or not for micro VMs.
    Warning,
    /// Nothing works without it.
    Missing,
}

impl Report {
    /// Whether something is missing without which nothing works.
    pub fn is_fatal(&self) -> bool {
        self.checks
            .iter()
            .any(|check| check.status == Status::Missing)
    }

    fn ok(&mut self, name: &str, detail: impl Into<String>) {
        self.push(name, Status::Ok, detail.into(), None);
    }

    fn push(&mut self, name: &str, status: Status, detail: String, remedy: Option<&str>) {
        let remedy = remedy.map(str::to_owned);
        self.checks.push(Check {
            name: name.to_owned(),
            status,
            detail,
            remedy,
        });
    }
}

/// Examines the host. Changes nothing on it.
pub fn examine(paths: &Paths) -> Report {
    let mut report = Report {
        checks: Vec::new(),
        uses: Vec::new(),
    };
    check_root(&mut report);
    check_cgroups(&mut report);
    check_filesystem(&mut report, "overlay", "overlay", "modprobe overlay");
    check_user_namespaces(&mut report);
    check_network(&mut report);
    check_microvm(&mut report, paths);
    report
}

fn check_root(report: &mut Report) {
    if rustix::process::geteuid().is_root() {
        report.ok("privileges", "running as root");
    } else {
        report.push(
            "privileges",
            Status::Missing,
            "not running as root: namespaces, mounts and bridges cannot be made".to_owned(),
            Some("run the daemon as root, or with sudo"),
        );
    }
}

fn check_cgroups(report: &mut Report) {
    match bulkhead_container::cgroup::probe() {
        Err(error) => report.push(
            "cgroup",
            Status::Missing,
            error.to_string(),
            Some("mount -t cgroup2 none /sys/fs/cgroup"),
        ),
        Ok(layout) => {
            let controllers: Vec<&str> = layout.controllers().collect();
            let wanted = ["memory", "cpu", "pids", "freezer"];
            let v2 = layout.to_string() == "v2";
            let missing: Vec<&str> = wanted
                .into_iter()
                .filter(|name| !(controllers.contains(name) || v2 && *name == "freezer"))
                .collect();
            let detail = format!("{layout}: {}", controllers.join(", "));
            if missing.is_empty() {
                report.ok("cgroup", detail);
            } else {
                report.push(
                    "cgroup",
                    Status::Warning,
                    format!("{detail}; missing: {}", missing.join(", ")),
                    Some("limits that need a missing controller fail the start: enable it on the kernel's command line (cgroup_enable=memory)"),
                );
            }
            report
                .uses
                .push(format!("limits are set through cgroup {layout}"));
        }
    }
}

fn check_filesystem(report: &mut Report, name: &str, filesystem: &str, remedy: &str) {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some(filesystem))
    {
        report.ok(name, "the kernel has it");
    } else {
        report.push(
            name,
            Status::Missing,
            "the kernel does not have it".to_owned(),
            Some(remedy),
        );
    }
}

fn check_user_namespaces(report: &mut Report) {
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if Path::new("/proc/self/ns/user").exists() && limit.trim() != "0" {
        report.ok("user namespaces", format!("at most {}", limit.trim()));
    } else {
        report.push(
            "user namespaces",
            Status::Warning,
            "switched off".to_owned(),
            Some("sysctl -w user.max_user_namespaces=15000"),
        );
    }
}

fn check_network(report: &mut Report) {
    for check in bulkhead_network::probe() {
        match check.outcome {
            Outcome::Works(note) => report.ok(check.name, note),
            Outcome::Fails { reason, remedy } => {
                report.push(check.name, Status::Missing, reason, Some(&remedy));
            }
        }
    }
    report
        .uses
        .push("networks are bridges with nftables rules".to_owned());
}

fn check_microvm(report: &mut Report, paths: &Paths) {
    let qemu = find_qemu();
    match &qemu {
        Some(path) => report.ok("qemu", path.display().to_string()),
        None => report.push(
            "qemu",
            Status::Warning,
            "not installed: micro VMs cannot run".to_owned(),
            Some("apt-get install qemu-system-x86"),
        ),
    }
    for (tool, package) in [("mkfs.erofs", "erofs-utils"), ("mkfs.ext4", "e2fsprogs")] {
        match find_tool(tool) {
            Some(path) => report.ok(tool, path),
            None => report.push(
                tool,
                Status::Warning,
                "not installed: micro VMs cannot run".to_owned(),
                Some(&format!("apt-get install {package}")),
            ),
        }
    }
    let kernel = paths.guest_kernel();
    match &kernel {
        Some(path) => report.ok("guest kernel", path.display().to_string()),
        None => report.push(
            "guest kernel",
            Status::Warning,
            format!(
                "none in {}: micro VMs cannot run",
                paths.kernels().display()
            ),
            Some("make kernel"),
        ),
    }
    let choice = bulkhead_microvm::accelerator::probe(&paths.run);
    let accelerator = choice.accelerator.to_string();
    if accelerator == "kvm" {
        report.ok("kvm", choice.reason.clone());
    } else {
        report.push(
            "kvm",
            Status::Warning,
            choice.reason.clone(),
            Some("none needed: micro VMs run without it, slower; for speed use a host (or a nested VM) with hardware virtualisation"),
        );
    }
    report.uses.push(if qemu.is_some() && kernel.is_some() {
        format!(
            "micro VMs run under QEMU with accelerator {accelerator}: {}",
            choice.reason
        )
    } else {
        "micro VMs cannot run on this host yet; containers can".to_owned()
    });
}

fn find_tool(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(Into::into);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .map(|found| found.display().to_string())
}
