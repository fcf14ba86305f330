//! What callers see of the command line itself: help, version, log lines, the words of failures.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::bundle::{Bundle, ConsoleSocket};
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("help_of_the_program_and_of_each_verb", help),
    ("a_version_that_parsers_of_runcs_read", version),
    ("debug_lines_go_where_the_log_goes", debug),
    ("a_term_ends_a_container_that_waits", term),
    ("a_pidfd_is_sent_to_its_socket", pidfd),
    ("variables_are_there_once_and_home_has_a_value", environment),
    ("a_failing_hook_is_named", hook_failure),
    (
        "hooks_without_variables_have_those_of_the_process",
        hook_environment,
    ),
    (
        "hooks_of_the_creation_run_in_the_containers_root",
        hook_directory,
    ),
    (
        "without_pivot_no_namespace_mounts_a_bare_procfs",
        bare_procfs,
    ),
    ("a_missing_interpreter_is_told_in_one_line", interpreter),
];

fn help(host: &Host) {
    let bundle = Bundle::new(host, &["true"]);
    let all = bundle.run(&["--help"]).output();
    assert!(
        all.contains("runc - Open Container Initiative runtime"),
        "{all}"
    );
    for verb in ["create", "exec", "kill", "update", "features"] {
        assert!(all.contains(&format!("\n   {verb} ")), "{all}");
        for flag in ["-h", "--help"] {
            let one = bundle.run(&[verb, flag]).output();
            assert!(one.contains(&format!("runc {verb} - ")), "{one}");
        }
    }
    // What follows the container of exec is the workload's.
    bundle.start();
    let echoed = bundle.run(&["exec", &bundle.id, "echo", "--help"]);
    assert!(echoed.code != 0 || !echoed.out.contains("USAGE"));
    bundle
        .run(&["nope", "-h"])
        .refused("No help topic for 'nope'");
    bundle.run(&["kill", "--nope", "x"]).refused("--nope");
}

fn version(host: &Host) {
    let text = Bundle::new(host, &["true"]).run(&["--version"]).output();
    let mut lines = text.lines();
    let first = lines.next().expect("version");
    let (name, number) = first.split_once(" version ").expect("version");
    assert!(name.ends_with("runc"), "{first}");
    assert_eq!(number, env!("CARGO_PKG_VERSION"));
    assert!(lines.next().expect("commit").starts_with("commit: "));
    assert_eq!(lines.next(), Some("spec: 1.3.0"));
}

fn debug(host: &Host) {
    let bundle = Bundle::new(host, &["true"]);
    bundle.write();
    let quiet = bundle.run(&["run", &bundle.id]);
    assert_eq!((quiet.code, quiet.err.as_str()), (0, ""));
    let told = bundle.run(&["--debug", "run", &bundle.id]);
    assert!(told.err.contains("level=debug msg="), "{}", told.err);
    let arguments = [
        "--debug",
        "--log",
        "log",
        "--log-format",
        "json",
        "run",
        &bundle.id,
    ];
    assert_eq!(bundle.run(&arguments).err, "");
    let log = fs::read_to_string(bundle.directory.join("log")).expect("log");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["level"], "debug");
    }
    assert!(log.lines().count() > 2, "{log}");
}

fn term(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.write();
    assert_eq!(bundle.detached(&["create", &bundle.id]).code, 0);
    bundle.run(&["kill", &bundle.id, "TERM"]).output();
    bundle.await_status("stopped");
    bundle
        .run(&["kill", &bundle.id, "0"])
        .refused("container not running");
    bundle.run(&["delete", &bundle.id]).output();
}

fn pidfd(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.write();
    let socket = ConsoleSocket::new(&bundle.directory);
    let path = socket.path.to_string_lossy();
    let started = bundle.detached(&["run", "--detach", "--pidfd-socket", &path, &bundle.id]);
    assert_eq!(started.code, 0, "{}", started.err);
    let pidfd = socket.receive();
    let signal = rustix::process::Signal::KILL;
    rustix::process::pidfd_send_signal(pidfd.as_fd(), signal).expect("signal");
    bundle.await_status("stopped");
}

fn environment(host: &Host) {
    let mut bundle = Bundle::new(host, &["env"]);
    bundle.config["process"]["env"] = json!(["A=1", "HOME=/x", "PATH=/bin", "A=2", "HOME="]);
    let answer = bundle.play();
    assert_eq!(answer.output(), "PATH=/bin\nA=2\nHOME=/root\n");
}

fn hook_failure(host: &Host) {
    let mut bundle = Bundle::new(host, &["true"]);
    for kind in ["createRuntime", "createContainer", "startContainer"] {
        bundle.config["hooks"] = json!({kind: [{"path": "/bin/true"}, {"path": "/bin/false"}]});
        let answer = bundle.play();
        answer.refused(&format!("error running {kind} hook #1: /bin/false"));
        bundle.assert_gone();
    }
}

fn hook_environment(host: &Host) {
    let mut bundle = Bundle::new(host, &["true"]);
    bundle.config["process"]["env"] = json!(["PATH=/bin", "WORD=of the process"]);
    let hook = |env: &[&str]| json!({"path": "/bin/sh", "args": ["sh", "-c", "echo $WORD >&2; exit 1"], "env": env});
    bundle.config["hooks"] = json!({"startContainer": [hook(&[])]});
    bundle.play().refused("of the process");
    bundle.config["hooks"] = json!({"startContainer": [hook(&["WORD=of the hook"])]});
    bundle.play().refused("of the hook");
}

fn hook_directory(host: &Host) {
    let mut bundle = Bundle::new(host, &["cat", "/word"]);
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo seen > ./word"]});
    bundle.config["hooks"] = json!({"createContainer": [hook]});
    assert_eq!(bundle.play().output(), "seen\n");
}

fn bare_procfs(host: &Host) {
    let script = "unshare -mrpf mount -t proc none /proc";
    let mut bundle = Bundle::new(host, &["sh", "-c", script]);
    for set in ["bounding", "permitted", "effective"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_SETFCAP", "CAP_SYS_ADMIN"]);
    }
    bundle.write();
    let answer = bundle.run(&["run", "--no-pivot", &bundle.id]);
    assert_ne!(answer.code, 0, "{}", answer.out);
    assert!(
        answer.err.contains("denied") || answer.err.contains("not permitted"),
        "{}",
        answer.err
    );
}

fn interpreter(host: &Host) {
    let bundle = Bundle::new(host, &["/run.sh"]);
    let script = bundle.directory.join("rootfs/run.sh");
    fs::write(&script, "#!/nonexistent\n").expect("script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
    let answer = bundle.play();
    assert_eq!(answer.code, 1);
    assert_eq!(answer.err, "exec /run.sh: no such file or directory\n");
    bundle.assert_gone();
}
