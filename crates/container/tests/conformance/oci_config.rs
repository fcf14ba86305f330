//! What a `config.json` asks for, field by field, and what is refused.

use std::fs;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::schema;
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("bad_input_is_named", bad_input),
    (
        "what_is_not_supported_is_refused_by_its_field",
        refused_fields,
    ),
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
];

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
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "users"}]),
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
            "/process/rlimits",
            json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type",
        ),
        (
            "/mounts",
            json!([{"destination": "/x", "type": "proc", "options": ["tmpcopyup"]}]),
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
        (
            json!({"path": "/no/such/hook"}),
            "error running createRuntime hook #0",
        ),
    ] {
        let mut bundle = Bundle::new(host, &["true"]);
        bundle.config["hooks"]["createRuntime"] = json!([hook]);
        bundle.play().refused(part);
        bundle.assert_gone();
    }
}
