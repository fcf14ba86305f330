//! Set-up that cannot be enforced fails the start. By strace the kernel refuses what it would
//! grant, and by a mount namespace a controller is not there.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bundle::{Answer, Bundle};
use crate::support::Host;

/// Runs the container while every call of that name fails; `None` without strace.
fn refusing(bundle: &Bundle, call: &str) -> Option<Answer> {
    let program = std::env::current_exe().expect("program");
    let injection = format!("inject={call}:error=EPERM");
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-q",
            "-o",
            "/dev/null",
            "-e",
            "signal=none",
            "-e",
            &injection,
        ])
        .arg(program)
        .args(["oci", "--root"])
        .arg(&bundle.root)
        .args(["run", &bundle.id])
        .current_dir(&bundle.directory)
        .stdin(Stdio::null());
    match command.output() {
        Ok(output) => Some(Answer::of(output)),
        Err(_) => {
            eprintln!("skipped: Debian's package strace is not installed");
            None
        }
    }
}

fn assert_refused(bundle: &Bundle, call: &str) {
    bundle.write();
    if let Some(answer) = refusing(bundle, call) {
        assert_eq!(answer.out, "", "it ran without {call}");
        assert_eq!(answer.code, 1, "{call}: {}", answer.err);
        assert!(!answer.err.trim().is_empty(), "{call}: nothing is told");
        bundle.assert_gone();
    }
}

pub fn filter(host: &Host) {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new(host, &["echo", "ran"]);
        bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}],
        });
        assert_refused(&bundle, "seccomp");
    }
}

pub fn privileges(host: &Host) {
    for call in [
        "capset",
        "setresuid",
        "setresgid",
        "setgroups",
        "prctl",
        "prlimit64",
        "keyctl",
    ] {
        let mut bundle = Bundle::new(host, &["echo", "ran"]);
        bundle.config["process"]["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7]});
        bundle.config["process"]["noNewPrivileges"] = json!(true);
        bundle.config["process"]["rlimits"] =
            json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
        assert_refused(&bundle, call);
    }
}

/// Runs the container where a hierarchy of cgroup v1 is not mounted; `None` where there is none.
fn without(bundle: &Bundle, controller: &str) -> Option<Answer> {
    bundle.write();
    let path = format!("/sys/fs/cgroup/{controller}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    if !mounts.contains(&format!(" {path} ")) {
        eprintln!("skipped: {path} is no hierarchy of cgroup v1");
        return None;
    }
    let program = std::env::current_exe().expect("program");
    let script = format!(
        "umount {path} && exec {} oci --root {} run {}",
        program.display(),
        bundle.root.display(),
        bundle.id
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .current_dir(&bundle.directory)
        .stdin(Stdio::null())
        .output();
    Some(Answer::of(output.expect("unshare")))
}

pub fn devices(host: &Host) {
    let bundle = Bundle::new(host, &["echo", "ran"]);
    if let Some(answer) = without(&bundle, "devices") {
        assert_eq!(answer.out, "", "it ran without a device policy");
        answer.refused("linux.resources.devices");
        bundle.assert_gone();
    }
    // On v2 the policy is a program that the kernel may refuse.
    assert!(
        !bulkhead_container::cgroup::probe()
            .expect("cgroups")
            .to_string()
            .contains("v2")
            || {
                assert_refused(&Bundle::new(host, &["echo", "ran"]), "bpf");
                true
            }
    );
}

pub fn limits(host: &Host) {
    for (controller, resources, field) in [
        (
            "memory",
            json!({"memory": {"limit": 100_000_000}}),
            "linux.resources.memory",
        ),
        (
            "pids",
            json!({"pids": {"limit": 20}}),
            "linux.resources.pids",
        ),
        (
            "cpu",
            json!({"cpu": {"shares": 100}}),
            "linux.resources.cpu",
        ),
        (
            "cpuset",
            json!({"cpu": {"cpus": "0"}}),
            "linux.resources.cpu",
        ),
        (
            "blkio",
            json!({"blockIO": {"weight": 100}}),
            "linux.resources.blockIO",
        ),
    ] {
        let mut bundle = Bundle::new(host, &["echo", "ran"]);
        bundle.config["linux"]["resources"] = resources;
        if let Some(answer) = without(&bundle, controller) {
            assert_eq!(answer.out, "", "it ran without {field}");
            answer.refused(field);
            bundle.assert_gone();
        }
    }
    // A limit that is there and does not take the value.
    let mut bundle = Bundle::new(host, &["echo", "ran"]);
    bundle.config["linux"]["resources"]["cpu"] = json!({"cpus": "999"});
    let answer = bundle.play();
    assert_eq!(answer.out, "", "it ran without its limit");
    answer.refused("linux.resources.cpu.cpus");
}
