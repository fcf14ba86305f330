//! Wrong command lines and wrong configurations: each gets an exit code and a message that names
//! what is wrong, and nothing is made.

use std::fs;

use serde_json::{Value, json};

use crate::bundle::{Answer, Bundle};
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("wrong_command_lines", command_lines),
    ("texts_that_are_no_configuration", texts),
    ("values_of_a_wrong_type_are_named_by_their_path", types),
    ("values_that_mean_nothing_are_named_by_their_path", values),
    ("a_bundle_that_is_not_one", bundles),
];

/// The failure's code, and all parts in what it says.
fn assert_refused(answer: &Answer, code: i32, parts: &[&str]) {
    assert_eq!(answer.code, code, "{}{}", answer.out, answer.err);
    for part in parts {
        assert!(answer.err.contains(part), "{part:?}: {}", answer.err);
    }
    assert_eq!(answer.err.lines().count(), 1, "{}", answer.err);
}

fn command_lines(host: &Host) {
    let bundle = Bundle::new(host, &["true"]);
    bundle.write();
    fs::create_dir(&bundle.root).expect("the directory of states");
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["frobnicate"], 1, &["'frobnicate'", "create"]),
        (&["creat", "x"], 1, &["'creat'", "did you mean 'create'"]),
        (
            &["create", "--bundel", ".", "x"],
            1,
            &["--bundel", "did you mean --bundle"],
        ),
        (
            &["--rot", "/x", "list"],
            1,
            &["--rot", "did you mean --root"],
        ),
        (&[""], 1, &["''"]),
        (&["--nope", "list"], 1, &["--nope"]),
        (
            &["--log-format", "xml", "list"],
            1,
            &["--log-format", "json"],
        ),
        (&["--log-format"], 1, &["--log-format", "needs a value"]),
        (&["create"], 1, &["container id cannot be empty"]),
        (&["create", ""], 1, &["container id cannot be empty"]),
        (
            &["create", "a/b"],
            1,
            &["invalid container ID format", "a/b"],
        ),
        (&["create", "../b"], 1, &["invalid container ID format"]),
        (&["create", ".."], 1, &["invalid container ID format"]),
        (&["create", "a b"], 1, &["invalid container ID format"]),
        (&["create", "x", "y"], 1, &["'y'"]),
        (&["create", "--bundle"], 1, &["--bundle", "needs a value"]),
        (
            &["create", "--preserve-fds", "x", "y"],
            1,
            &["--preserve-fds", "'x'"],
        ),
        (
            &["create", "--preserve-fds", "-1", "y"],
            1,
            &["--preserve-fds", "-1"],
        ),
        (&["run", "--detach=maybe", "y"], 1, &["--detach", "'maybe'"]),
        (&["state"], 1, &["container id cannot be empty"]),
        (&["state", "a/b"], 1, &["invalid container ID format"]),
        (&["state", "nobody", "else"], 1, &["'else'"]),
        (
            &["state", "nobody"],
            1,
            &["container does not exist", "nobody"],
        ),
        (&["start", "nobody"], 1, &["container does not exist"]),
        (
            &["kill", "nobody", "KILL"],
            1,
            &["container does not exist"],
        ),
        (&["kill", "nobody", "FOO"], 1, &["FOO"]),
        (&["kill", "nobody", "-1"], 1, &["-1"]),
        (&["delete", "nobody"], 1, &["container does not exist"]),
        (
            &["delete", "--force", "../x"],
            1,
            &["invalid container ID format"],
        ),
        (&["ps", "nobody"], 1, &["container does not exist"]),
        (&["pause", "nobody"], 1, &["container does not exist"]),
        (&["resume", "nobody"], 1, &["container does not exist"]),
        (&["update", "nobody"], 1, &["container does not exist"]),
        (&["events", "nobody"], 1, &["container does not exist"]),
        (
            &["events", "--interval", "x", "nobody"],
            1,
            &["--interval", "'x'"],
        ),
        (&["list", "--format", "xml"], 1, &["'xml'", "json"]),
        (&["spec", "--bundle", "/nonexistent"], 1, &["/nonexistent"]),
        // As runc: one that fails before the program runs is told from a program that fails.
        (&["exec"], 255, &["container id cannot be empty"]),
        (
            &["exec", "nobody", "true"],
            255,
            &["container does not exist"],
        ),
        (
            &["exec", "--user", "+0", "nobody", "true"],
            255,
            &["container does not exist"],
        ),
        (&["exec", "--nope", "nobody", "true"], 255, &["--nope"]),
    ];
    for (arguments, code, parts) in cases {
        let answer = bundle.run(arguments);
        let said = format!("{arguments:?}: {}", answer.err);
        assert_eq!(answer.code, *code, "{said}");
        assert!(parts.iter().all(|part| answer.err.contains(part)), "{said}");
        bundle.assert_gone();
    }
}

fn texts(host: &Host) {
    let bundle = Bundle::new(host, &["true"]);
    let cases: &[(&str, &[&str])] = &[
        ("", &["config.json", "EOF", "line 1"]),
        ("{", &["config.json: EOF", "line 1"]),
        ("[]", &["config.json", "an object"]),
        ("null", &["config.json", "an object"]),
        ("\u{feff}{}", &["config.json", "line 1"]),
        (
            "{\"ociVersion\": \"1.2.0\"} x",
            &["trailing characters", "column 25"],
        ),
        (
            "{'ociVersion': '1.2.0'}",
            &["config.json", "key must be a string"],
        ),
        ("{\"process\": {}}", &["missing field `ociVersion`"]),
        (
            "{\"ociVersion\": \"1.2.0\", \"ociVersion\": \"1.2.0\"}",
            &["duplicate field `ociVersion`"],
        ),
        (
            "{\"ociVersion\": \"1.2.0\",\n\"process\":\n{\"args\": [1]}}",
            &["process.args[0]: invalid type: integer `1`, expected a string at line 3"],
        ),
        (
            "{\"ociVersion\": \"1.2.0\", \"process\": {\"env\": [\"A=\\ud800\"]}}",
            &["process.env[0]"],
        ),
    ];
    for (text, parts) in cases {
        fs::write(bundle.directory.join("config.json"), text).expect("config");
        assert_refused(&bundle.run(&["create", &bundle.id]), 1, parts);
        bundle.assert_gone();
    }
    fs::write(bundle.directory.join("config.json"), b"{\"a\": \"\xff\"}").expect("config");
    assert_refused(
        &bundle.run(&["create", &bundle.id]),
        1,
        &["config.json", "UTF-8"],
    );
}

/// Puts the value at the place, makes the container, and expects these parts in the failure.
fn refuse(bundle: &mut Bundle, pointer: &str, value: &Value, parts: &[&str]) {
    let right = bundle.config.clone();
    let (parent, name) = pointer.rsplit_once('/').expect("pointer");
    match bundle.config.pointer_mut(parent).expect("parent") {
        Value::Array(items) => items.insert(name.parse().expect("index"), value.clone()),
        Value::Object(fields) if value.is_null() => drop(fields.remove(name)),
        parent => parent[name] = value.clone(),
    }
    bundle.write();
    let answer = bundle.detached(&["create", &bundle.id]);
    let said = format!("{pointer} = {value}: {}", answer.err);
    assert_eq!(answer.code, 1, "{said}");
    assert!(parts.iter().all(|part| answer.err.contains(part)), "{said}");
    bundle.assert_gone();
    bundle.config = right;
}

fn types(host: &Host) {
    let mut bundle = Bundle::new(host, &["true"]);
    for (pointer, value, parts) in [
        (
            "/ociVersion",
            json!(1),
            ["ociVersion: ", "expected a string"],
        ),
        ("/root", json!("rootfs"), ["root: ", "expected an object"]),
        ("/root/path", json!(3), ["root.path: ", "expected a string"]),
        (
            "/root/path",
            Value::Null,
            ["root: ", "missing field `path`"],
        ),
        (
            "/root/readonly",
            json!("yes"),
            ["root.readonly: ", "expected a boolean"],
        ),
        (
            "/process/args",
            json!("true"),
            ["process.args: ", "expected a sequence"],
        ),
        (
            "/process/env",
            json!({"A": "1"}),
            ["process.env: ", "expected a sequence"],
        ),
        (
            "/process/user/uid",
            json!(-1),
            ["process.user.uid: ", "integer `-1`"],
        ),
        (
            "/process/user/uid",
            json!(1.5),
            ["process.user.uid: ", "floating point"],
        ),
        (
            "/process/consoleSize",
            json!({"height": 70000, "width": 1}),
            ["process.consoleSize.height: ", "70000"],
        ),
        (
            "/mounts/0",
            json!({"type": "tmpfs"}),
            ["mounts[0]: ", "missing field `destination`"],
        ),
        ("/mounts/0", json!(1), ["mounts[0]: ", "expected an object"]),
        (
            "/mounts/1",
            json!({"destination": "/x", "type": "tmpfs", "options": "ro"}),
            ["mounts[1].options: ", "expected a sequence"],
        ),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "/bin/true"}, {}]}),
            ["hooks.createRuntime[1]: ", "missing field `path`"],
        ),
        (
            "/hooks",
            json!({"poststart": [{"path": "/bin/true", "timeout": -1}]}),
            ["hooks.poststart[0].timeout: ", "integer `-1`"],
        ),
        (
            "/linux/namespaces/2",
            json!({}),
            ["linux.namespaces[2]: ", "missing field `type`"],
        ),
        (
            "/linux/devices",
            json!([{"type": "c"}]),
            ["linux.devices[0]: ", "missing field `path`"],
        ),
        (
            "/linux/resources",
            json!({"memory": {"limit": "1G"}}),
            ["linux.resources.memory.limit: ", "string \"1G\""],
        ),
        (
            "/linux/resources",
            json!({"cpu": {"shares": -5}}),
            ["linux.resources.cpu.shares: ", "integer `-5`"],
        ),
        (
            "/annotations",
            json!({"a": 1}),
            ["annotations.a: ", "expected a string"],
        ),
    ] {
        // The quotes of the text are escaped in the log's line.
        let parts = parts.map(|part| part.replace('"', "\\\""));
        refuse(&mut bundle, pointer, &value, &[&parts[0], &parts[1]]);
    }
}

fn values(host: &Host) {
    let mut bundle = Bundle::new(host, &["true"]);
    for (pointer, value, part) in [
        ("/ociVersion", json!("2.0.0"), "ociVersion: '2.0.0'"),
        ("/ociVersion", json!("banana"), "ociVersion: 'banana'"),
        ("/ociVersion", json!(""), "ociVersion: ''"),
        ("/root", Value::Null, "root: it is missing"),
        ("/process", Value::Null, "process: it is missing"),
        ("/process/args", json!([]), "process.args: "),
        ("/process/args", Value::Null, "process.args: "),
        ("/process/args", json!(["a", "b\0"]), "process.args[1]: "),
        ("/process/cwd", json!("relative"), "process.cwd: 'relative'"),
        ("/process/cwd", json!(""), "process.cwd: "),
        ("/process/env", json!(["A=1", "B"]), "process.env[1]: "),
        ("/process/env", json!(["=1"]), "process.env[0]: "),
        (
            "/process/user",
            json!({"uid": u32::MAX, "gid": 0}),
            "process.user.uid: ",
        ),
        (
            "/process/user",
            json!({"uid": 0, "gid": u32::MAX}),
            "process.user.gid: ",
        ),
        (
            "/process/user",
            json!({"uid": 0, "gid": 0, "additionalGids": [u32::MAX]}),
            "process.user.additionalGids[0]: ",
        ),
        (
            "/process/user",
            json!({"uid": 0, "gid": 0, "umask": 512}),
            "process.user.umask: ",
        ),
        (
            "/process/rlimits",
            json!([{"type": "NOFILE", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type: 'NOFILE'",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]),
            "process.rlimits[0].soft: ",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 2, "hard": 2}]),
            "process.rlimits[1].type: 'RLIMIT_CPU'",
        ),
        (
            "/process/oomScoreAdj",
            json!(2000),
            "process.oomScoreAdj: 2000",
        ),
        ("/hostname", json!("x".repeat(65)), "hostname: "),
        ("/hostname", json!("a\0b"), "hostname: "),
        (
            "/mounts/0",
            json!({"destination": "", "type": "tmpfs"}),
            "mounts[0].destination: ",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x\0", "type": "tmpfs"}),
            "mounts[0].destination: ",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x"}),
            "mounts[0].type: it is missing",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "type": "bind", "source": "/nonexistent"}),
            "mounts[0]: /x: ",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "type": "nofs"}),
            "mounts[0]: /x: ",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "type": "tmpfs", "options": ["size=x"]}),
            "mounts[0]: /x: ",
        ),
        (
            "/hooks",
            json!({"prestart": [{"path": "true"}]}),
            "hooks.prestart[0].path: 'true'",
        ),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "true"}]}),
            "hooks.createRuntime[0].path: ",
        ),
        (
            "/hooks",
            json!({"createContainer": [{"path": ""}]}),
            "hooks.createContainer[0].path: ",
        ),
        (
            "/hooks",
            json!({"startContainer": [{"path": "./x"}]}),
            "hooks.startContainer[0].path: ",
        ),
        (
            "/hooks",
            json!({"poststart": [{"path": "/bin/true"}, {"path": "bin/true"}]}),
            "hooks.poststart[1].path: ",
        ),
        (
            "/hooks",
            json!({"poststop": [{"path": "true"}]}),
            "hooks.poststop[0].path: ",
        ),
        (
            "/hooks",
            json!({"poststart": [{"path": "/bin/true", "timeout": 0}]}),
            "hooks.poststart[0].timeout: ",
        ),
        (
            "/linux/namespaces/0",
            json!({"type": "users"}),
            "linux.namespaces[0].type: 'users'",
        ),
        (
            "/linux/namespaces/1",
            json!({"type": "pid"}),
            "linux.namespaces[1].type: 'pid' is there twice",
        ),
        (
            "/linux/namespaces/0",
            json!({"type": "time", "path": "ns"}),
            "linux.namespaces[0].path: 'ns'",
        ),
        (
            "/linux/namespaces/0",
            json!({"type": "time", "path": "/nonexistent"}),
            "/nonexistent",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 1}]),
            "linux.devices[0].type: 'z'",
        ),
        (
            "/linux/devices",
            json!([{"path": "dev/x", "type": "c", "major": 1, "minor": 1}]),
            "linux.devices[0].path: 'dev/x'",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.panic": "1"}),
            "linux.sysctl: ",
        ),
        ("/linux/sysctl", json!({"../x": "1"}), "linux.sysctl: "),
        (
            "/linux/maskedPaths",
            json!(["proc/x"]),
            "linux.maskedPaths: 'proc/x'",
        ),
        (
            "/linux/readonlyPaths",
            json!([""]),
            "linux.readonlyPaths: ''",
        ),
        (
            "/linux/rootfsPropagation",
            json!("sideways"),
            "linux.rootfsPropagation: 'sideways'",
        ),
        (
            "/linux/resources",
            json!({"memory": {"limit": 2_000_000, "swap": 1_000_000}}),
            "linux.resources.memory.swap: ",
        ),
        (
            "/linux/resources",
            json!({"cpu": {"cpus": "x"}}),
            "linux.resources.cpu.cpus: ",
        ),
        (
            "/linux/resources",
            json!({"devices": [{"allow": true, "type": "q"}]}),
            "linux.resources.devices[0].type: 'q'",
        ),
        (
            "/linux/resources",
            json!({"devices": [{"allow": true, "access": "rx"}]}),
            "linux.resources.devices[0].access: 'rx'",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_MAYBE"}),
            "SCMP_ACT_MAYBE",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"],
                "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}),
            "argument 6",
        ),
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 0, "size": 1}]),
            "linux.uidMappings: ",
        ),
    ] {
        refuse(&mut bundle, pointer, &value, &[part]);
    }
}

fn bundles(host: &Host) {
    let mut bundle = Bundle::new(host, &["true"]);
    let config = bundle.directory.join("config.json");
    fs::remove_file(&config).expect("spec has written it");
    let create = |bundle: &Bundle, directory: &str, part: &str| {
        let answer = bundle.run(&["create", "--bundle", directory, &bundle.id]);
        assert_refused(&answer, 1, &[part]);
        bundle.assert_gone();
    };
    create(&bundle, ".", "config.json");
    create(&bundle, "/nonexistent", "/nonexistent");
    fs::create_dir(&config).expect("directory");
    create(&bundle, ".", "config.json");
    fs::remove_dir(&config).expect("directory");
    for (path, part) in [
        ("none", "root.path: "),
        ("config.json", "is not a directory"),
        ("config.json/x", "root.path: "),
    ] {
        bundle.config["root"]["path"] = json!(path);
        bundle.write();
        create(&bundle, ".", part);
    }
    create(&bundle, "config.json", "config.json");
}
