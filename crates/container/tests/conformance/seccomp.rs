//! System call filters of a configuration: actions, architectures and the notify listener.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::schema;
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("every_action_does_what_it_says", actions),
    ("a_filter_decides_for_each_architecture", architectures),
    ("a_call_newer_than_the_profile_is_not_there", newer_calls),
    ("a_filter_holds_for_the_start_container_hook", hook),
    ("a_listener_answers_calls_of_create_and_exec", listener),
    ("a_listener_that_nobody_serves_fails_the_start", no_agent),
    ("a_filter_that_cannot_be_enforced_is_refused", refused),
    ("an_exec_that_fails_under_a_filter_says_so", failing_program),
];

/// A program of `tests/programs`, compiled; `None`, aloud, where there is no compiler.
fn compiled(source: &str, target: &Path) -> Option<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/programs")
        .join(source);
    let status = Command::new("gcc")
        .args(["-static", "-no-pie", "-O1", "-o"])
        .args([target, source.as_path()])
        .stderr(Stdio::inherit())
        .status();
    match status {
        Err(_) => {
            eprintln!("skipped: there is no gcc");
            None
        }
        Ok(status) => {
            assert!(status.success(), "compile {}", source.display());
            Some(())
        }
    }
}

fn filtered(host: &Host, args: &[&str], profile: Value) -> Bundle {
    let mut bundle = Bundle::new(host, args);
    bundle.config["linux"]["seccomp"] = profile;
    // A filter that kills must not leave a core.
    bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    bundle
}

fn actions(host: &Host) {
    for (action, errno, code, part) in [
        ("SCMP_ACT_KILL", None, 159, ""),
        ("SCMP_ACT_KILL_PROCESS", None, 159, ""),
        ("SCMP_ACT_KILL_THREAD", None, 159, ""),
        ("SCMP_ACT_TRAP", None, 159, ""),
        ("SCMP_ACT_ERRNO", None, 1, "Operation not permitted"),
        ("SCMP_ACT_ERRNO", Some(28), 1, "No space left"),
        // Without a tracer the call is not there.
        ("SCMP_ACT_TRACE", Some(7), 1, "Function not implemented"),
        ("SCMP_ACT_LOG", None, 0, ""),
        ("SCMP_ACT_ALLOW", None, 0, ""),
    ] {
        for no_new_privileges in [false, true] {
            let mut rule = json!({"names": ["mkdir", "mkdirat"], "action": action});
            if let Some(errno) = errno {
                rule["errnoRet"] = json!(errno);
            }
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
            let mut bundle = filtered(host, &["mkdir", "/tmp/x"], profile);
            bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            let answer = bundle.play();
            assert_eq!(answer.code, code, "{action}: {}", answer.err);
            assert!(answer.err.contains(part), "{action}: {}", answer.err);
        }
    }
}

fn architectures(host: &Host) {
    // getpid: the numbers in the two tables.
    const NATIVE: [&str; 3] = ["/calls", "native", "39"];
    const I386: [&str; 3] = ["/calls", "i386", "20"];
    let refusing = |architectures: Value| {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": architectures,
            "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
        })
    };
    let allowing = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390X"],
    });
    let play = |args: &[&str], profile: &Value| -> Option<(i32, String)> {
        let bundle = filtered(host, args, profile.clone());
        compiled("calls.c", &bundle.directory.join("rootfs/calls"))?;
        let answer = bundle.play();
        Some((answer.code, answer.out))
    };
    let Some(plain) = play(&I386, &allowing) else {
        return;
    };
    if plain == (139, String::new()) || plain == (0, "-38\n".into()) {
        eprintln!("skipped: this kernel runs no calls of i386");
        return;
    }
    assert_eq!(plain, (0, "1\n".into()));
    let both = refusing(json!(["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"]));
    assert_eq!(play(&I386, &both), Some((0, "-28\n".into())));
    assert_eq!(play(&NATIVE, &both), Some((0, "-28\n".into())));
    // Other numbers: 20 is writev in the table of x86-64.
    let other = play(&["/calls", "native", "20"], &both);
    assert_ne!(other, Some((0, "-28\n".into())));
    // An architecture that is not named is killed.
    let native = refusing(json!(["SCMP_ARCH_X86_64"]));
    assert_eq!(play(&I386, &native), Some((159, String::new())));
    assert_eq!(play(&NATIVE, &native), Some((0, "-28\n".into())));
}

fn newer_calls(host: &Host) {
    // All that the program and the runtime need, by their names, but not getpid.
    let names = "arch_prctl brk capset chdir close execve exit exit_group fstat futex getcwd \
                 getrandom ioctl mprotect newfstatat prctl prlimit64 readlink readlinkat rseq \
                 rt_sigaction rt_sigprocmask set_robust_list set_tid_address setgid setgroups \
                 setresgid setresuid uname write mmap munmap read seccomp lseek statx";
    let names: Vec<&str> = names.split_whitespace().collect();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    });
    for (call, expected) in [
        ("39", "-1\n"),
        ("334", "-22\n"),
        ("449", "-38\n"),
        ("9999", "-38\n"),
    ] {
        let bundle = filtered(host, &["/calls", "native", call], profile.clone());
        if compiled("calls.c", &bundle.directory.join("rootfs/calls")).is_none() {
            return;
        }
        assert_eq!(bundle.play().output(), expected, "{call}");
    }
}

fn hook(host: &Host) {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    let mut bundle = filtered(host, &["true"], profile);
    bundle.config["hooks"]["startContainer"] =
        json!([{"path": "/bin/mkdir", "args": ["mkdir", "/tmp/x"]}]);
    let answer = bundle.play();
    assert_eq!(answer.code, 1);
    assert!(answer.err.contains("startContainer"), "{}", answer.err);
    assert!(answer.err.contains("No space left"), "{}", answer.err);
    bundle.assert_gone();

    let rules = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}]);
    bundle.config["linux"]["seccomp"]["syscalls"] = rules;
    bundle.play().refused("bad system call");
}

/// A running agent, ended with the value.
struct Agent {
    child: Child,
    output: BufReader<ChildStdout>,
    socket: PathBuf,
}

impl Agent {
    fn new(directory: &Path, count: u32) -> Option<Self> {
        let (program, socket) = (directory.join("agent"), directory.join("agent.sock"));
        compiled("agent.c", &program)?;
        let mut child = Command::new(program)
            .arg(&socket)
            .arg(count.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("agent");
        let output = BufReader::new(child.stdout.take().expect("stdout"));
        let mut agent = Self {
            child,
            output,
            socket,
        };
        assert_eq!(agent.line(), "listening\n");
        Some(agent)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("line");
        line
    }

    fn state(&mut self) -> Value {
        serde_json::from_str(&self.line()).expect("state")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listening(socket: &Path) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": socket,
        "listenerMetadata": "for the agent",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    })
}

fn listener(host: &Host) {
    for no_new_privileges in [false, true] {
        let Some(mut agent) = Agent::new(&host.fresh("agent"), 2) else {
            return;
        };
        let script = "mkdir /tmp/a 2>/tmp/error; exec sleep 1000";
        let mut bundle = filtered(host, &["sh", "-c", script], listening(&agent.socket));
        bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.config["annotations"] = json!({"key": "value"});
        bundle.start();
        let sent = agent.state();
        assert_eq!(sent["fds"], json!(["seccompFd"]));
        assert_eq!(sent["metadata"], "for the agent");
        assert_eq!(sent["pid"], bundle.state()["pid"]);
        assert_eq!(sent["state"]["id"], bundle.id.as_str());
        assert_eq!(sent["state"]["annotations"]["key"], "value");
        schema::check("state-schema.json", &sent["state"]);

        let script = "while ! [ -s /tmp/error ]; do sleep 0.01; done; cat /tmp/error; \
                      mkdir /tmp/b 2>&1; ls -l /proc/self/fd | grep -c seccomp";
        let answer = bundle.run(&["exec", &bundle.id, "sh", "-c", script]);
        assert_eq!(
            answer.out,
            "mkdir: can't create directory '/tmp/a': No medium found\n\
             mkdir: can't create directory '/tmp/b': No medium found\n0\n"
        );
        let sent = agent.state();
        assert_eq!(sent["state"]["status"], "running");
        assert_ne!(sent["pid"], sent["state"]["pid"]);
    }
}

fn no_agent(host: &Host) {
    for path in ["/no/such/agent.sock", "@bulkhead-no-such-agent"] {
        let bundle = filtered(host, &["touch", "/ran"], listening(Path::new(path)));
        bundle
            .play()
            .refused("failed to connect with seccomp agent");
        assert!(!bundle.directory.join("rootfs/ran").exists());
        bundle.assert_gone();
    }
}

fn refused(host: &Host) {
    let notify = json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]);
    let write = json!([{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]);
    for (profile, part) in [
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": notify}),
            "linux.seccomp.listenerPath",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}),
            "SCMP_ACT_NOTIFY cannot be used as default action",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": write}),
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}),
            "linux.seccomp.architectures",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]}),
            "linux.seccomp.flags",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": "x", "action": "y"}]}),
            "linux.seccomp.syscalls[0].names",
        ),
    ] {
        let bundle = filtered(host, &["true"], profile);
        bundle.play().refused(part);
        bundle.assert_gone();
    }
}

/// The report must reach the runtime though the filter refuses to send.
fn failing_program(host: &Host) {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["sendmsg", "sendto", "recvmsg", "recvfrom"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        ],
    });
    let bundle = filtered(host, &["true"], profile);
    bundle.play().refused("no space left");
    bundle.assert_gone();
}
