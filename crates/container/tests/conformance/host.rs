//! What a container leaves on the host: nothing, however it ends.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use bulkhead_model::testing::{Fixture, Running, run};
use bulkhead_model::{Backend, Mount, MountSource, SandboxSpec, TerminalSize};

use crate::isolation::refused;
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("nothing_is_left_after_delete", after_delete),
    (
        "nothing_is_left_after_delete_while_execs_run",
        after_delete_with_execs,
    ),
    ("nothing_is_left_after_a_failed_create", after_failed_create),
    (
        "containers_die_with_the_process_that_made_them",
        dies_with_parent,
    ),
    ("many_containers_at_once", many),
    ("isolation_holds_on_cgroup_v2_too", on_v2),
    ("a_group_that_a_crash_left_is_made_anew", stale_group),
];

fn after_delete(host: &Host) {
    let mut spec = host.spec(&["sh", "-c", "sleep 1000 & exit 0"]);
    spec.mounts.push(Mount {
        target: "/data".into(),
        source: MountSource::Bind(host.directory()),
        read_only: false,
    });
    run(host, &spec);
    host.assert_no_trace(&spec);
}

fn after_delete_with_execs(host: &Host) {
    let spec = host.spec(&["sleep", "1000"]);
    let running = Running::start(host, &spec);
    let process = bulkhead_model::ProcessSpec {
        args: vec!["/bin/sleep".into(), "1000".into()],
        cwd: "/".into(),
        ..Default::default()
    };
    let (first, _io) = running.exec_started(&process);
    let (second, _io) = running.exec_started(&process);
    running.sandbox().delete().expect("delete");
    assert_eq!(first.wait().expect("wait").code, 137);
    assert_eq!(second.wait().expect("wait").code, 137);
    host.assert_no_trace(&spec);
}

fn after_failed_create(host: &Host) {
    let bind = |target: &str, source: &Path| Mount {
        target: target.into(),
        source: MountSource::Bind(source.to_owned()),
        read_only: false,
    };
    let mut missing = host.spec(&["true"]);
    missing
        .mounts
        .push(bind("/data", Path::new("/no/such/directory")));
    let error = refused(host, &missing);
    assert!(error.to_string().contains("/no/such/directory"), "{error}");

    let mut mismatch = host.spec(&["true"]);
    mismatch.mounts.push(bind("/etc/passwd", &host.directory()));
    assert!(refused(host, &mismatch).to_string().contains("/etc/passwd"));

    let mut layer = host.spec(&["true"]);
    layer.root.layers.push("/no/such/layer".into());
    refused(host, &layer);

    let mut user = host.spec(&["true"]);
    user.process.user = "nobody-of-that-name".into();
    user.process.terminal = Some(TerminalSize::default());
    refused(host, &user);

    // Too little to live on: the process is killed while it is set up.
    let mut memory = host.spec(&["true"]);
    memory.resources.memory = Some(bulkhead_model::ByteSize(8192));
    refused(host, &memory);
}

fn dies_with_parent(host: &Host) {
    let spec = host.spec(&["sleep", "1000"]);
    let file = host.fresh("hold").join("spec.json");
    fs::write(&file, serde_json::to_vec(&spec).expect("JSON")).expect("file");
    let mut holder = Command::new("/proc/self/exe")
        .arg("hold")
        .arg(&file)
        .arg(crate::support::cgroup_parent())
        .stdout(Stdio::piped())
        .spawn()
        .expect("holder");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("stdout"))
        .read_line(&mut line)
        .expect("line");
    let pid: u32 = line.trim().parse().expect("the container's process");
    let process = Path::new("/proc").join(pid.to_string());
    assert!(is_alive(&process));
    holder.kill().expect("kill");
    holder.wait().expect("wait");
    while is_alive(&process) {
        std::thread::yield_now();
    }
    host.container_backend()
        .remove_leftovers(&spec)
        .expect("remove leftovers");
    host.container_backend()
        .remove_leftovers(&spec)
        .expect("again");
    host.assert_no_trace(&spec);
}

/// Whether a process is there and no zombie (whoever adopts it here may never reap it).
fn is_alive(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// Entry of the process that [`dies_with_parent`] kills: it makes a container and stays.
pub fn hold(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(file), Some(parent)) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    let text = fs::read(file).expect("file");
    let spec: SandboxSpec = serde_json::from_slice(&text).expect("JSON");
    let helper = bulkhead_container::Helper {
        program: "/proc/self/exe".into(),
        arguments: vec!["container-init".into()],
    };
    let backend = bulkhead_container::ContainerBackend::new(helper)
        .with_cgroup_parent(parent.to_string_lossy());
    let sandbox = backend.create(&spec, Vec::new()).expect("create");
    sandbox.start().expect("start");
    println!("{}", sandbox.pid());
    std::io::stdout().flush().expect("flush");
    sandbox.wait().expect("wait");
    ExitCode::SUCCESS
}

fn many(host: &Host) {
    std::thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || {
                let script = format!("echo {number}; exit {number}");
                let spec = host.spec(&["sh", "-c", &script]);
                let output = run(host, &spec);
                assert_eq!(
                    (output.status.code, output.stdout),
                    (number, format!("{number}\n"))
                );
                host.assert_no_trace(&spec);
            });
        }
    });
}

fn stale_group(host: &Host) {
    let spec = host.spec(&["true"]);
    let parent = crate::support::cgroup_parent();
    let group = bulkhead_container::cgroup::Cgroup::create(&parent, &spec.id, &spec.resources)
        .expect("group");
    let mut process = Command::new("sleep").arg("1000").spawn().expect("sleep");
    group.add_process(process.id()).expect("add");
    assert!(group.exists());
    run(host, &spec);
    process.wait().expect("it was killed with its group");
    host.assert_no_trace(&spec);
}

/// Runs the scenarios of isolation again where nothing but v2 is mounted. Its controllers are
/// with v1 on a hybrid host, so that those of limits cannot be.
fn on_v2(_: &Host) {
    if let Ok(bulkhead_container::cgroup::Layout::Unified(_)) = bulkhead_container::cgroup::probe()
    {
        eprintln!("skipped: this host has cgroup v2 alone, all scenarios run on it");
        return;
    }
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && \
                  exec \"$0\" isolation::";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(std::env::current_exe().expect("path"))
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("isolation::devices_of_the_host_cannot_be_opened"),
        "{text}"
    );
}
