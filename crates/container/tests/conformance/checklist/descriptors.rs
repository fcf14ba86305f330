//! CVE-2024-21626: descriptors of the caller and of the runtime, and the way out through them.

use std::process::Stdio;

use serde_json::json;

use crate::bundle::{Answer, Bundle, ConsoleSocket};
use crate::support::Host;

/// Descriptors that the caller leaves open over exec: the host's root, at each of these numbers.
const LEFT_OPEN: std::ops::Range<i32> = 3..24;

/// The command line with these arguments, called by a careless program.
fn careless(bundle: &Bundle, arguments: &str) -> Answer {
    let opened: String = LEFT_OPEN.map(|number| format!("{number}</ ")).collect();
    let script = format!(
        "exec {opened}; exec {} oci --root {} {arguments}",
        std::env::current_exe().expect("program").display(),
        bundle.root.display()
    );
    // A shell that takes numbers of two digits.
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &script]).current_dir(&bundle.directory);
    let log = std::fs::File::create(bundle.directory.join("stderr")).expect("file");
    let out = std::fs::File::create(bundle.directory.join("stdout")).expect("file");
    let status = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(log)
        .status()
        .expect("bash");
    let read = |name| std::fs::read_to_string(bundle.directory.join(name)).expect("output");
    Answer {
        code: status.code().unwrap_or(-1),
        out: read("stdout"),
        err: read("stderr"),
    }
}

pub fn working_directory(host: &Host) {
    // Something that is at the host's root and not at the container's.
    let script =
        "ls -d proc/1/root/.. ../../boot ../../lost+found boot usr/lib var 2>/dev/null; pwd";
    let mut bundle = Bundle::new(host, &["sh", "-c", script]);
    for number in 0..30 {
        for link in ["/proc/self/fd", "/proc/thread-self/fd", "/proc/1/fd"] {
            // One after the other, as each takes a whole start.
            if link != "/proc/self/fd" && number % 6 != 3 {
                continue;
            }
            bundle.config["process"]["cwd"] = json!(format!("{link}/{number}"));
            bundle.write();
            let answer = careless(&bundle, &format!("run {}", bundle.id));
            assert_ne!(answer.code, 0, "{link}/{number}: {}", answer.out);
            assert_eq!(answer.out, "", "{link}/{number}: it ran");
            bundle.assert_gone();
        }
    }
    let mut running = Bundle::new(host, &["sleep", "1000"]);
    running.config["process"]["cwd"] = json!("/");
    running.start();
    for number in 0..30 {
        let cwd = format!("/proc/self/fd/{number}");
        let answer = careless(&running, &format!("exec --cwd {cwd} {} pwd", running.id));
        assert_eq!((answer.code, answer.out.as_str()), (255, ""), "{cwd}");
    }
}

/// What `ls` lists: three streams, and the directory that it reads.
const THREE: &str = "0\n1\n2\n";

pub fn of_the_workload(host: &Host) {
    // By `run`, by `create` and `start`, with a terminal and without.
    let list = |bundle: &Bundle| {
        let answer = careless(bundle, &format!("exec {} ls /proc/1/fd", bundle.id));
        assert_eq!(answer.output(), THREE);
        let answer = careless(bundle, &format!("exec {} ls /proc/self/fd", bundle.id));
        assert_eq!(answer.output(), "0\n1\n2\n3\n");
    };
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.write();
    let answer = careless(&bundle, &format!("run --detach {}", bundle.id));
    assert_eq!(answer.code, 0, "{}", answer.err);
    list(&bundle);

    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.write();
    let answer = careless(&bundle, &format!("create {}", bundle.id));
    assert_eq!(answer.code, 0, "{}", answer.err);
    bundle.run(&["start", &bundle.id]).output();
    list(&bundle);

    let mut bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.config["process"]["terminal"] = json!(true);
    bundle.write();
    let socket = ConsoleSocket::new(&bundle.directory);
    let path = socket.path.to_str().expect("path");
    let answer = careless(
        &bundle,
        &format!("create --console-socket {path} {}", bundle.id),
    );
    assert_eq!(answer.code, 0, "{}", answer.err);
    let _terminal = socket.receive();
    bundle.run(&["start", &bundle.id]).output();
    list(&bundle);
    // An exec with a terminal of its own.
    let exec = format!(
        "exec --detach --tty --pid-file pid --console-socket {path} {} sleep 500",
        bundle.id
    );
    assert_eq!(careless(&bundle, &exec).code, 0);
    let _other = socket.receive();
    let find = "for p in /proc/[0-9]*; do grep -q 500 $p/cmdline && ls $p/fd && exit; done";
    let found = bundle.run(&["exec", &bundle.id, "sh", "-c", find]);
    assert_eq!(found.output(), THREE);
}
