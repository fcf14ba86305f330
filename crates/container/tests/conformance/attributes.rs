//! The attributes of a process: scheduling, memory, limits, environment, labels; for `run` and
//! for `exec`.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("the_scheduler_is_set", scheduler),
    ("the_io_priority_is_set", io_priority),
    ("the_personality_is_set", personality),
    ("the_memory_policy_is_set", memory_policy),
    ("every_limit_is_set", limits),
    ("a_variable_is_there_once", environment),
    ("what_cannot_be_granted_is_told_and_left_out", capabilities),
    ("exec_has_the_cpus_that_it_is_given", exec_affinity),
    ("the_callers_cpus_are_not_inherited", affinity),
    ("exec_takes_after_the_container", exec),
    (
        "cve_2022_27650_exec_makes_no_capability_inheritable",
        exec_capabilities,
    ),
    ("network_devices_are_moved", network_devices),
    ("labels_are_refused_where_the_host_has_none", labels),
    ("attributes_that_make_no_sense_name_their_field", refused),
];

/// The number in a field of `/proc/PID/stat` (proc(5)).
fn stat_field(stat: &str, number: usize) -> i64 {
    let (_, rest) = stat.rsplit_once(") ").expect("stat");
    let field = rest.split_whitespace().nth(number - 3).expect("field");
    field.parse().expect("number")
}

fn scheduler(host: &Host) {
    for (scheduler, policy, nice, priority) in [
        (json!({"policy": "SCHED_BATCH", "nice": 7}), 3, 7, 0),
        (json!({"policy": "SCHED_OTHER", "nice": 3}), 0, 3, 0),
        (json!({"policy": "SCHED_IDLE"}), 5, 0, 0),
        (
            json!({"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"],
                   "runtime": 42000, "deadline": 1_000_000, "period": 1_000_000}),
            6,
            0,
            0,
        ),
    ] {
        let mut bundle = Bundle::new(host, &["cat", "/proc/self/stat"]);
        bundle.config["process"]["scheduler"] = scheduler.clone();
        let stat = bundle.play().output();
        assert_eq!(stat_field(&stat, 41), policy, "{scheduler}");
        assert_eq!(stat_field(&stat, 40), priority, "{scheduler}");
        // The others have none of their own.
        if matches!(policy, 0 | 3) {
            assert_eq!(stat_field(&stat, 19), nice, "{scheduler}");
        }
    }
    let mut bundle = Bundle::new(host, &["true"]);
    bundle.config["process"]["scheduler"] =
        json!({"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 4, "period": 3});
    bundle.play().refused("process.scheduler");
    bundle.assert_gone();
}

fn io_priority(host: &Host) {
    for (priority, expected) in [
        (
            json!({"class": "IOPRIO_CLASS_BE", "priority": 4}),
            "best-effort: prio 4",
        ),
        (
            json!({"class": "IOPRIO_CLASS_RT", "priority": 2}),
            "realtime: prio 2",
        ),
        (json!({"class": "IOPRIO_CLASS_IDLE"}), "idle"),
    ] {
        let mut bundle = Bundle::new(host, &["ionice"]);
        bundle.config["process"]["ioPriority"] = priority;
        let out = bundle.play().output();
        assert!(out.starts_with(expected), "{out}");
    }
}

fn personality(host: &Host) {
    for (domain, machine) in [("LINUX32", "i686\n"), ("LINUX", "x86_64\n")] {
        let mut bundle = Bundle::new(host, &["uname", "-m"]);
        bundle.config["linux"]["personality"] = json!({"domain": domain});
        // The call is made before the filter forbids it.
        bundle.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ERRNO"}],
        });
        assert_eq!(bundle.play().output(), machine);
    }
}

fn memory_policy(host: &Host) {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        eprintln!("skipped: this kernel has no memory policies");
        return;
    }
    for (policy, expected) in [
        (
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}),
            "interleave:0",
        ),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
            "bind=static:0",
        ),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
    ] {
        let mut bundle = Bundle::new(host, &["head", "-n", "1", "/proc/self/numa_maps"]);
        bundle.config["linux"]["memoryPolicy"] = policy;
        let out = bundle.play().output();
        assert_eq!(out.split_whitespace().nth(1), Some(expected), "{out}");
    }
    let mut bundle = Bundle::new(host, &["true"]);
    bundle.config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "1000"});
    bundle.play().refused("linux.memoryPolicy");
    bundle.assert_gone();
}

fn limits(host: &Host) {
    // As /proc/PID/limits names and counts them.
    let expected = [
        ("RLIMIT_CPU", "Max cpu time", 1000),
        ("RLIMIT_FSIZE", "Max file size", 1_000_000),
        ("RLIMIT_DATA", "Max data size", 100_000_000),
        ("RLIMIT_STACK", "Max stack size", 4_000_000),
        ("RLIMIT_CORE", "Max core file size", 10),
        ("RLIMIT_RSS", "Max resident set", 100_000_000),
        ("RLIMIT_NPROC", "Max processes", 500),
        ("RLIMIT_NOFILE", "Max open files", 100),
        ("RLIMIT_MEMLOCK", "Max locked memory", 65536),
        ("RLIMIT_AS", "Max address space", 1_000_000_000),
        ("RLIMIT_LOCKS", "Max file locks", 50),
        ("RLIMIT_SIGPENDING", "Max pending signals", 60),
        ("RLIMIT_MSGQUEUE", "Max msgqueue size", 70),
        // Nobody has to have a right to raise these.
        ("RLIMIT_NICE", "Max nice priority", 0),
        ("RLIMIT_RTPRIO", "Max realtime priority", 0),
        ("RLIMIT_RTTIME", "Max realtime timeout", 80),
    ];
    let hard = |soft: u64| if soft == 0 { 0 } else { soft + 1 };
    let mut bundle = Bundle::new(host, &["cat", "/proc/self/limits"]);
    let limits =
        expected.map(|(kind, _, soft)| json!({"type": kind, "soft": soft, "hard": hard(soft)}));
    bundle.config["process"]["rlimits"] = json!(limits);
    let out = bundle.play().output();
    for (kind, name, soft) in expected {
        let line = out.lines().find_map(|line| line.strip_prefix(name));
        let values: Vec<&str> = line.expect(kind).split_whitespace().collect();
        assert_eq!(values[0], soft.to_string(), "{kind}");
        assert_eq!(values[1], hard(soft).to_string(), "{kind}");
    }
    let maximum = fs::read_to_string("/proc/sys/fs/nr_open").expect("nr_open");
    let above = maximum.trim().parse::<u64>().expect("number") + 1;
    bundle.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": above, "hard": above}]);
    bundle.play().refused("nr_open");
    bundle.assert_gone();
}

fn environment(host: &Host) {
    let mut bundle = Bundle::new(host, &["env"]);
    bundle.config["process"]["env"] =
        json!(["A=1", "HOME=/x", "PATH=/bin", "A=2", "B=a=b", "HOME="]);
    assert_eq!(
        bundle.play().output(),
        "PATH=/bin\nA=2\nB=a=b\nHOME=/root\n"
    );
}

fn capabilities(host: &Host) {
    let script = "grep -E 'CapBnd|CapAmb' /proc/self/status";
    let mut bundle = Bundle::new(host, &["sh", "-c", script]);
    bundle.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_UNKNOWN"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL", "CAP_CHOWN"],
    });
    let answer = bundle.play();
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(
        answer.out,
        "CapBnd:\t0000000000000021\nCapAmb:\t0000000000000020\n"
    );
    for part in ["CAP_UNKNOWN", "can't raise ambient capability CAP_CHOWN: "] {
        assert!(answer.err.contains(part), "{}", answer.err);
    }
}

/// How many CPUs there are for the tests of affinity, or a skip.
fn has_two_cpus() -> bool {
    let enough = std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
    if !enough {
        eprintln!("skipped: this host has one CPU");
    }
    enough
}

const CPUS: &str = "Cpus_allowed_list:\t";

fn allowed(status: &str) -> &str {
    let line = status.lines().find_map(|line| line.strip_prefix(CPUS));
    line.expect("Cpus_allowed_list")
}

fn exec_affinity(host: &Host) {
    if !has_two_cpus() {
        return;
    }
    let all = fs::read_to_string("/proc/self/status").expect("status");
    let all = allowed(&all).to_owned();
    let mut bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
    bundle.start();
    let out = bundle
        .run(&["exec", &bundle.id, "cat", "/proc/self/status"])
        .output();
    assert_eq!(allowed(&out), "1");
    for (affinity, expected) in [
        (json!({"final": "0"}), "0"),
        (json!({"initial": "1", "final": "0-1"}), "0-1"),
        (json!({}), all.as_str()),
        (Value::Null, all.as_str()),
    ] {
        let path = bundle.directory.join("process.json");
        let process = json!({
            "args": ["/bin/cat", "/proc/self/status"], "cwd": "/", "execCPUAffinity": affinity,
        });
        fs::write(&path, process.to_string()).expect("process");
        let path = path.to_str().expect("path");
        let out = bundle
            .run(&["exec", "--process", path, &bundle.id])
            .output();
        assert_eq!(allowed(&out), expected, "{affinity}");
    }
}

fn affinity(host: &Host) {
    if !has_two_cpus() {
        return;
    }
    let all = fs::read_to_string("/proc/self/status").expect("status");
    let bundle = Bundle::new(host, &["cat", "/proc/self/status"]);
    bundle.write();
    let plain = bundle.command(&["run", &bundle.id]);
    let mut command = Command::new("taskset");
    command
        .args(["-c", "0"])
        // The child is taskset, whose /proc/self/exe is another.
        .arg(std::env::current_exe().expect("path"))
        .args(plain.get_args())
        .current_dir(&bundle.directory)
        .stdin(Stdio::null());
    let Ok(output) = command.output() else {
        eprintln!("skipped: there is no taskset");
        return;
    };
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}");
    assert_eq!(allowed(&out), allowed(&all));
}

fn exec(host: &Host) {
    let mut bundle = Bundle::new(host, &["sleep", "1000"]);
    let process = &mut bundle.config["process"];
    process["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 2});
    process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    process["user"] = json!({"uid": 0, "gid": 0, "umask": 0o77});
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    bundle.start();
    let out = bundle
        .run(&[
            "exec",
            &bundle.id,
            "sh",
            "-c",
            "umask; uname -m; ionice; cat /proc/self/stat",
        ])
        .output();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["0077", "i686"]);
    assert!(lines[2].starts_with("best-effort: prio 6"), "{out}");
    assert_eq!(stat_field(lines[3], 41), 3);

    // Of a process that is given, what is the container's stays.
    let path = bundle.directory.join("process.json");
    let process = json!({
        "args": ["/bin/sh", "-c", "/bin/env; umask; uname -m; ionice"], "cwd": "/tmp",
        "env": ["FOO=bar", "PATH=/bin"], "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
    });
    fs::write(&path, process.to_string()).expect("process");
    let path = path.to_str().expect("path");
    let out = bundle.run(&["exec", "-p", path, &bundle.id]).output();
    for part in ["FOO=bar\n", "HOME=/root\n", "0077\ni686\nidle"] {
        assert!(out.contains(part), "{out}");
    }
    // As a shell's <(…) gives it.
    let plain = bundle.command(&["exec", "-p", "/dev/fd/9", &bundle.id]);
    let output = Command::new("sh")
        .args(["-c", "exec 9<\"$0\"; exec \"$@\"", path])
        .arg(std::env::current_exe().expect("path"))
        .args(plain.get_args())
        .stdin(Stdio::null())
        .output()
        .expect("sh");
    assert_eq!(String::from_utf8_lossy(&output.stdout), out);
    let out = bundle
        .run(&[
            "exec",
            "--user",
            "1000:1001",
            "--additional-gids",
            "5",
            "-g",
            "6",
            "--cwd",
            "/tmp",
            "--no-new-privs",
            "--env",
            "A=1",
            "--env",
            "A=2",
            &bundle.id,
            "sh",
            "-c",
            "id -u; id -g; id -G; pwd; echo $A; grep NoNewPrivs /proc/self/status",
        ])
        .output();
    assert_eq!(out, "1000\n1001\n1001 5 6\n/tmp\n2\nNoNewPrivs:\t1\n");
}

fn exec_capabilities(host: &Host) {
    let mut bundle = Bundle::new(host, &["sleep", "1000"]);
    let own = json!(["CAP_CHOWN"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": own, "effective": own, "permitted": own, "inheritable": ["CAP_KILL"]});
    bundle.config["process"]["capabilities"]["bounding"] = json!(["CAP_CHOWN", "CAP_KILL"]);
    bundle.start();
    let script = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status";
    let sets = |caps: &[&str]| {
        let mut arguments = vec!["exec"];
        arguments.extend(caps.iter().flat_map(|cap| ["--cap", cap]));
        arguments.extend([bundle.id.as_str(), "sh", "-c", script]);
        let out = bundle.run(&arguments).output();
        let value = |line: &str| u64::from_str_radix(line.split_once('\t').expect("line").1, 16);
        let values: Vec<u64> = out.lines().map(|line| value(line).expect("hex")).collect();
        values
    };
    const NET_RAW: u64 = 1 << 13;
    const KILL: u64 = 1 << 5;
    // Inheritable, permitted, effective, bounding, ambient.
    assert_eq!(sets(&[])[0], KILL);
    let with = sets(&["CAP_NET_RAW"]);
    assert_eq!((with[0], with[4]), (KILL, 0));
    assert_eq!(with[3], 1 | KILL | NET_RAW);
    assert_eq!(with[2] & NET_RAW, NET_RAW);
    // One that the container has as inheritable becomes ambient.
    let with = sets(&["CAP_KILL"]);
    assert_eq!((with[0], with[4]), (KILL, KILL));
}

/// A pair of network devices, gone with the value.
struct Devices(String, String);

impl Devices {
    fn new(tag: &str) -> Option<Self> {
        let names = ["a", "b"].map(|end| format!("bh{}{tag}{end}", std::process::id() % 100_000));
        let [first, second] = &names;
        let made = ip(&["link", "add", first, "type", "veth", "peer", "name", second]);
        if !made {
            eprintln!("skipped: no pair of network devices can be made here");
            return None;
        }
        let [first, second] = names;
        Some(Self(first, second))
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        ip(&["link", "delete", &self.0]);
        ip(&["link", "delete", &self.1]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

fn network_devices(host: &Host) {
    let Some(devices) = Devices::new("n") else {
        return;
    };
    let name = devices.0.as_str();
    for arguments in [
        vec![
            "link",
            "set",
            "dev",
            name,
            "address",
            "02:11:22:33:44:55",
            "mtu",
            "1300",
        ],
        vec!["address", "add", "192.0.2.77/30", "dev", name],
        vec!["address", "add", "2001:db8::7/64", "dev", name, "nodad"],
        vec![
            "address",
            "add",
            "127.0.0.33/32",
            "dev",
            name,
            "scope",
            "host",
        ],
        vec!["link", "set", "dev", name, "up"],
    ] {
        assert!(ip(&arguments), "{arguments:?}");
    }
    let mut bundle = Bundle::new(host, &["ip", "address", "show", "dev", "inside0"]);
    bundle.config["linux"]["netDevices"] = json!({name: {"name": "inside%d"}});
    let out = bundle.play().output();
    for part in [
        "mtu 1300",
        "02:11:22:33:44:55",
        "192.0.2.77/30",
        "2001:db8::7/64",
        ",UP",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("127.0.0.33"), "{out}");
    bundle.assert_gone();

    let mut bundle = Bundle::new(host, &["true"]);
    for (devices, part) in [
        (
            json!({"bhnone0": {}}),
            "linux.netDevices.bhnone0: there is no such",
        ),
        (
            json!({"a/b": {}}),
            "linux.netDevices.a/b: invalid network device name",
        ),
        (json!({"lo": {"name": "a b"}}), "linux.netDevices.lo.name"),
    ] {
        bundle.config["linux"]["netDevices"] = devices;
        bundle.play().refused(part);
        bundle.assert_gone();
    }
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut();
    namespaces
        .expect("list")
        .retain(|namespace| namespace["type"] != "network");
    bundle.config["linux"]["netDevices"] = json!({"lo": {}});
    bundle.play().refused("linux.netDevices");
}

fn labels(host: &Host) {
    if std::path::Path::new("/sys/module/apparmor").exists()
        || std::path::Path::new("/sys/fs/selinux").exists()
    {
        eprintln!("skipped: this host has labels");
        return;
    }
    let running = Bundle::new(host, &["sleep", "1000"]);
    running.start();
    for (pointer, field) in [
        ("/process/apparmorProfile", "process.apparmorProfile"),
        ("/process/selinuxLabel", "process.selinuxLabel"),
        ("/linux/mountLabel", "linux.mountLabel"),
    ] {
        let mut bundle = Bundle::new(host, &["true"]);
        let (parent, name) = pointer.rsplit_once('/').expect("pointer");
        bundle.config.pointer_mut(parent).expect("parent")[name] = json!("some");
        bundle.play().refused(field);
        bundle.assert_gone();
    }
    for (flag, field) in [
        ("--apparmor", "process.apparmorProfile"),
        ("--process-label", "process.selinuxLabel"),
    ] {
        let answer = running.run(&["exec", flag, "some", &running.id, "true"]);
        assert_eq!(answer.code, 255, "{}", answer.err);
        assert!(answer.err.contains(field), "{}", answer.err);
    }
}

fn refused(host: &Host) {
    for (pointer, value, field) in [
        (
            "/process/scheduler",
            json!({"policy": "SCHED_X"}),
            "process.scheduler.policy",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 9}),
            "process.ioPriority.priority",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
            "process.rlimits[1].type",
        ),
        ("/process/env", json!(["A"]), "process.env[0]"),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["X"]}),
            "linux.personality.flags",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND"}),
            "linux.memoryPolicy.nodes",
        ),
    ] {
        let mut bundle = Bundle::new(host, &["true"]);
        let (parent, name) = pointer.rsplit_once('/').expect("pointer");
        bundle.config.pointer_mut(parent).expect("parent")[name] = value;
        bundle.play().refused(field);
        bundle.assert_gone();
    }
    let running = Bundle::new(host, &["sleep", "1000"]);
    running.start();
    let path = running.directory.join("process.json");
    let process =
        json!({"args": ["true"], "cwd": "/", "execCPUAffinity": {"initial": "0-x"}}).to_string();
    fs::write(&path, process).expect("process");
    let answer = running.run(&["exec", "-p", path.to_str().expect("path"), &running.id]);
    assert_eq!(answer.code, 255);
    assert!(
        answer.err.contains("process.execCPUAffinity.initial"),
        "{}",
        answer.err
    );
}
