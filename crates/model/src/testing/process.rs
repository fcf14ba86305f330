//! The workload: how it is started, what it is given, how it ends.

use std::thread;

use crate::capability::number;
use crate::{ErrorKind, TerminalSize};

use super::harness::{Running, finish, read_until, run, run_with_input, shell};
use super::{Fixture, Scenario};

pub(super) const SCENARIOS: &[(&str, Scenario)] = &[
    ("exit_code_is_the_workloads", exit_code),
    ("killed_by_sigkill_is_137", killed),
    ("sigterm_under_init_is_143", terminated),
    ("init_reaps_orphans", orphans),
    ("a_signal_reaches_the_workload", signalled),
    ("stdout_and_stderr_are_apart", streams),
    ("stdin_is_passed_on_and_closed", stdin),
    ("without_stdin_it_is_empty", no_stdin),
    ("terminal_has_size_and_resizes", terminal),
    ("control_c_ends_the_workload_of_a_terminal", control_c),
    ("environment_is_as_given_plus_home", environment),
    ("user_by_name_id_and_group", users),
    ("capabilities_are_added_and_dropped", capabilities),
    ("a_user_can_write_to_dev_stdout", dev_stdout),
    ("working_directory_is_made", working_directory),
    ("command_not_found_is_told_by_start", not_found),
    ("command_not_executable_is_told_by_start", not_executable),
    ("start_twice_is_a_conflict", start_twice),
    ("delete_twice_and_before_start", delete_twice),
    ("many_threads_wait_for_one_end", many_waiters),
    ("64_megabytes_of_output_arrive_whole", large_output),
];

fn capabilities(fixture: &dyn Fixture) {
    let effective = |add: &[&str], drop: &[&str]| {
        let mut spec = fixture.spec(&shell(
            "sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status",
        ));
        spec.security.capabilities_add = add.iter().map(|&name| name.to_owned()).collect();
        spec.security.capabilities_drop = drop.iter().map(|&name| name.to_owned()).collect();
        let output = run(fixture, &spec);
        u64::from_str_radix(output.text().trim(), 16).expect("a set of capabilities")
    };
    let has = |set: u64, name: &str| number(name).is_some_and(|number| set & (1 << number) != 0);
    let default = effective(&[], &[]);
    assert!(has(default, "CHOWN") && !has(default, "SYS_ADMIN"));
    let all_but_one = effective(&["ALL"], &["NET_RAW"]);
    assert!(has(all_but_one, "SYS_ADMIN") && !has(all_but_one, "NET_RAW"));
    assert_eq!(effective(&["CHOWN"], &["ALL"]).count_ones(), 1);
    assert_eq!(effective(&[], &["ALL"]), 0);
}

fn exit_code(fixture: &dyn Fixture) {
    for code in [0, 1, 42, 255] {
        let script = format!("exit {code}");
        let output = run(fixture, &fixture.spec(&shell(&script)));
        assert_eq!(output.status.code, code);
        assert!(!output.status.oom_killed);
    }
}

fn killed(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &fixture.spec(&["sleep", "1000"]));
    running.sandbox().signal(9).expect("kill");
    assert_eq!(running.sandbox().wait().expect("wait").code, 137);
    let error = running.sandbox().signal(9).expect_err("it has ended");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

fn terminated(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&["sleep", "1000"]);
    spec.security.init = true;
    let running = Running::start(fixture, &spec);
    running.sandbox().signal(15).expect("terminate");
    assert_eq!(running.sandbox().wait().expect("wait").code, 143);
}

fn orphans(fixture: &dyn Fixture) {
    // The grandchild's parent ends first; a zombie would still be in /proc when it has ended.
    let script = "sh -c 'sh -c \"echo \\$\\$ > /pid; sleep 0.1\" &' ; \
                  while ! [ -s /pid ]; do :; done; pid=$(cat /pid); \
                  i=0; while [ -d /proc/$pid ] && [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done; \
                  [ -d /proc/$pid ] && echo zombie || echo reaped";
    let mut spec = fixture.spec(&shell(script));
    spec.security.init = true;
    assert_eq!(run(fixture, &spec).text(), "reaped");
}

fn signalled(fixture: &dyn Fixture) {
    let script = "trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.05; done";
    let running = Running::start(fixture, &fixture.spec(&shell(script)));
    let mut io = running.io();
    read_until(&mut io.stdout, "ready\n");
    for none in [0, 65, -1] {
        let error = running.sandbox().signal(none).expect_err("no such signal");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    running.sandbox().signal(10).expect("signal");
    let output = finish(io, b"", || running.sandbox().wait().expect("wait"));
    assert_eq!((output.status.code, output.stdout.as_str()), (7, "got\n"));
}

fn streams(fixture: &dyn Fixture) {
    let output = run(fixture, &fixture.spec(&shell("echo out; echo err >&2")));
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn stdin(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&["cat"]);
    spec.process.stdin = true;
    let input: Vec<u8> = (0..200_000u32)
        .flat_map(|number| format!("{number}\n").into_bytes())
        .collect();
    let output = run_with_input(fixture, &spec, &input);
    assert_eq!(output.status.code, 0);
    assert!(
        output.stdout.as_bytes() == input,
        "{} bytes of {}",
        output.stdout.len(),
        input.len()
    );
}

fn no_stdin(fixture: &dyn Fixture) {
    assert_eq!(
        run(fixture, &fixture.spec(&shell("cat; echo end"))).text(),
        "end"
    );
}

fn terminal(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&shell(
        "tty; stty size; read line; stty size; echo \"<$line>\"",
    ));
    spec.process.stdin = true;
    spec.process.terminal = Some(TerminalSize {
        rows: 30,
        columns: 100,
    });
    let running = Running::start(fixture, &spec);
    let mut io = running.io();
    assert!(io.stderr.is_none());
    let first = read_until(&mut io.stdout, "30 100\r\n");
    assert!(first.starts_with("/dev/"), "{first}");
    running
        .sandbox()
        .resize(TerminalSize {
            rows: 50,
            columns: 120,
        })
        .expect("resize");
    let output = finish(io, b"hello\n", || running.sandbox().wait().expect("wait"));
    assert_eq!(output.status.code, 0);
    assert!(
        output.stdout.contains("50 120\r\n<hello>\r\n"),
        "{output:?}"
    );
}

fn control_c(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&shell("echo ready; exec sleep 1000"));
    spec.process.stdin = true;
    spec.process.terminal = Some(TerminalSize::default());
    // A process 1 without a handler would ignore the signal.
    spec.security.init = true;
    let running = Running::start(fixture, &spec);
    let mut io = running.io();
    read_until(&mut io.stdout, "ready\r\n");
    let output = finish(io, b"\x03", || running.sandbox().wait().expect("wait"));
    assert_eq!(output.status.code, 130, "{output:?}");
}

fn environment(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&["env"]);
    spec.process.env = vec!["PATH=/bin".into(), "A=b c=d".into(), "EMPTY=".into()];
    let output = run(fixture, &spec);
    let mut lines: Vec<&str> = output.text().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b c=d", "EMPTY=", "HOME=/root", "PATH=/bin"]);
    spec = fixture.spec(&shell("echo $HOME"));
    spec.process.env.push("HOME=/elsewhere".into());
    assert_eq!(run(fixture, &spec).text(), "/elsewhere");
}

fn users(fixture: &dyn Fixture) {
    for (user, expected) in [
        ("", "0:0:0 /root"),
        ("web", "1000:1001:1001 1002 /home/web"),
        ("1000", "1000:1001:1001 1002 /home/web"),
        ("web:staff", "1000:50:50 /home/web"),
        ("4242", "4242:0:0 /"),
        ("4242:4343", "4242:4343:4343 /"),
    ] {
        let mut spec = fixture.spec(&shell("echo $(id -u):$(id -g):$(id -G) $HOME"));
        spec.process.user = user.into();
        assert_eq!(run(fixture, &spec).text(), expected, "user '{user}'");
    }
    let mut spec = fixture.spec(&["true"]);
    spec.process.user = "nobody-of-that-name".into();
    let made = fixture.backend().create(&spec, Vec::new());
    let failed = made.and_then(|sandbox| {
        let started = sandbox.start();
        sandbox.delete().and(started)
    });
    let error = failed.expect_err("no such user");
    assert!(error.to_string().contains("nobody-of-that-name"), "{error}");
}

fn dev_stdout(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&shell("echo out > /dev/stdout; echo err > /dev/stderr"));
    spec.process.user = "web".into();
    let output = run(fixture, &spec);
    assert_eq!(output.text(), "out", "{output:?}");
    assert_eq!(output.stderr, "err\n");
}

fn working_directory(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&["pwd"]);
    spec.process.cwd = "/made/for/this".into();
    assert_eq!(run(fixture, &spec).text(), "/made/for/this");
}

fn not_found(fixture: &dyn Fixture) {
    for program in ["no-such-program", "/bin/no-such-program"] {
        let running = Running::create(fixture, &fixture.spec(&[program]));
        let error = running
            .start_workload()
            .expect_err("there is no such program");
        assert_eq!(error.kind(), ErrorKind::CommandNotFound, "{error}");
        assert!(error.to_string().contains(program), "{error}");
    }
}

fn not_executable(fixture: &dyn Fixture) {
    for program in ["/etc/passwd", "/etc"] {
        let running = Running::create(fixture, &fixture.spec(&[program]));
        let error = running.start_workload().expect_err("it cannot be executed");
        assert_eq!(error.kind(), ErrorKind::CommandNotExecutable, "{error}");
    }
}

fn start_twice(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &fixture.spec(&["sleep", "1000"]));
    let error = running.start_workload().expect_err("started already");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

fn delete_twice(fixture: &dyn Fixture) {
    let running = Running::create(fixture, &fixture.spec(&["true"]));
    running.sandbox().delete().expect("delete before start");
    running.sandbox().delete().expect("delete again");
    let running = Running::start(fixture, &fixture.spec(&["sleep", "1000"]));
    running.sandbox().delete().expect("delete while it runs");
    assert_eq!(running.sandbox().wait().expect("wait").code, 137);
    running.sandbox().delete().expect("delete again");
}

fn many_waiters(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &fixture.spec(&shell("sleep 0.2; exit 3")));
    let wait = || running.sandbox().wait().expect("wait").code;
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..8).map(|_| scope.spawn(wait)).collect();
        for waiter in waiters {
            assert_eq!(waiter.join().expect("waiter"), 3);
        }
    });
    assert_eq!(wait(), 3);
}

fn large_output(fixture: &dyn Fixture) {
    const MEGABYTES: usize = 64;
    let script = format!(
        "dd if=/dev/zero bs=1048576 count={MEGABYTES} 2>/dev/null | tr '\\0' x; echo end >&2"
    );
    let output = run(fixture, &fixture.spec(&shell(&script)));
    assert_eq!(output.status.code, 0);
    assert_eq!(output.stdout.len(), MEGABYTES << 20);
    assert!(output.stdout.bytes().all(|byte| byte == b'x'));
    assert_eq!(output.stderr, "end\n");
}
