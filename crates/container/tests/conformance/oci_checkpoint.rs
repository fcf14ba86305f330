//! Checkpoint and restore, by real runs of CRIU where it works on this kernel.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bundle::{Bundle, ConsoleSocket};
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("without_criu_the_remedy_is_told", without_criu),
    ("what_cannot_be_is_refused_by_its_flag", refusals),
    (
        "a_restored_container_goes_on_where_it_was",
        checkpoint_and_restore,
    ),
    ("leave_running_leaves_it_running", leave_running),
    (
        "a_restored_terminal_goes_to_the_console_socket",
        restored_terminal,
    ),
    (
        "a_foreground_restore_passes_the_exit_code_on",
        foreground_restore,
    ),
    ("a_restore_that_fails_leaves_nothing", failed_restore),
];

/// Counts in a file of a bind mount, and has the number in its memory alone.
const COUNTER: &str = "n=0; while :; do n=$((n+1)); echo $n > /data/new; mv /data/new /data/count
    usleep 50000; done";

/// Whether CRIU works here; said aloud where it does not.
fn criu_works() -> bool {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    match Command::new("criu").arg("check").env("PATH", path).output() {
        Err(_) => {
            eprintln!("skipped: no criu: 'apt-get install criu'");
            false
        }
        Ok(output) if !output.status.success() => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let reason = text.lines().next().unwrap_or_default();
            eprintln!("skipped: this criu does not work on this kernel: {reason}");
            false
        }
        Ok(_) => true,
    }
}

/// A bundle whose streams are `/dev/null`, as CRIU cannot keep files of the host.
fn counting(host: &Host) -> Bundle {
    let mut bundle = Bundle::new(host, &["sh", "-c", COUNTER]);
    let data = bundle.directory.join("data");
    fs::create_dir(&data).expect("directory");
    let mount = json!({"destination": "/data", "source": data, "options": ["bind"]});
    bundle.config["mounts"]
        .as_array_mut()
        .expect("mounts")
        .push(mount);
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 20});
    bundle.write();
    bundle
}

fn count(bundle: &Bundle) -> u64 {
    for _ in 0..400 {
        let text = fs::read_to_string(bundle.directory.join("data/count"));
        // Not there for a moment at the start.
        if let Some(number) = text.ok().and_then(|text| text.trim().parse().ok()) {
            return number;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("the workload does not count");
}

fn await_more(bundle: &Bundle, than: u64) {
    for _ in 0..1000 {
        if count(bundle) > than {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the workload does not go on counting");
}

/// Runs a verb with all streams at `/dev/null` but stderr, which goes to a file.
fn quiet(bundle: &Bundle, arguments: &[&str]) {
    let answer = bundle.detached(arguments);
    let log = |name: &str| fs::read_to_string(bundle.directory.join("work").join(name));
    assert_eq!(
        answer.code,
        0,
        "{}\n{}{}",
        answer.err,
        log("dump.log").unwrap_or_default(),
        log("restore.log").unwrap_or_default()
    );
}

/// Starts it with no stream of the host's but `/dev/null`.
fn start(bundle: &Bundle) {
    let status = bundle
        .command(&["run", "--detach", &bundle.id])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("run").success());
    await_more(bundle, 3);
}

fn restore(bundle: &Bundle) {
    let paths = ["--image-path", "images", "--work-path", "work"];
    quiet(
        bundle,
        &[&["restore", "--detach"], &paths[..], &[&bundle.id]].concat(),
    );
}

fn without_criu(host: &Host) {
    let bundle = counting(host);
    start(&bundle);
    let mut command = bundle.command(&[]);
    let arguments = ["--criu", "/nonexistent/criu", "checkpoint", &bundle.id];
    let output = command.args(arguments).output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("install Debian's package criu"), "{said}");
    assert_eq!(bundle.status(), "running");
}

fn refusals(host: &Host) {
    let bundle = counting(host);
    bundle.detached(&["create", &bundle.id]);
    bundle
        .run(&["checkpoint", &bundle.id])
        .refused("cannot be checkpointed in created state");
    bundle.run(&["delete", "--force", &bundle.id]).output();
    start(&bundle);
    for (flags, part) in [
        (["--parent-path", "/absolute"], "--parent-path"),
        (["--parent-path", "../missing"], "--parent-path"),
        (["--manage-cgroups-mode", "maybe"], "--manage-cgroups-mode"),
        (["--page-server", "nowhere"], "--page-server"),
        (["--empty-ns", "pid"], "--empty-ns"),
        (["--status-fd", "77"], "--status-fd"),
    ] {
        bundle
            .run(&[&["checkpoint"], &flags[..], &[&bundle.id]].concat())
            .refused(part);
    }
    assert_eq!(bundle.status(), "running");
}

fn checkpoint_and_restore(host: &Host) {
    if !criu_works() {
        return;
    }
    let bundle = counting(host);
    start(&bundle);
    for _ in 0..2 {
        quiet(
            &bundle,
            &[
                "checkpoint",
                "--image-path",
                "images",
                "--work-path",
                "work",
                &bundle.id,
            ],
        );
        bundle.assert_gone();
        let reached = count(&bundle);
        fs::write(bundle.directory.join("data/count"), "0").expect("write");
        restore(&bundle);
        assert_eq!(bundle.status(), "running");
        await_more(&bundle, reached);
        let script = "grep -c usleep /proc/1/cmdline; cat /sys/class/net/lo/operstate; \
                      cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max";
        let said = bundle
            .run(&["exec", &bundle.id, "sh", "-c", script])
            .output();
        assert_eq!(said, "1\nunknown\n20\n", "process, loopback and limit");
        fs::remove_dir_all(bundle.directory.join("images")).expect("images");
    }
    bundle.run(&["delete", "--force", &bundle.id]).output();
    bundle.assert_gone();
}

fn leave_running(host: &Host) {
    if !criu_works() {
        return;
    }
    let bundle = counting(host);
    start(&bundle);
    let flags = [
        "--leave-running",
        "--image-path",
        "images",
        "--work-path",
        "work",
    ];
    quiet(
        &bundle,
        &[&["checkpoint"], &flags[..], &[&bundle.id]].concat(),
    );
    assert_eq!(bundle.status(), "running");
    await_more(&bundle, count(&bundle));
}

fn restored_terminal(host: &Host) {
    if !criu_works() {
        return;
    }
    let mut bundle = Bundle::new(
        host,
        &["sh", "-c", "stty -echo; while read l; do echo got $l; done"],
    );
    bundle.config["process"]["terminal"] = json!(true);
    bundle.write();
    let socket = ConsoleSocket::new(&bundle.directory);
    let path = socket.path.to_str().expect("path");
    let paths = ["--image-path", "images", "--work-path", "work"];
    quiet(
        &bundle,
        &["run", "--detach", "--console-socket", path, &bundle.id],
    );
    let talk = |terminal: &mut File| {
        terminal.write_all(b"a line\n").expect("write");
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(b"got a line\r\n") {
            assert_eq!(terminal.read(&mut byte).expect("read"), 1);
            said.push(byte[0]);
        }
    };
    let mut terminal = File::from(socket.receive());
    talk(&mut terminal);
    quiet(
        &bundle,
        &[&["checkpoint"], &paths[..], &[&bundle.id]].concat(),
    );
    drop(terminal);
    let flags = ["restore", "--detach", "--console-socket", path];
    quiet(&bundle, &[&flags[..], &paths[..], &[&bundle.id]].concat());
    talk(&mut File::from(socket.receive()));
}

fn foreground_restore(host: &Host) {
    if !criu_works() {
        return;
    }
    let mut bundle = counting(host);
    let script = "trap 'exit 42' TERM; ".to_owned() + COUNTER;
    bundle.config["process"]["args"] = json!(["sh", "-c", script]);
    bundle.write();
    start(&bundle);
    let paths = ["--image-path", "images", "--work-path", "work"];
    quiet(
        &bundle,
        &[&["checkpoint"], &paths[..], &[&bundle.id]].concat(),
    );
    let reached = count(&bundle);
    let mut child = bundle
        .command(&[&["restore"], &paths[..], &[&bundle.id]].concat())
        .stdout(Stdio::null())
        .spawn()
        .expect("restore");
    await_more(&bundle, reached);
    bundle.run(&["kill", &bundle.id, "TERM"]).output();
    assert_eq!(child.wait().expect("wait").code(), Some(42));
    bundle.assert_gone();
}

fn failed_restore(host: &Host) {
    if !criu_works() {
        return;
    }
    let bundle = counting(host);
    start(&bundle);
    let paths = ["--image-path", "images", "--work-path", "work"];
    quiet(
        &bundle,
        &[&["checkpoint"], &paths[..], &[&bundle.id]].concat(),
    );
    fs::remove_file(bundle.directory.join("images/pstree.img")).expect("image");
    let restore = [&["restore", "--detach"], &paths[..], &[&bundle.id]].concat();
    bundle.run(&restore).refused("restore.log");
    bundle.assert_gone();
}
