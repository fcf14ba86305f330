//! The OCI command line: each verb by real runs, bad input, and the hosts that call it.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::bundle::{Answer, Bundle, ConsoleSocket};
use crate::schema;
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("a_run_passes_output_and_exit_code_on", run),
    ("create_start_kill_delete", life_cycle),
    ("the_state_is_what_the_schema_asks_for", state_schema),
    ("features_are_what_the_schema_asks_for", features),
    ("exec_joins_the_container", exec),
    ("exec_takes_odd_users_for_what_they_are", exec_users),
    ("list_knows_three_formats", list),
    ("ps_lists_the_containers_processes", ps),
    ("pause_and_resume", pause),
    ("update_changes_limits_and_events_tells_of_them", update),
    ("bad_input_is_named", bad_input),
    (
        "what_is_not_supported_is_refused_by_its_field",
        refused_fields,
    ),
    ("an_unknown_container_is_told_with_exit_code_1", unknown),
    (
        "a_second_create_of_one_id_says_that_it_exists",
        second_create,
    ),
    ("a_cgroup_with_processes_is_not_taken", occupied_cgroup),
    (
        "a_command_that_is_missing_fails_the_create",
        missing_command,
    ),
    (
        "the_process_gets_what_the_configuration_says",
        process_settings,
    ),
    ("mounts_and_protected_paths", mounts),
    ("devices_are_made_and_others_refused", devices),
    ("seccomp_in_the_oci_form", seccomp),
    ("namespaces_are_joined_by_path", joined_namespaces),
    ("hooks_run_in_their_order_with_the_state", hooks),
    ("a_hook_that_fails_or_hangs_fails_the_create", failing_hooks),
    ("a_terminal_goes_to_the_console_socket", console_socket),
    ("descriptors_are_passed_only_when_asked_for", descriptors),
    ("a_foreground_run_passes_signals_on", signals),
    (
        "delete_force_removes_what_a_killed_create_left",
        killed_create,
    ),
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

fn exec_users(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.start();
    let exec = |user: &str| {
        bundle.run(&[
            "exec",
            "--user",
            user,
            &bundle.id,
            "sh",
            "-c",
            "id -u; id -g",
        ])
    };
    assert_eq!(exec("7:8").output(), "7\n8\n");
    for user in [
        "",
        "-1",
        "+0",
        "0x0",
        "1000 ",
        "7:",
        ":7",
        "7:8:9",
        "4294967296",
        "root",
        "4294967295",
    ] {
        let answer = exec(user);
        assert_eq!(answer.code, 255, "'{user}' was taken: {}", answer.out);
        assert!(answer.err.contains("--user"), "{}", answer.err);
    }
}

fn list(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
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

fn bad_input(host: &Host) {
    let bundle = Bundle::new(host, &["true"]);
    for (text, parts) in [
        (
            r#"{"ociVersion": "1.0.2", "process": {"args": "sh"}}"#,
            ["process.args", "a sequence"],
        ),
        (
            r#"{"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": 7}]}}"#,
            ["linux.namespaces[0].type", "a string"],
        ),
        ("{", ["config.json", "EOF"]),
        (r#"{"ociVersion": "9.0.0"}"#, ["ociVersion", "9.0.0"]),
    ] {
        fs::write(bundle.directory.join("config.json"), text).expect("config");
        let answer = bundle.run(&["create", &bundle.id]);
        assert_eq!(answer.code, 1);
        assert!(
            parts.iter().all(|part| answer.err.contains(part)),
            "{}",
            answer.err
        );
        bundle.assert_gone();
    }
    bundle.write();
    bundle
        .run(&["create", "../escape"])
        .refused("invalid container ID format");
    bundle.run(&["create", "--nope", "x"]).refused("--nope");
    bundle.run(&["frobnicate"]).refused("frobnicate");
    let log = bundle.directory.join("log");
    let answer = bundle.run(&[
        "--log",
        log.to_str().expect("path"),
        "--log-format",
        "json",
        "state",
        "none",
    ]);
    assert_eq!(answer.code, 1);
    let line: Value = serde_json::from_str(&fs::read_to_string(log).expect("log")).expect("JSON");
    assert_eq!(line["level"], "error");
    assert!(
        line["msg"]
            .as_str()
            .expect("text")
            .contains("does not exist"),
        "{line}"
    );
}

fn refused_fields(host: &Host) {
    for (pointer, value, field) in [
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 1, "size": 1}]),
            "linux.uidMappings",
        ),
        ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        (
            "/linux/personality",
            json!({"domain": "LINUX32"}),
            "linux.personality",
        ),
        ("/linux/mountLabel", json!("label"), "linux.mountLabel"),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND"}),
            "linux.memoryPolicy",
        ),
        ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "user"}]),
            "linux.namespaces[1].type",
        ),
        (
            "/linux/resources/rdma",
            json!({"m": {"hcaHandles": 1}}),
            "linux.resources.rdma",
        ),
        (
            "/linux/resources/network",
            json!({"classID": 1}),
            "linux.resources.network",
        ),
        (
            "/linux/resources/hugepageLimits",
            json!([{"pageSize": "3KB", "limit": 1}]),
            "linux.resources.hugepageLimits[0]",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}),
            "linux.seccomp.listenerPath",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "SCMP_ACT_NOTIFY",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.panic": "1"}),
            "linux.sysctl",
        ),
        (
            "/linux/rootfsPropagation",
            json!("sideways"),
            "linux.rootfsPropagation",
        ),
        (
            "/process/apparmorProfile",
            json!("p"),
            "process.apparmorProfile",
        ),
        ("/process/selinuxLabel", json!("l"), "process.selinuxLabel"),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_IDLE"}),
            "process.scheduler",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_IDLE"}),
            "process.ioPriority",
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "0"}),
            "process.execCPUAffinity",
        ),
        (
            "/process/capabilities/bounding",
            json!(["CAP_NOPE"]),
            "process.capabilities.bounding",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type",
        ),
        (
            "/mounts",
            json!([{"destination": "/x", "type": "tmpfs", "options": ["tmpcopyup"]}]),
            "mounts[0].options: 'tmpcopyup'",
        ),
        (
            "/mounts",
            json!([{"destination": "/proc/x", "type": "tmpfs"}, {"destination": "/y", "type": "none"}]),
            "mounts[1].type",
        ),
    ] {
        let mut bundle = Bundle::new(host, &["true"]);
        let (parent, name) = pointer.rsplit_once('/').expect("pointer");
        bundle.config.pointer_mut(parent).expect("parent")[name] = value;
        bundle.play().refused(field);
        bundle.assert_gone();
    }
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

fn missing_command(host: &Host) {
    for (program, part) in [
        ("nope", "executable file not found in $PATH"),
        ("/nope", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
    ] {
        let bundle = Bundle::new(host, &[program]);
        bundle.write();
        bundle.detached(&["create", &bundle.id]).refused(part);
        bundle.assert_gone();
    }
}

fn process_settings(host: &Host) {
    let script = "id -u; id -g; id -G; umask; pwd; hostname; cat /proc/sys/kernel/domainname; \
                  ulimit -n; cat /proc/self/oom_score_adj; cat /proc/sys/net/core/somaxconn; \
                  grep -E 'CapInh|CapEff|CapBnd|CapAmb|NoNewPrivs' /proc/self/status; echo $HOME";
    let mut bundle = Bundle::new(host, &["sh", "-c", script]);
    bundle.config["hostname"] = json!("box");
    bundle.config["domainname"] = json!("example");
    bundle.config["linux"]["sysctl"] = json!({"net.core.somaxconn": "77"});
    let process = &mut bundle.config["process"];
    process["user"] = json!({"uid": 1000, "gid": 1001, "umask": 7, "additionalGids": [5, 6]});
    process["cwd"] = json!("/made/here");
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    process["oomScoreAdj"] = json!(300);
    process["noNewPrivileges"] = json!(true);
    let own = json!(["CAP_CHOWN", "CAP_KILL"]);
    process["capabilities"] = json!({"bounding": own, "effective": own, "permitted": own, "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]});
    let out = bundle.play().output();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines,
        [
            "1000",
            "1001",
            "1001 5 6",
            "0007",
            "/made/here",
            "box",
            "example",
            "100",
            "300",
            "77",
            "CapInh:\t0000000000000001",
            "CapEff:\t0000000000000001",
            "CapBnd:\t0000000000000021",
            "CapAmb:\t0000000000000001",
            "NoNewPrivs:\t1",
            "/home/web",
        ]
    );
}

fn mounts(host: &Host) {
    let script = "cat /data/file; touch /data/x 2>/dev/null || echo ro; cat /one; \
                  touch /tmp/t && echo tmp; touch /proc/sys/x 2>/dev/null || echo protected; \
                  wc -c < /etc/passwd; ls /home | wc -l; touch /root/x 2>/dev/null || echo root; \
                  ls /sys/fs/cgroup | grep -c pids; cat /sub/inner";
    let mut bundle = Bundle::new(host, &["sh", "-c", script]);
    let data = host.fresh("data");
    fs::write(data.join("file"), "data\n").expect("file");
    fs::write(data.join("inner"), "sub\n").expect("file");
    // Led out of the root it would be the host's.
    fs::create_dir(bundle.directory.join("rootfs/sub")).expect("directory");
    std::os::unix::fs::symlink("/../../../../sub", bundle.directory.join("rootfs/link"))
        .expect("link");
    bundle.config["root"]["readonly"] = json!(true);
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/passwd", "/home", "/not/there"]);
    let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
    mounts.extend([
        json!({"destination": "/data", "type": "bind", "source": data, "options": ["rbind", "ro", "rslave"]}),
        json!({"destination": "/one", "source": data.join("file"), "options": ["bind", "nosuid"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "noexec"]}),
        json!({"destination": "/link", "type": "bind", "source": data, "options": ["bind"]}),
    ]);
    let out = bundle.play().output();
    let pids = if out.contains("\n0\nsub") { "0" } else { "1" };
    assert_eq!(
        out,
        format!("data\nro\ndata\ntmp\nprotected\n0\n0\nroot\n{pids}\nsub\n")
    );
    bundle.assert_gone();

    let mut bundle = Bundle::new(host, &["true"]);
    let inside =
        json!({"destination": "/proc/sys", "type": "bind", "source": "/tmp", "options": ["bind"]});
    bundle.config["mounts"]
        .as_array_mut()
        .expect("mounts")
        .push(inside);
    bundle.play().refused("inside /proc");
}

fn devices(host: &Host) {
    let script = "ls -l /dev/extra | cut -c1-10; head -c 1 /dev/extra 2>/dev/null | wc -c; \
                  mknod /tmp/k c 1 11 && head -c 1 /tmp/k 2>/dev/null | wc -c; head -c 3 /dev/zero | wc -c";
    let mut bundle = Bundle::new(host, &["sh", "-c", script]);
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    let own = json!(["CAP_MKNOD"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": own, "effective": own, "permitted": own});
    bundle.config["linux"]["devices"] = json!([{"type": "c", "path": "/dev/extra", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 0, "gid": 0}]);
    assert_eq!(bundle.play().output(), "crw-------\n1\n0\n3\n");
}

fn seccomp(host: &Host) {
    let mut bundle = Bundle::new(
        host,
        &["sh", "-c", "mkdir /tmp/x 2>&1; chmod 700 /tmp && echo fine"],
    );
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    let out = bundle.play().output();
    assert!(
        out.contains("No space left") && out.ends_with("fine\n"),
        "{out}"
    );
}

fn joined_namespaces(host: &Host) {
    let first = Bundle::new(host, &["sleep", "1000"]);
    first.start();
    let pid = first.state()["pid"].clone();
    let mut second = Bundle::new(
        host,
        &[
            "sh",
            "-c",
            "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc",
        ],
    );
    for namespace in second.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("list")
    {
        let kind = namespace["type"].as_str().expect("type");
        if matches!(kind, "network" | "ipc") {
            let name = if kind == "network" { "net" } else { kind };
            *namespace = json!({"type": kind, "path": format!("/proc/{pid}/ns/{name}")});
        }
    }
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("namespace");
    let expected = format!("{}\n{}\n", link("net").display(), link("ipc").display());
    assert_eq!(second.play().output(), expected);
}

fn hooks(host: &Host) {
    let mut bundle = Bundle::new(host, &["cat", "/mark"]);
    let log = bundle.directory.join("log");
    let hook = |name: &str| {
        let script = format!("read line; echo {name} $line >> {}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 10}])
    };
    for name in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        bundle.config["hooks"][name] = hook(name);
    }
    bundle.config["hooks"]["startContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo inside > /mark"], "env": ["PATH=/bin"]}]);
    assert_eq!(bundle.play().output(), "inside\n");
    let text = fs::read_to_string(&log).expect("log");
    let lines: Vec<(&str, Value)> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, state)| (name, serde_json::from_str(state).expect("state")))
        .collect();
    let order: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        order,
        [
            "prestart",
            "createRuntime",
            "createContainer",
            "poststart",
            "poststop"
        ]
    );
    for (name, state) in &lines {
        schema::check("state-schema.json", state);
        assert_eq!(state["pid"] == 0, *name == "poststop", "{name}: {state}");
    }
}

fn failing_hooks(host: &Host) {
    for (hook, part) in [
        (
            json!({"path": "/bin/sh", "args": ["sh", "-c", "echo because; exit 3"]}),
            "because",
        ),
        (
            json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}),
            "timeout",
        ),
        (json!({"path": "/no/such/hook"}), "hooks.createRuntime[0]"),
    ] {
        let mut bundle = Bundle::new(host, &["true"]);
        bundle.config["hooks"]["createRuntime"] = json!([hook]);
        bundle.play().refused(part);
        bundle.assert_gone();
    }
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

fn killed_create(host: &Host) {
    for delay in [1, 4, 8, 15, 25, 40] {
        let bundle = Bundle::new(host, &["sleep", "1000"]);
        bundle.write();
        let mut create = bundle.command(&["create", &bundle.id]);
        let mut child = create
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("create");
        std::thread::sleep(std::time::Duration::from_millis(delay));
        child.kill().expect("kill");
        child.wait().expect("wait");
        bundle.run(&["delete", "--force", &bundle.id]).output();
        bundle.assert_gone();
    }
}
