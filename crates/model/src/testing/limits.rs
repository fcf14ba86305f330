//! Limits, readings, pause.

use crate::{ByteSize, ErrorKind, Resources, Ulimit};

use super::harness::{Running, process, read_until, run, shell};
use super::{Fixture, Scenario, skip};

pub(super) const SCENARIOS: &[(&str, Scenario)] = &[
    ("out_of_memory_is_137_and_told", out_of_memory),
    ("limits_of_processes_and_cpu_are_taken", pids_and_cpu),
    ("ulimits_are_set", ulimits),
    ("stats_tell_what_is_used", stats),
    ("a_paused_sandbox_stands_still", pause),
    ("a_paused_sandbox_can_be_deleted", delete_paused),
    (
        "pause_and_exec_of_a_paused_sandbox_conflict",
        paused_conflicts,
    ),
    ("limits_are_changed_while_it_runs", update),
];

fn out_of_memory(fixture: &dyn Fixture) {
    // Memory of the process itself: dd has its whole block in memory.
    let mut spec = fixture.spec(&["dd", "if=/dev/zero", "of=/dev/null", "bs=1024M", "count=1"]);
    spec.resources.memory = Some(ByteSize::from_mib(128));
    spec.resources.memory_swap = Some(ByteSize::from_mib(128));
    let output = run(fixture, &spec);
    assert_eq!(output.status.code, 137, "{output:?}");
    assert!(output.status.oom_killed, "{output:?}");
}

fn pids_and_cpu(fixture: &dyn Fixture) {
    let script = "i=0; while [ $i -lt 30 ]; do sleep 3 & i=$((i+1)); done; echo all";
    let mut spec = fixture.spec(&shell(script));
    spec.resources.cpu_millis = Some(1000);
    spec.resources.pids = Some(10);
    let output = run(fixture, &spec);
    assert!(!output.stdout.contains("all"), "{output:?}");
    spec = fixture.spec(&shell("sleep 0 & wait; echo all"));
    spec.resources.pids = Some(10);
    assert_eq!(run(fixture, &spec).text(), "all");
}

fn ulimits(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&shell("ulimit -S -n; ulimit -H -n"));
    spec.resources.ulimits = vec![Ulimit {
        name: "nofile".into(),
        soft: 123,
        hard: 456,
    }];
    assert_eq!(run(fixture, &spec).text(), "123\n456");
}

fn stats(fixture: &dyn Fixture) {
    let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; sleep 1000";
    let mut spec = fixture.spec(&shell(script));
    spec.resources.memory = Some(ByteSize::from_mib(128));
    let running = Running::start(fixture, &spec);
    let Some(source) = running.sandbox().stats() else {
        return skip("this kind has no readings");
    };
    read_until(&mut running.io().stdout, "done\n");
    let stats = source.read().expect("stats");
    assert!(!stats.cpu.is_zero(), "{stats:?}");
    assert!(stats.memory.bytes() > 0, "{stats:?}");
    assert!(stats.memory_limit.is_some(), "{stats:?}");
    assert!(stats.pids > 0, "{stats:?}");
}

fn pause(fixture: &dyn Fixture) {
    let script =
        "i=0; while :; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; echo $i; done";
    let running = Running::start(fixture, &fixture.spec(&shell(script)));
    let Some(pause) = running.sandbox().pause() else {
        return skip("this kind cannot pause");
    };
    let Some(source) = running.sandbox().stats() else {
        return skip("this kind has no readings");
    };
    let mut io = running.io();
    read_until(&mut io.stdout, "10\n");
    pause.pause().expect("pause");
    let before = source.read().expect("stats").cpu;
    std::thread::sleep(std::time::Duration::from_millis(200));
    let after = source.read().expect("stats").cpu;
    // A monitor does a little of its own; a loop that runs would use it all.
    assert!(
        after - before < std::time::Duration::from_millis(100),
        "{before:?} {after:?}"
    );
    pause.resume().expect("resume");
    let reader = std::thread::spawn(move || read_until(&mut io.stdout, "500\n"));
    reader.join().expect("it goes on");
    drop(running);
}

fn delete_paused(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &fixture.spec(&["sleep", "1000"]));
    let Some(pause) = running.sandbox().pause() else {
        return skip("this kind cannot pause");
    };
    pause.pause().expect("pause");
    running.sandbox().delete().expect("delete");
}

fn paused_conflicts(fixture: &dyn Fixture) {
    let running = Running::start(fixture, &fixture.spec(&["sleep", "1000"]));
    let Some(pause) = running.sandbox().pause() else {
        return skip("this kind cannot pause");
    };
    let kind = |result: crate::Result<()>| result.expect_err("it must be refused").kind();
    assert_eq!(kind(pause.resume()), ErrorKind::Conflict);
    pause.pause().expect("pause");
    assert_eq!(kind(pause.pause()), ErrorKind::Conflict);
    let exec = running.sandbox().exec().expect("exec");
    let result = exec.exec(&process(&["true"]));
    assert_eq!(kind(result.map(drop)), ErrorKind::Conflict);
    pause.resume().expect("resume");
    assert_eq!(running.exec(&process(&["echo", "alive"])).text(), "alive");
}

fn update(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&["sleep", "1000"]);
    spec.resources.memory = Some(ByteSize::from_mib(256));
    let running = Running::start(fixture, &spec);
    let Some(update) = running.sandbox().update() else {
        return skip("this kind cannot change limits");
    };
    let resources = Resources {
        memory: Some(ByteSize::from_mib(192)),
        cpu_millis: Some(500),
        pids: Some(64),
        ..Resources::default()
    };
    update.update(&resources).expect("update");
    if let Some(source) = running.sandbox().stats() {
        let limit = source.read().expect("stats").memory_limit;
        assert_eq!(limit, Some(ByteSize::from_mib(192)));
    }
    assert_eq!(running.exec(&process(&["echo", "alive"])).text(), "alive");
}
