//! The OCI command line: each verb by real runs, and the hosts that call it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bundle::{Answer, Bundle, ConsoleSocket, remove_cgroup_parent};
use crate::schema;
use crate::support::{Host, HostScenario, cgroup_parent, layer};

pub const SCENARIOS: &[HostScenario] = &[
    ("a_run_passes_output_and_exit_code_on", run),
    ("create_start_kill_delete", life_cycle),
    ("the_state_is_what_the_schema_asks_for", state_schema),
    ("features_are_what_the_schema_asks_for", features),
    ("exec_joins_the_container", exec),
    ("list_knows_three_formats", list),
    ("ps_lists_the_containers_processes", ps),
    ("pause_and_resume", pause),
    ("update_changes_limits_and_events_tells_of_them", update),
    ("an_unknown_container_is_told_with_exit_code_1", unknown),
    (
        "a_second_create_of_one_id_says_that_it_exists",
        second_create,
    ),
    ("a_cgroup_with_processes_is_not_taken", occupied_cgroup),
    ("containerd_runs_containers_through_it", containerd),
    ("a_terminal_goes_to_the_console_socket", console_socket),
    ("descriptors_are_passed_only_when_asked_for", descriptors),
    ("a_foreground_run_passes_signals_on", signals),
];

fn run(host: &Host) {
    let bundle = Bundle::new(host, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    let answer = bundle.play();
    assert_eq!(
        (answer.code, answer.out.as_str(), answer.err.as_str()),
        (7, "out\n", "err\n")
    );
    bundle.assert_gone();
}

fn life_cycle(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.write();
    let created = bundle.detached(&["create", "--pid-file", "pid", &bundle.id]);
    assert_eq!(created.code, 0, "{}", created.err);
    assert_eq!(bundle.status(), "created");
    let pid = fs::read_to_string(bundle.directory.join("pid")).expect("pid file");
    assert_eq!(bundle.state()["pid"].to_string(), pid);
    bundle.run(&["start", &bundle.id]).output();
    assert_eq!(bundle.status(), "running");
    bundle
        .run(&["start", &bundle.id])
        .refused("already running");
    bundle
        .run(&["delete", &bundle.id])
        .refused("not stopped: running");
    bundle.run(&["kill", &bundle.id, "KILL"]).output();
    bundle.await_status("stopped");
    bundle
        .run(&["kill", &bundle.id, "KILL"])
        .refused("container not running");
    bundle.run(&["exec", &bundle.id, "true"]);
    bundle.run(&["delete", &bundle.id]).output();
    bundle.assert_gone();
}

fn state_schema(host: &Host) {
    let mut bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.config["annotations"] = json!({"org.example": "yes"});
    bundle.start();
    let state = bundle.state();
    schema::check("state-schema.json", &state);
    assert_eq!(state["annotations"]["org.example"], "yes");
    assert_eq!(state["bundle"], bundle.directory.to_str().expect("path"));
    bundle.run(&["kill", "--all", &bundle.id, "9"]).output();
    bundle.await_status("stopped");
    schema::check("state-schema.json", &bundle.state());
}

fn features(host: &Host) {
    let bundle = Bundle::new(host, &["true"]);
    let features = bundle.run(&["features"]).output();
    schema::check(
        "features-schema.json",
        &serde_json::from_str(&features).expect("JSON"),
    );
}

fn exec(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.start();
    let exec = |arguments: &[&str]| {
        let mut all = vec!["exec"];
        all.extend(arguments);
        bundle.run(&all)
    };
    let id = bundle.id.as_str();
    let answer = exec(&[
        "--env",
        "A=1",
        "--cwd",
        "/tmp",
        id,
        "sh",
        "-c",
        "echo $A $PWD; ps | grep -c '[s]leep'; exit 3",
    ]);
    assert_eq!(
        (answer.code, answer.out.as_str()),
        (3, "1 /tmp\n1\n"),
        "{}",
        answer.err
    );
    let missing = exec(&[id, "nope"]);
    assert_eq!(missing.code, 255);
    assert!(
        missing.err.contains("executable file not found in $PATH"),
        "{}",
        missing.err
    );
    let process = json!({"args": ["id", "-u"], "cwd": "/", "user": {"uid": 5, "gid": 6}, "env": ["PATH=/bin"]});
    fs::write(bundle.directory.join("process.json"), process.to_string()).expect("process");
    assert_eq!(exec(&["--process", "process.json", id]).output(), "5\n");
    let capabilities =
        exec(&["--cap", "CAP_CHOWN", id, "grep", "Cap", "/proc/self/status"]).output();
    assert!(
        capabilities.contains("CapInh:\t0000000000000000"),
        "{capabilities}"
    );
    assert!(
        capabilities.contains("CapEff:\t0000000020000421"),
        "{capabilities}"
    );
    bundle
        .detached(&[
            "exec",
            "--detach",
            "--pid-file",
            "execpid",
            id,
            "sleep",
            "500",
        ])
        .output();
    let pid = fs::read_to_string(bundle.directory.join("execpid")).expect("pid");
    let pids: Value =
        serde_json::from_str(&bundle.run(&["ps", "-f", "json", id]).output()).expect("JSON");
    assert!(
        pids.as_array()
            .expect("list")
            .iter()
            .any(|number| number.as_u64() == pid.parse().ok())
    );
}

fn list(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    // A root that somebody names is there; the one that nobody names need not be.
    bundle.run(&["list"]).refused("--root");
    std::fs::create_dir(&bundle.root).expect("root");
    assert_eq!(bundle.run(&["list", "-f", "json"]).output(), "null\n");
    bundle.start();
    let table = bundle.run(&["list"]).output();
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().expect("header").split_whitespace().collect();
    assert_eq!(
        header,
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    );
    assert!(lines.next().expect("row").contains("running"), "{table}");
    assert_eq!(
        bundle.run(&["list", "-q"]).output(),
        format!("{}\n", bundle.id)
    );
    let all: Value =
        serde_json::from_str(&bundle.run(&["list", "--format", "json"]).output()).expect("JSON");
    schema::check("state-schema.json", &all[0]);
    bundle.run(&["list", "-f", "yaml"]).refused("yaml");
}

fn ps(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.start();
    let table = bundle.run(&["ps", &bundle.id]).output();
    assert!(
        table.contains("PID") && table.contains("sleep 1000"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 2, "{table}");
    bundle.run(&["ps", &bundle.id, "-o", "comm"]).refused("PID");
}

fn pause(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.start();
    bundle.run(&["pause", &bundle.id]).output();
    assert_eq!(bundle.status(), "paused");
    let answer = bundle.run(&["exec", &bundle.id, "true"]);
    assert!(
        answer.code == 255 && answer.err.contains("paused"),
        "{}",
        answer.err
    );
    bundle.run(&["resume", &bundle.id]).output();
    assert_eq!(bundle.status(), "running");
    bundle.run(&["resume", &bundle.id]).refused("not paused");
    bundle.run(&["pause", &bundle.id]).output();
    bundle.run(&["delete", "--force", &bundle.id]).output();
    bundle.assert_gone();
}

fn update(host: &Host) {
    let mut bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 20});
    bundle.start();
    let limit = || {
        let line = bundle.run(&["events", "--stats", &bundle.id]).output();
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            (event["type"].as_str(), event["id"].as_str()),
            (Some("stats"), Some(bundle.id.as_str()))
        );
        event["data"]["pids"]["limit"].clone()
    };
    assert_eq!(limit(), 20);
    bundle
        .run(&["update", "--pids-limit", "30", &bundle.id])
        .output();
    assert_eq!(limit(), 30);
    let mut command = bundle.command(&["update", "-r", "-", &bundle.id]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("spawn");
    let text = br#"{"pids": {"limit": 40}}"#;
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(text)
        .expect("write");
    assert!(child.wait().expect("wait").success());
    assert_eq!(limit(), 40);
    bundle
        .run(&["update", "--memory", "x", &bundle.id])
        .refused("--memory");
}

fn unknown(host: &Host) {
    let bundle = Bundle::new(host, &["true"]);
    for verb in [
        "state", "start", "kill", "delete", "ps", "pause", "resume", "update", "events",
    ] {
        bundle
            .run(&[verb, "nobody"])
            .refused("container does not exist");
    }
    bundle.run(&["delete", "--force", "nobody"]).output();
}

fn second_create(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.start();
    bundle
        .detached(&["create", &bundle.id])
        .refused("already exists");
    bundle
        .detached(&["run", &bundle.id])
        .refused("already exists");
    assert_eq!(bundle.status(), "running");
}

fn occupied_cgroup(host: &Host) {
    let first = Bundle::new(host, &["sleep", "1000"]);
    first.start();
    let mut second = Bundle::new(host, &["true"]);
    second.config["linux"]["cgroupsPath"] = first.config["linux"]["cgroupsPath"].clone();
    second.play().refused("is not empty");
    assert_eq!(first.status(), "running");
    second.config["linux"]["cgroupsPath"] = json!("/");
    second.play().refused("linux.cgroupsPath");
    second.config["linux"]["cgroupsPath"] = json!("/x/../..");
    second.play().refused("linux.cgroupsPath");
    assert!(!second.root.join(&second.id).exists(), "the state is left");
}

/// containerd of the test's own, with this program in place of runc.
fn containerd(host: &Host) {
    let installed = |name: &str| Path::new("/usr/bin").join(name).exists();
    if !installed("containerd") || !installed("ctr") {
        eprintln!("skipped: Debian's package containerd is not installed");
        return;
    }
    let directory = host.fresh("containerd");
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let config = format!(
        "version = 2\nroot = '{}'\nstate = '{}'\n\
         disabled_plugins = ['io.containerd.grpc.v1.cri']\n[grpc]\naddress = '{}'\n",
        path("root"),
        path("run"),
        path("sock")
    );
    fs::write(path("config.toml"), config).expect("config");
    let program = std::env::current_exe().expect("program");
    let script = format!("#!/bin/sh\nexec {} oci \"$@\"\n", program.display());
    fs::write(path("runtime"), script).expect("script");
    fs::set_permissions(path("runtime"), fs::Permissions::from_mode(0o755)).expect("mode");
    let mut daemon = Command::new("containerd")
        .args(["--config", &path("config.toml")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("containerd");
    let namespace = cgroup_parent();
    let ctr = |arguments: &[&str]| {
        let mut command = Command::new("ctr");
        command.args(["--address", &path("sock"), "--namespace", &namespace]);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        Answer::of(output.expect("ctr"))
    };
    let ready = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        ctr(&["version"]).code == 0
    });
    let rootfs = layer().to_str().expect("path");
    let runtime = path("runtime");
    let run = |id: &str, script: &str| {
        let flags = ["run", "--rm", "--runc-binary", &runtime, "--rootfs", rootfs];
        ctr(&[flags.as_slice(), &[id, "/bin/sh", "-c", script]].concat())
    };
    let fine = run("fine", "test -r /etc/passwd");
    let code = run("code", "exit 5");
    let flags = ["run", "--detach", "--null-io", "--runc-binary", &runtime];
    let started = ctr(&[
        flags.as_slice(),
        &["--rootfs", rootfs, "long", "/bin/sleep", "1000"],
    ]
    .concat());
    let flags = ["task", "exec", "--exec-id", "one", "long"];
    let exec = ctr(&[flags.as_slice(), &["/bin/sh", "-c", "exit 6"]].concat());
    let paused = ctr(&["task", "pause", "long"]);
    let list = ctr(&["task", "ls"]);
    let resumed = ctr(&["task", "resume", "long"]);
    let killed = ctr(&["task", "delete", "--force", "long"]);
    let removed = ctr(&["container", "rm", "long"]);
    daemon.kill().expect("kill");
    daemon.wait().expect("wait");
    remove_cgroup_parent();
    assert!(ready, "containerd does not answer");
    fine.output();
    assert_eq!(code.code, 5, "{}", code.err);
    started.output();
    assert_eq!(exec.code, 6, "{}", exec.err);
    paused.output();
    assert!(list.output().contains("PAUSED"));
    resumed.output();
    // The workload's own code is what ctr ends with.
    assert!(
        killed.code == 0 || killed.err.contains("137"),
        "{}",
        killed.err
    );
    removed.output();
}

fn console_socket(host: &Host) {
    let mut bundle = Bundle::new(host, &["sh", "-c", "test -t 0 && stty size && cat"]);
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 11, "width": 22});
    bundle.write();
    bundle
        .detached(&["create", &bundle.id])
        .refused("console socket");
    bundle.assert_gone();
    let socket = ConsoleSocket::new(&bundle.directory);
    let path = socket.path.to_str().expect("path");
    let created = bundle.detached(&["create", "--console-socket", path, &bundle.id]);
    assert_eq!(created.code, 0, "{}", created.err);
    let mut terminal = fs::File::from(socket.receive());
    bundle.run(&["start", &bundle.id]).output();
    let mut text = [0; 7];
    terminal.read_exact(&mut text).expect("read");
    assert_eq!(&text, b"11 22\r\n");
    bundle.run(&["delete", "--force", &bundle.id]).output();
}

fn descriptors(host: &Host) {
    let bundle = Bundle::new(
        host,
        &["sh", "-c", "ls /proc/self/fd | wc -l; cat <&3 2>/dev/null"],
    );
    bundle.write();
    fs::write(bundle.directory.join("given"), "given\n").expect("file");
    // The shell opens 3, without any wish of the runtime's; `ls` has one descriptor of its own.
    let run = |flags: &str| {
        let program = fs::read_link("/proc/self/exe").expect("program");
        let script = format!(
            "exec 3<given; exec {} oci --root {} run {flags} {}",
            program.display(),
            bundle.root.display(),
            bundle.id
        );
        let mut command = std::process::Command::new("sh");
        let output = command
            .args(["-c", &script])
            .current_dir(&bundle.directory)
            .stdin(Stdio::null())
            .output();
        Answer::of(output.expect("run")).out
    };
    assert_eq!(run(""), "4\n");
    assert_eq!(run("--preserve-fds 1"), "5\ngiven\n");
}

fn signals(host: &Host) {
    let bundle = Bundle::new(
        host,
        &[
            "sh",
            "-c",
            "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done",
        ],
    );
    bundle.write();
    let mut child = bundle
        .command(&["run", &bundle.id])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    let mut line = [0; 6];
    child
        .stdout
        .as_mut()
        .expect("stdout")
        .read_exact(&mut line)
        .expect("ready");
    bundle.await_status("running");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
    assert_eq!(child.wait().expect("wait").code(), Some(42));
    bundle.assert_gone();
}
