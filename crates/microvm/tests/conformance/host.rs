//! What is particular to micro VMs, seen from the host.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bulkhead_microvm::{console, rootfs};
use bulkhead_model::testing::{Fixture, Running, run};
use bulkhead_model::{Backend, ByteSize, ErrorKind, Mount, MountSource};

use crate::support::{Guests, config};

type Scenario = fn(&Guests);

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("delete_leaves_no_process_and_no_file", no_leak),
    ("a_monitor_that_dies_is_the_guests_death", monitor_dies),
    ("a_guest_that_dies_is_seen", guest_dies),
    ("the_disk_keeps_its_data", disk_keeps_data),
    ("a_disk_has_the_size_that_is_asked_for", disk_size),
    ("a_flood_on_the_console_is_bounded", console_flood),
    ("a_reader_that_stops_blocks_nobody_else", stopped_reader),
    ("an_image_of_several_layers_is_their_sum", layers),
    ("a_bound_file_shows_no_siblings", siblings),
    ("a_missing_kernel_is_told", missing_kernel),
    ("a_missing_monitor_is_told", missing_monitor),
];

fn shell(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

fn is_process(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn no_leak(guests: &Guests) {
    let mut spec = guests.spec(&["sleep", "1000"]);
    let directory = guests.directory();
    fs::write(directory.join("file"), "x").expect("file");
    spec.mounts.push(Mount {
        target: "/file".into(),
        source: MountSource::Bind(directory.join("file")),
        read_only: true,
    });
    let running = Running::start(guests, &spec);
    let pid = running.sandbox().pid();
    assert!(is_process(pid));
    assert_eq!(running.sandbox().death(), None);
    running.sandbox().delete().expect("delete");
    assert_eq!(running.sandbox().death(), None);
    assert!(!is_process(pid), "the monitor {pid} is left");
    let left: Vec<_> = fs::read_dir(&spec.run_dir).expect("run_dir").collect();
    assert!(left.is_empty(), "{left:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&*guests.directory.path().to_string_lossy()));
}

fn monitor_dies(guests: &Guests) {
    let running = Running::start(guests, &guests.spec(&["sleep", "1000"]));
    let pid = rustix::process::Pid::from_raw(running.sandbox().pid() as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    assert_eq!(running.sandbox().wait().expect("wait").code, 137);
    let death = running.sandbox().death().expect("a death");
    assert!(death.contains("SIGKILL"), "{death}");
    let error = running.sandbox().signal(15).expect_err("it is dead");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

fn guest_dies(guests: &Guests) {
    // Where all memory is gone and nothing may be killed, the kernel gives up.
    let script =
        "echo -1000 > /proc/self/oom_score_adj; exec dd if=/dev/zero of=/dev/null bs=1024M";
    let mut spec = guests.spec(&shell(script));
    spec.security.privileged = true;
    let running = Running::start(guests, &spec);
    assert_eq!(running.sandbox().wait().expect("wait").code, 137);
    let death = running.sandbox().death().expect("a death");
    assert!(death.contains("Kernel panic"), "{death}");
    running.sandbox().delete().expect("delete");
    let log = console::log_file(&spec.root.writable);
    let console = fs::read_to_string(log).expect("console.log");
    assert!(console.contains("Kernel panic"), "{console}");
}

fn disk_keeps_data(guests: &Guests) {
    let mut spec = guests.spec(&shell("echo kept > /file"));
    assert_eq!(run(guests, &spec).status.code, 0);
    spec.process.args = shell("cat /file").map(str::to_owned).to_vec();
    assert_eq!(run(guests, &spec).text(), "kept");
}

fn disk_size(guests: &Guests) {
    let script = "dd if=/dev/zero of=/file bs=1M count=200; \
                  head -c 1000 /file | wc -c; rm /file; echo again > /file && cat /file";
    let mut spec = guests.spec(&shell(script));
    spec.root.size = Some(ByteSize::from_mib(100));
    let output = run(guests, &spec);
    assert!(
        output.stderr.contains("No space left on device"),
        "{output:?}"
    );
    assert_eq!(output.text(), "1000\nagain");
    let disk = fs::metadata(spec.root.writable.join("disk.ext4")).expect("disk");
    assert_eq!(disk.len(), 100 << 20);
    assert!(disk.blocks() * 512 <= 100 << 20, "{}", disk.blocks() * 512);

    let mut spec = guests.spec(&["true"]);
    spec.root.size = Some(ByteSize::from_mib(63));
    let error = guests.backend.create(&spec, Vec::new()).err();
    let error = error.expect("that is too small");
    assert!(error.to_string().contains("at least 64MiB"), "{error}");
}

fn console_flood(guests: &Guests) {
    let script =
        "dd if=/dev/zero bs=65536 count=32 2>/dev/null | tr '\\0' x > /dev/ttyS0; sleep 1000";
    let mut spec = guests.spec(&shell(script));
    spec.security.privileged = true;
    let running = Running::start(guests, &spec);
    let log = console::log_file(&spec.root.writable);
    let mut seen = 0;
    while seen < 128 << 10 {
        seen = fs::metadata(&log).expect("console.log").len();
        assert!(seen <= 256 << 10, "{seen}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut process = bulkhead_model::ProcessSpec {
        args: vec!["echo".into(), "alive".into()],
        ..Default::default()
    };
    process.env.push("PATH=/bin".into());
    assert_eq!(running.exec(&process).text(), "alive");
}

fn stopped_reader(guests: &Guests) {
    let running = Running::start(guests, &guests.spec(&["yes"]));
    // Nobody reads the workload's output from here on.
    let _io = running.io();
    let exec = running.sandbox().exec().expect("exec");
    for _ in 0..3 {
        let mut process = bulkhead_model::ProcessSpec {
            args: shell("dd if=/dev/zero bs=65536 count=32 2>/dev/null")
                .map(str::to_owned)
                .to_vec(),
            ..Default::default()
        };
        process.env.push("PATH=/bin".into());
        let (process, mut io) = exec.exec(&process).expect("exec");
        let mut all = Vec::new();
        io.stdout.read_to_end(&mut all).expect("read");
        assert_eq!(all.len(), 2 << 20);
        assert_eq!(process.wait().expect("wait").code, 0);
    }
}

fn layers(guests: &Guests) {
    let upper = guests.directory();
    fs::create_dir(upper.join("etc")).expect("etc");
    fs::write(upper.join("etc/passwd"), "root:x:0:0::/elsewhere:/bin/sh\n").expect("passwd");
    // A whiteout, in overlayfs' own form.
    let mode = rustix::fs::Mode::empty();
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, upper.join("etc/group"), kind, mode, 0).expect("whiteout");
    let mut spec = guests.spec(&shell("cat /etc/passwd; ls /etc/group || echo gone"));
    spec.root.layers.insert(0, upper);
    spec.root.chain_id = "cd".repeat(32);
    assert_eq!(
        run(guests, &spec).text(),
        "root:x:0:0::/elsewhere:/bin/sh\ngone"
    );

    // Callers at the same time make one image and all get it.
    let cache = guests.directory();
    let config = config(&cache);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let root = &spec.root;
                let image = rootfs::ensure(&root.layers, &root.chain_id, &cache, &config.launcher);
                assert!(image.expect("image").is_file());
            });
        }
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&*cache.to_string_lossy()));
}

fn siblings(guests: &Guests) {
    let directory = guests.directory();
    fs::write(directory.join("shown"), "shown").expect("file");
    fs::write(directory.join("secret"), "secret").expect("file");
    let script =
        "cat /shown; echo; mkdir /m; mount -t 9p -o trans=virtio,version=9p2000.L share0 /m; ls /m";
    let mut spec = guests.spec(&shell(script));
    spec.security.privileged = true;
    spec.mounts.push(Mount {
        target: "/shown".into(),
        source: MountSource::Bind(directory.join("shown")),
        read_only: true,
    });
    let output = run(guests, &spec);
    assert!(output.stdout.starts_with("shown\n"), "{output:?}");
    assert!(!output.stdout.contains("secret"), "{output:?}");
}

fn missing_kernel(guests: &Guests) {
    let mut config = config(&guests.directory());
    config.kernel = "/nonexistent/vmlinux".into();
    let backend = bulkhead_microvm::MicroVmBackend::new(config);
    let spec = guests.spec(&["true"]);
    let error = bulkhead_model::Backend::create(&backend, &spec, Vec::new());
    let error = error.err().expect("there is no kernel");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("make kernel"), "{error}");
}

fn missing_monitor(guests: &Guests) {
    let mut config = config(&guests.directory());
    config.qemu = "no-such-qemu".into();
    let backend = bulkhead_microvm::MicroVmBackend::new(config);
    let spec = guests.spec(&["true"]);
    let started = bulkhead_model::Backend::create(&backend, &spec, Vec::new())
        .and_then(|sandbox| sandbox.start().and_then(|()| sandbox.delete()));
    let error = started.expect_err("there is no such monitor");
    assert!(error.to_string().contains("no-such-qemu"), "{error}");
    assert!(error.to_string().contains("qemu-system-x86"), "{error}");
}
