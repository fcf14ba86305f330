//! `spec`: writes a configuration to begin with.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use bulkhead_model::{Error, Result};
use rustix::process::{getegid, geteuid};
use serde_json::{Value, json};

use crate::cgroup;

use super::SPECIFICATION;
use super::arguments::{Arguments, Flag, flag, option};

pub(super) const FLAGS: &[Flag] = &[option("bundle", Some('b')), flag("rootless", None)];

pub(super) fn main(arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let path = PathBuf::from(arguments.value("bundle").unwrap_or(".")).join("config.json");
    let doing = || format!("write {}", path.display());
    let mut configuration = default();
    if arguments.is_set("rootless") {
        make_rootless(&mut configuration, geteuid().as_raw(), getegid().as_raw());
    }
    let text = serde_json::to_string_pretty(&configuration)
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
fn default() -> Value {
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

/// What a user without privileges may do: a user namespace with one user and one group, the
/// host's network, which needs no device, the host's `/sys`, and no limits.
fn make_rootless(configuration: &mut Value, uid: u32, gid: u32) {
    let mapping = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut configuration["linux"];
    linux["uidMappings"] = mapping(uid);
    linux["gidMappings"] = mapping(gid);
    if let Some(fields) = linux.as_object_mut() {
        fields.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    let mounts = configuration["mounts"].as_array_mut();
    for mount in mounts.into_iter().flatten() {
        // Such a namespace maps no group but one, so that no file can be given another.
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
        if mount["type"] == "sysfs" {
            // A sysfs of one's own needs a network namespace of one's own.
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rootless_one_asks_for_nothing_that_needs_root() {
        let mut configuration = default();
        make_rootless(&mut configuration, 1000, 100);
        let linux = &configuration["linux"];
        assert_eq!(linux["uidMappings"][0]["hostID"], 1000);
        assert_eq!(linux["gidMappings"][0]["hostID"], 100);
        assert!(linux.get("resources").is_none());
        let text = configuration.to_string();
        assert!(
            !text.contains("network") && !text.contains("gid=5"),
            "{text}"
        );
        assert!(text.contains(r#"{"type":"user"}"#), "{text}");
        let mounts = configuration["mounts"].as_array().expect("mounts");
        let sys = mounts.iter().find(|mount| mount["destination"] == "/sys");
        assert_eq!(sys.expect("/sys")["type"], "none");
        // It lies on what was bound there.
        let last = mounts.last().expect("mount");
        assert_eq!(last["destination"], "/sys/fs/cgroup");
    }
}
