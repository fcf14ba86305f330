//! More processes in a running sandbox.

use std::thread;

use crate::{ErrorKind, SandboxSpec, TerminalSize};

use super::harness::{Running, finish, process, read_until, shell};
use super::{Fixture, Scenario};

pub(super) const SCENARIOS: &[(&str, Scenario)] = &[
    ("exec_has_exit_code_and_streams_of_its_own", exit_code),
    ("exec_has_user_environment_and_directory", identity),
    ("exec_passes_stdin_on", stdin),
    ("exec_has_a_terminal", terminal),
    ("exec_sees_the_workloads_processes_and_files", shared),
    ("many_execs_at_once", many),
    ("one_exec_is_killed_and_the_rest_goes_on", kill_one),
    ("exec_command_not_found", not_found),
    ("exec_command_not_executable", not_executable),
    ("exec_after_the_end_is_a_conflict", after_end),
];

fn sleeper(fixture: &dyn Fixture) -> SandboxSpec {
    fixture.spec(&["sleep", "1000"])
}

fn exit_code(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &sleeper(fixture));
    let output = running.exec(&process(&shell("echo out; echo err >&2; exit 9")));
    assert_eq!(output.status.code, 9);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn identity(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &sleeper(fixture));
    let mut spec = process(&shell("echo $(id -u):$(id -g) $HOME $MARK $(pwd)"));
    spec.user = "web".into();
    spec.env.push("MARK=x".into());
    spec.cwd = "/etc".into();
    assert_eq!(running.exec(&spec).text(), "1000:1001 /home/web x /etc");
}

fn stdin(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &sleeper(fixture));
    let mut spec = process(&["wc", "-c"]);
    spec.stdin = true;
    let (process, io) = running.exec_started(&spec);
    let input = vec![b'x'; 300_000];
    let output = finish(io, &input, || process.wait().expect("wait"));
    assert_eq!(output.text(), "300000");
}

fn terminal(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &sleeper(fixture));
    let mut spec = process(&shell("stty size; read line; stty size; exit 5"));
    spec.stdin = true;
    spec.terminal = Some(TerminalSize {
        rows: 11,
        columns: 22,
    });
    let (process, mut io) = running.exec_started(&spec);
    read_until(&mut io.stdout, "11 22\r\n");
    process
        .resize(TerminalSize {
            rows: 33,
            columns: 44,
        })
        .expect("resize");
    let output = finish(io, b"\n", || process.wait().expect("wait"));
    assert_eq!(output.status.code, 5);
    assert!(output.stdout.contains("33 44\r\n"), "{output:?}");
}

fn shared(fixture: &dyn Fixture) {
    let script = "echo here > /mark; exec sleep 1000";
    let running = Running::start(fixture, &fixture.spec(&shell(script)));
    let script = "i=0; until cat /proc/[0-9]*/comm | grep -q '^sleep$' || [ $i = 200 ]; \
                  do i=$((i+1)); done; [ $i = 200 ] || cat /mark";
    assert_eq!(running.exec(&process(&shell(script))).text(), "here");
}

fn many(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &sleeper(fixture));
    thread::scope(|scope| {
        for number in 0..8 {
            let running = &running;
            scope.spawn(move || {
                let script = format!("sleep 0.1; echo {number}; exit {number}");
                let output = running.exec(&process(&shell(&script)));
                assert_eq!(
                    (output.status.code, output.stdout),
                    (number, format!("{number}\n"))
                );
            });
        }
    });
}

fn kill_one(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &sleeper(fixture));
    let (killed, _killed_io) = running.exec_started(&process(&["sleep", "1000"]));
    let (terminated, _terminated_io) = running.exec_started(&process(&["sleep", "1000"]));
    killed.signal(9).expect("kill");
    assert_eq!(killed.wait().expect("wait").code, 137);
    assert_eq!(running.exec(&process(&["echo", "alive"])).text(), "alive");
    terminated.signal(15).expect("terminate");
    assert_eq!(terminated.wait().expect("wait").code, 143);
}

fn exec_error(fixture: &dyn Fixture, program: &str) -> ErrorKind {
    let running = Running::start(fixture, &sleeper(fixture));
    let exec = running.sandbox().exec().expect("exec");
    match exec.exec(&process(&[program])) {
        Ok(_) => panic!("{program} ran"),
        Err(error) => error.kind(),
    }
}

fn not_found(fixture: &dyn Fixture) {
    assert_eq!(
        exec_error(fixture, "no-such-program"),
        ErrorKind::CommandNotFound
    );
}

fn not_executable(fixture: &dyn Fixture) {
    assert_eq!(
        exec_error(fixture, "/etc/passwd"),
        ErrorKind::CommandNotExecutable
    );
}

fn after_end(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &fixture.spec(&["true"]));
    running.sandbox().wait().expect("wait");
    let exec = running.sandbox().exec().expect("exec");
    match exec.exec(&process(&["true"])) {
        Ok(_) => panic!("it ran in a sandbox that has ended"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
    }
}
