//! One failing system call at a time, by strace, at every step that a create or run has.
//!
//! strace counts the calls of each process by itself, so that a failure hits the nth call of that
//! name in the runtime and in the container's process alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::Watch;
use crate::bundle::Bundle;
use crate::support::Host;

/// What is made to fail, with what. `close` and the like are left out: nobody can do anything
/// about their failure.
const CALLS: &[(&str, &str)] = &[
    ("accept4", "EIO"),
    ("bind", "EIO"),
    ("bpf", "EPERM"),
    ("capset", "EPERM"),
    ("chdir", "EIO"),
    ("chown", "EPERM"),
    ("clone", "ENOMEM"),
    ("clone3", "ENOMEM"),
    ("close_range", "EIO"),
    ("connect", "EIO"),
    ("dup2", "EIO"),
    ("dup3", "EIO"),
    ("execve", "EIO"),
    ("faccessat", "EIO"),
    ("fchdir", "EIO"),
    ("fchownat", "EPERM"),
    ("fcntl", "EMFILE"),
    ("fork", "ENOMEM"),
    ("fsconfig", "EIO"),
    ("fsmount", "EIO"),
    ("fsopen", "ENOMEM"),
    ("ioctl", "EIO"),
    ("keyctl", "EPERM"),
    ("link", "EIO"),
    ("linkat", "EIO"),
    ("listen", "EIO"),
    ("memfd_create", "ENOMEM"),
    ("mkdir", "ENOSPC"),
    ("mkdirat", "ENOSPC"),
    ("mknodat", "ENOSPC"),
    ("mount", "EPERM"),
    ("mount_setattr", "EPERM"),
    ("move_mount", "EPERM"),
    ("open", "EMFILE"),
    ("open_tree", "EMFILE"),
    ("openat", "EMFILE"),
    ("openat2", "EMFILE"),
    ("pidfd_open", "EMFILE"),
    ("pipe2", "EMFILE"),
    ("pivot_root", "EPERM"),
    ("prctl", "EPERM"),
    ("prlimit64", "EPERM"),
    ("recvmsg", "EIO"),
    ("rename", "EIO"),
    ("renameat2", "EIO"),
    ("seccomp", "EPERM"),
    ("sendmsg", "EIO"),
    ("sendto", "EIO"),
    ("setgroups", "EPERM"),
    ("sethostname", "EPERM"),
    ("setns", "EPERM"),
    ("setresgid", "EPERM"),
    ("setresuid", "EPERM"),
    ("setsid", "EPERM"),
    ("socket", "EMFILE"),
    ("socketpair", "EMFILE"),
    ("symlinkat", "ENOSPC"),
    ("umount2", "EPERM"),
    ("unshare", "EPERM"),
    ("vfork", "ENOMEM"),
    ("wait4", "EIO"),
    ("write", "ENOSPC"),
];

/// How many at once: each waits for others most of the time.
const WORKERS: usize = 4;

pub fn create(host: &Host) {
    inject(host, &["create", "--pid-file", "pid"]);
}

pub fn run(host: &Host) {
    inject(host, &["run", "--pid-file", "pid"]);
}

fn bundle(host: &Host) -> Bundle {
    let mut bundle = Bundle::new(host, &["true"]);
    let config = &mut bundle.config;
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    config["process"]["oomScoreAdj"] = json!(100);
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    config["linux"]["resources"]["pids"] = json!({"limit": 50});
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}],
    });
    bundle.write();
    bundle
}

fn inject(host: &Host, verb: &[&str]) {
    if Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("skipped: Debian's package strace is not installed");
        return;
    }
    let Some(steps) = record(host, verb) else {
        return;
    };
    let steps: Vec<Step> = steps.into_iter().collect();
    eprintln!("{} steps of {} are made to fail", steps.len(), verb[0]);
    assert!(
        steps.len() > 100,
        "the trace shows too few steps: {steps:?}"
    );
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let bundle = bundle(host);
                let watch = Watch::new().expect("there was one before");
                while let Some(step) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
                    fail(&watch, &bundle, verb, step);
                }
            });
        }
    });
}

/// The nth call of a name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    name: String,
    number: usize,
}

/// Makes one step fail, and looks at what is left.
fn fail(watch: &Watch, bundle: &Bundle, verb: &[&str], step: &Step) {
    let Step { name, number } = step;
    let error = CALLS
        .iter()
        .find(|(known, _)| known == name)
        .map_or("EIO", |(_, error)| error);
    let what = format!("{error} at call {number} of {name}");
    let trace = format!("trace={name}");
    let record = bundle.directory.join("injected");
    let path = record.to_str().expect("path");
    let inject = format!("inject={name}:error={error}:when={number}");
    let options = [
        "-D",
        "-f",
        "-q",
        "--seccomp-bpf",
        "-o",
        path,
        "-e",
        "signal=none",
        "-e",
        &trace,
        "-e",
        &inject,
    ];
    let log = bundle.directory.join("stderr");
    let status = watch
        .traced(&options, bundle, &[verb, &[&bundle.id]].concat())
        .stderr(fs::File::create(&log).expect("file"))
        .status()
        .expect("strace");
    let told = fs::read_to_string(&log).expect("log");
    if status.success() {
        // It was tolerated, or hit a call after the last that matters.
        bundle.run(&["delete", "--force", &bundle.id]).output();
    } else {
        assert!(!told.trim().is_empty(), "{what} was not told, {status}");
        // Where the clearing up fails as well, or nothing but it, the rest is the next delete's.
        let injected = fs::read_to_string(&record).expect("trace");
        let twice = injected.matches("(INJECTED)").count() > 1;
        if (twice || verb[0] == "run") && bundle.root.join(&bundle.id).exists() {
            bundle.run(&["delete", "--force", &bundle.id]).output();
        }
    }
    watch.assert_gone(bundle, &format!("{what} ({status}: {})", told.trim()));
    if verb[0] == "create" && !status.success() {
        assert!(
            !bundle.directory.join("pid").exists(),
            "{what} left a pid file"
        );
    }
    let _ = fs::remove_file(bundle.directory.join("pid"));
}

/// The steps of an undisturbed run: of calls that look the same the first and the last.
fn record(host: &Host, verb: &[&str]) -> Option<BTreeSet<Step>> {
    let watch = Watch::new()?;
    let bundle = bundle(host);
    let trace = bundle.directory.join("trace");
    let names: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
    // A question mark lets strace pass over a call that this machine does not have.
    let names = format!("trace=?{}", names.join(",?"));
    let path = trace.to_str().expect("path");
    let options = [
        "-D",
        "-f",
        "-q",
        "-s",
        "64",
        "-o",
        path,
        "-e",
        "signal=none",
        "-e",
        &names,
    ];
    let status = watch
        .traced(&options, &bundle, &[verb, &[&bundle.id]].concat())
        .status()
        .expect("strace");
    bundle.run(&["delete", "--force", &bundle.id]).output();
    watch.assert_gone(&bundle, "an undisturbed run");
    assert!(status.success(), "{status}");
    Some(steps_of(&trace))
}

fn steps_of(trace: &Path) -> BTreeSet<Step> {
    // The tracer writes the last lines when its last process has ended.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let text = fs::read_to_string(trace).expect("trace");
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut seen: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for line in text.lines() {
        let Some((pid, call)) = line.split_once(' ') else {
            continue;
        };
        let Some((name, arguments)) = call.trim_start().split_once('(') else {
            continue;
        };
        if !CALLS.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let count = counts.entry((pid, name)).or_default();
        *count += 1;
        // musl sets flags that open(2) has set already; a copy of a descriptor is what may fail.
        if name == "fcntl" && !arguments.contains("F_DUPFD") {
            continue;
        }
        let look = arguments.split(" = ").next().unwrap_or_default();
        let look: String = look
            .chars()
            .filter(|letter| !letter.is_ascii_digit())
            .collect();
        let range = seen
            .entry((name.to_owned(), look))
            .or_insert((*count, *count));
        range.1 = *count;
    }
    seen.into_iter()
        .flat_map(|((name, _), (first, last))| {
            [first, last].map(|number| Step {
                name: name.clone(),
                number,
            })
        })
        // The first execve is strace's own.
        .filter(|step| step.name != "execve" || step.number > 1)
        .collect()
}
