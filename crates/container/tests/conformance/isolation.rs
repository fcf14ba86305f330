//! What a container must not be able to do. Each known way out of a container has its test.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

use bulkhead_model::testing::{Fixture, Running, run};
use bulkhead_model::{
    ByteSize, Error, Mount, MountSource, NetworkMode, ProcessSpec, SandboxSpec, Seccomp,
};

use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("capabilities_are_the_default_set", capabilities),
    (
        "cve_2022_27650_exec_adds_no_inheritable_capabilities",
        exec_capabilities,
    ),
    (
        "cve_2019_5736_the_runtimes_binary_cannot_be_written",
        runtime_binary,
    ),
    ("cve_2024_21626_no_descriptor_is_inherited", descriptors),
    (
        "cve_2024_21626_working_directory_is_inside_the_root",
        working_directory,
    ),
    ("cve_2025_31133_masked_files_are_the_null_device", masked),
    (
        "cve_2025_52881_system_files_are_read_only",
        read_only_system,
    ),
    ("cve_2026_41579_dev_is_a_symlink", linked_dev),
    ("cve_2024_45310_mount_target_through_a_link", linked_target),
    ("cve_2026_30892_odd_users_at_exec", odd_users),
    ("system_calls_are_filtered", filtered),
    ("a_users_profile_is_applied", user_profile),
    ("a_malformed_profile_fails_the_create", malformed_profile),
    ("devices_of_the_host_cannot_be_opened", devices),
    ("namespaces_are_its_own", namespaces),
    ("without_network_there_is_loopback_alone", loopback),
    ("host_network_is_the_hosts", host_network),
    ("privileged_has_everything", privileged),
];

fn shell(host: &Host, script: &str) -> SandboxSpec {
    host.spec(&["sh", "-c", script])
}

fn process(args: &[&str]) -> ProcessSpec {
    ProcessSpec {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        ..ProcessSpec::default()
    }
}

/// The error of a create or start that must fail.
pub fn refused(host: &Host, spec: &SandboxSpec) -> Error {
    let created = host.backend().create(spec, Vec::new());
    let started = created.and_then(|sandbox| {
        let started = sandbox.start();
        sandbox.delete().and(started)
    });
    let error = started.expect_err("it must fail");
    host.assert_no_trace(spec);
    error
}

const STATUS: [&str; 4] = [
    "grep",
    "-E",
    "^(Cap|NoNewPrivs|Seccomp:)",
    "/proc/self/status",
];
const DEFAULT_STATUS: &str = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\n\
    CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n\
    NoNewPrivs:\t1\nSeccomp:\t2";

fn capabilities(host: &Host) {
    assert_eq!(run(host, &host.spec(&STATUS)).text(), DEFAULT_STATUS);
    let mut spec = host.spec(&STATUS);
    spec.process.user = "web".into();
    let output = run(host, &spec);
    assert!(
        output.text().contains("CapEff:\t0000000000000000\n"),
        "{output:?}"
    );
    spec = host.spec(&STATUS);
    spec.security.capabilities_drop = vec!["ALL".into()];
    spec.security.capabilities_add = vec!["NET_RAW".into()];
    let output = run(host, &spec);
    assert!(
        output.text().contains("CapBnd:\t0000000000002000\n"),
        "{output:?}"
    );
}

fn exec_capabilities(host: &Host) {
    let running = Running::start(host, &host.spec(&["sleep", "1000"]));
    assert_eq!(running.exec(&process(&STATUS)).text(), DEFAULT_STATUS);
}

fn runtime_binary(host: &Host) {
    // The init is the runtime's own binary, which stays within reach of a container that may do
    // all. Opening it for writing fails anyway while it runs ("Text file busy"), but not later
    // through a descriptor that was kept; changing its mode fails only if the mount is read-only.
    let mut spec = shell(host, "echo x >> /proc/1/exe; chmod 755 /proc/1/exe");
    spec.security.init = true;
    spec.security.privileged = true;
    let output = run(host, &spec);
    assert_ne!(output.status.code, 0);
    assert!(
        output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
}

fn descriptors(host: &Host) {
    // One that exec does not close.
    let open = fs::File::open("/").expect("open");
    let inherited = rustix::io::dup(&open).expect("copy");
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).expect("keep over exec");
    assert!(inherited.as_raw_fd() > 2);
    // The last is the directory that ls reads.
    let list = ["ls", "/proc/self/fd"];
    let running = Running::start(host, &host.spec(&["sleep", "1000"]));
    assert_eq!(running.exec(&process(&list)).text(), "0\n1\n2\n3");
    assert_eq!(run(host, &host.spec(&list)).text(), "0\n1\n2\n3");
    let of_workload = running.exec(&process(&["ls", "/proc/1/fd"]));
    assert_eq!(of_workload.text(), "0\n1\n2");
}

fn working_directory(host: &Host) {
    for number in 3..12 {
        let mut spec = host.spec(&["ls"]);
        spec.process.cwd = format!("/proc/self/fd/{number}");
        let error = refused(host, &spec);
        assert!(error.to_string().contains("/proc/self/fd"), "{error}");
    }
}

fn masked(host: &Host) {
    let script = "for f in kcore keys timer_list; do \
                  [ -e /proc/$f ] && [ \"$(stat -c %t:%T /proc/$f)\" != 1:3 ] && echo $f; done; \
                  for d in /proc/acpi /proc/scsi /sys/firmware; do [ -d $d ] && ls $d; done; echo end";
    assert_eq!(run(host, &shell(host, script)).text(), "end");
}

fn read_only_system(host: &Host) {
    let script = "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches; do \
                  echo 1 > $f && echo written $f; done 2>/dev/null; \
                  mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; \
                  for d in /sys/fs/cgroup/*/; do mkdir $d/x 2>/dev/null && echo made $d; done; \
                  cut -d: -f3 /proc/self/cgroup | sort -u; echo end";
    assert_eq!(run(host, &shell(host, script)).text(), "/\nend");
}

fn linked_dev(host: &Host) {
    for name in ["dev", "proc", "sys"] {
        let layer = host.fresh("layer");
        symlink("/tmp", layer.join(name)).expect("link");
        let mut spec = host.spec(&["true"]);
        spec.root.layers.insert(0, layer);
        let error = refused(host, &spec);
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }
}

fn linked_target(host: &Host) {
    let directory = host.directory();
    symlink("/etc", directory.join("absolute")).expect("link");
    symlink("../../../../../../../../etc", directory.join("relative")).expect("link");
    let mut spec = shell(host, "ls -d /etc/bulkhead-absolute /etc/bulkhead-relative");
    spec.mounts.push(Mount {
        target: "/data".into(),
        source: MountSource::Bind(directory),
        read_only: false,
    });
    for name in ["absolute", "relative"] {
        spec.mounts.push(Mount {
            target: format!("/data/{name}/bulkhead-{name}"),
            source: MountSource::Tmpfs {
                size: Some(ByteSize::from_mib(1)),
                mode: None,
            },
            read_only: false,
        });
    }
    let output = run(host, &spec);
    assert_eq!(
        output.text(),
        "/etc/bulkhead-absolute\n/etc/bulkhead-relative"
    );
    for name in ["absolute", "relative"] {
        assert!(!std::path::Path::new(&format!("/etc/bulkhead-{name}")).exists());
    }
}

fn odd_users(host: &Host) {
    let running = Running::start(host, &host.spec(&["sleep", "1000"]));
    let exec = running.sandbox().exec().expect("exec");
    for user in [
        "-1",
        "4294967295",
        "99999999999999999999",
        "a:b:c",
        " ",
        "web:",
        "web:-1",
        "../root",
        "root\0",
    ] {
        let mut spec = process(&["id", "-u"]);
        spec.user = user.into();
        match exec.exec(&spec) {
            Ok((started, mut io)) => {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut io.stdout, &mut text).expect("output");
                started.wait().expect("wait");
                assert_eq!((user, text.as_str()), ("web:", "1000\n"));
            }
            Err(error) => assert_eq!(
                error.kind(),
                bulkhead_model::ErrorKind::InvalidInput,
                "{user}: {error}"
            ),
        }
    }
    assert_eq!(running.exec(&process(&["echo", "alive"])).text(), "alive");
}

/// Tells which of some forbidden things succeed.
const FORBIDDEN: &str = "unshare -U true 2>/dev/null && echo unshare; \
    mount -t tmpfs none /tmp 2>/dev/null && echo mount; \
    chroot / true 2>/dev/null && echo chroot; echo end";

fn filtered(host: &Host) {
    assert_eq!(run(host, &shell(host, FORBIDDEN)).text(), "chroot\nend");
    let mut spec = shell(host, FORBIDDEN);
    spec.security.no_new_privileges = false;
    assert_eq!(run(host, &spec).text(), "chroot\nend");
    spec = shell(host, "grep Seccomp: /proc/self/status");
    spec.security.seccomp = Seccomp::Unconfined;
    assert_eq!(run(host, &spec).text(), "Seccomp:\t0");
    spec = shell(host, "mount -t tmpfs none /tmp && echo mounted");
    spec.security.capabilities_add = vec!["SYS_ADMIN".into()];
    assert_eq!(run(host, &spec).text(), "mounted");
}

fn user_profile(host: &Host) {
    for no_new_privileges in [true, false] {
        let mut spec = shell(host, "mkdir /new 2>&1; sleep 0; echo end");
        spec.security.no_new_privileges = no_new_privileges;
        spec.security.seccomp = Seccomp::Profile(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#
                .into(),
        );
        let output = run(host, &spec);
        assert!(output.text().contains("not supported"), "{output:?}");
        assert!(output.text().ends_with("\nend"), "{output:?}");
    }
}

fn malformed_profile(host: &Host) {
    let mut spec = host.spec(&["true"]);
    spec.security.seccomp = Seccomp::Profile(r#"{"defaultAction": "ALLOW"}"#.into());
    assert!(refused(host, &spec).to_string().contains("'ALLOW'"));
}

fn devices(host: &Host) {
    // The kernel's log: any host has it, and nothing is harmed if the test fails.
    let script =
        "mknod /kmsg c 1 11 && { head -c 1 /kmsg > /dev/null 2>&1 && echo open || echo refused; }";
    assert_eq!(run(host, &shell(host, script)).text(), "refused");
}

fn namespaces(host: &Host) {
    let script = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done";
    let output = run(host, &shell(host, script));
    assert_eq!(output.text().lines().count(), 6);
    for line in output.text().lines() {
        let name = line.split(':').next().expect("name");
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).expect("namespace");
        assert_ne!(ours.to_str(), Some(line));
    }
}

fn loopback(host: &Host) {
    let script = "ls /sys/class/net; ip addr show lo | grep -c 'inet 127.0.0.1/8'; \
                  ping -c 1 -W 1 127.0.0.1 > /dev/null && echo up";
    assert_eq!(run(host, &shell(host, script)).text(), "lo\n1\nup");
}

fn host_network(host: &Host) {
    let mut spec = host.spec(&["readlink", "/proc/self/ns/net"]);
    spec.network = NetworkMode::Host;
    let ours = fs::read_link("/proc/self/ns/net").expect("namespace");
    assert_eq!(Some(run(host, &spec).text()), ours.to_str());
}

fn privileged(host: &Host) {
    let script = "mount -t tmpfs none /tmp && echo mounted; ls -d /dev/kmsg; head -c 1 /dev/kmsg | wc -c; \
                  grep -E '^(Seccomp:|NoNewPrivs)' /proc/self/status";
    let mut spec = shell(host, script);
    spec.security.privileged = true;
    let expected = "mounted\n/dev/kmsg\n1\nNoNewPrivs:\t0\nSeccomp:\t0";
    assert_eq!(run(host, &spec).text(), expected);

    let running = Running::start(host, &host.spec(&["sleep", "1000"]));
    let mut spec = process(&[
        "sh",
        "-c",
        "grep Seccomp: /proc/self/status; mount -t tmpfs none /tmp && echo mounted",
    ]);
    spec.privileged = true;
    assert_eq!(running.exec(&spec).text(), "Seccomp:\t0\nmounted");
}
