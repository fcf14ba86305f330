//! `spec`: writes a configuration to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use bulkhead_model::{Error, Result};
use serde_json::json;

use crate::cgroup;

use super::SPECIFICATION;
use super::arguments::{Arguments, Flag, flag, option};

pub(super) const FLAGS: &[Flag] = &[option("bundle", Some('b')), flag("rootless", None)];

pub(super) fn main(arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    if arguments.is_set("rootless") {
        return Err(Error::unsupported(
            "--rootless: user namespaces are not supported by this version of Bulkhead",
        ));
    }
    let path = PathBuf::from(arguments.value("bundle").unwrap_or(".")).join("config.json");
    let doing = || format!("write {}", path.display());
    let text = serde_json::to_string_pretty(&default())
        .map_err(|error| Error::host(doing()).with_source(error))?;
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::conflict(format!(
                "File {} exists. Remove it first",
                path.display()
            )));
        }
        result => result.map_err(|error| Error::host(doing()).with_source(error))?,
    };
    writeln!(file, "{text}").map_err(|error| Error::host(doing()).with_source(error))
}

/// What runc's `spec` gives.
fn default() -> serde_json::Value {
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
    if matches!(cgroup::probe(), Ok(cgroup::Layout::Unified(_))) {
        // On v1 programs look for the container's groups by their paths on the host.
        namespaces.push("cgroup");
    }
    let namespaces: Vec<_> = namespaces
        .into_iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": SPECIFICATION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bulkhead",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
