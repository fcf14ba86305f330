//! Guests that go on from a template.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bulkhead_microvm::{MicroVmConfig, template};
use bulkhead_model::testing::{Fixture, Running, run};
use bulkhead_model::{ByteSize, Mount, MountSource, Resources};

use crate::support::{Guests, config};

type Scenario = fn(&Guests);

pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_guest_goes_on_from_it", goes_on),
    ("clones_differ", clones_differ),
    ("clones_share_memory", clones_share_memory),
    ("another_size_has_its_own", sizes),
    ("another_kernel_boots", another_kernel),
    ("a_broken_one_is_left_for_a_boot", broken),
    ("what_cannot_be_gone_on_from_is_removed", outdated),
    ("making_one_leaves_nothing_else", no_leak),
];

fn made(guests: &Guests) -> MicroVmConfig {
    let config = config(&guests.directory.path().join("cache"));
    template::prepare(&config, &Resources::default()).expect("a template");
    config
}

/// Every file of the templates in the cache whose name is this.
fn template_files(config: &MicroVmConfig, name: &str) -> Vec<PathBuf> {
    fs::read_dir(config.cache_dir.join("templates"))
        .expect("templates")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.is_dir())
        .map(|path| path.join(name))
        .collect()
}

fn is_from_template(running: &Running) -> bool {
    let path = format!("/proc/{}/cmdline", running.sandbox().pid());
    let line = fs::read(path).expect("the monitor runs");
    line.split(|byte| *byte == 0)
        .any(|argument| argument == b"-incoming")
}

/// What a clone says of itself, a line each.
fn clone_words(running: &Running) -> Vec<String> {
    let script = "head -c 16 /dev/urandom | hexdump -v -e '16/1 \"%02x\"'; echo; \
                  cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; \
                  head -c 16 /dev/random | hexdump -v -e '16/1 \"%02x\"'; echo; date +%s";
    let mut process = bulkhead_model::ProcessSpec {
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    process.env.push("PATH=/bin".into());
    let output = running.exec(&process);
    output.text().lines().map(str::to_owned).collect()
}

fn goes_on(guests: &Guests) {
    made(guests);
    let directory = guests.directory();
    fs::write(directory.join("file"), "of the host").expect("file");
    let mut spec = guests.spec(&[
        "sh",
        "-c",
        "hostname; cat /volume/file; echo > /volume/made; sleep 1000",
    ]);
    spec.hostname = "clone".into();
    spec.mounts.push(Mount {
        target: "/volume".into(),
        source: MountSource::Bind(directory.clone()),
        read_only: false,
    });
    let running = Running::start(guests, &spec);
    assert!(is_from_template(&running));
    let deadline = SystemTime::now() + Duration::from_secs(10);
    while !directory.join("made").exists() {
        assert!(SystemTime::now() < deadline, "the guest made no file");
        std::thread::sleep(Duration::from_millis(10));
    }
    running.sandbox().delete().expect("delete");
    // Its disk is its own, and is kept when it boots anew.
    let mut spec = guests.spec(&["sh", "-c", "cat /kept 2>/dev/null; echo data > /kept"]);
    assert_eq!(run(guests, &spec).text(), "");
    spec.resources.memory = Some(ByteSize::from_mib(64));
    assert_eq!(run(guests, &spec).text(), "data");
}

fn clones_differ(guests: &Guests) {
    made(guests);
    let start = || Running::start(guests, &guests.spec(&["sleep", "1000"]));
    let (first, second) = (start(), start());
    assert!(is_from_template(&first) && is_from_template(&second));
    let (first, second) = (clone_words(&first), clone_words(&second));
    assert_eq!((first.len(), second.len()), (5, 5), "{first:?} {second:?}");
    for (one, other) in first.iter().zip(&second).take(4) {
        assert!(one.len() >= 32, "{one}");
        assert_ne!(one, other);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    for words in [first, second] {
        let guest: u64 = words[4].parse().expect("seconds");
        assert!(now.as_secs().abs_diff(guest) <= 5, "{guest} {now:?}");
    }
}

fn clones_share_memory(guests: &Guests) {
    let config = made(guests);
    let memory = &template_files(&config, "memory")[0];
    let before = fs::read(memory).expect("memory");
    let running = Running::start(guests, &guests.spec(&["sleep", "1000"]));
    let maps = fs::read_to_string(format!("/proc/{}/smaps", running.sandbox().pid()));
    let maps = maps.expect("smaps");
    let mapping = maps
        .split_once(&*memory.to_string_lossy())
        .expect("the file is mapped")
        .1;
    let kibibytes = |name: &str| -> u64 {
        let (_, rest) = mapping.split_once(name).expect("a field");
        rest.split_whitespace()
            .next()
            .expect("a number")
            .parse()
            .expect("a number")
    };
    // Some of it is read from the file, and what is changed is a copy.
    let copied = kibibytes("Anonymous:");
    assert!(kibibytes("Rss:") > copied, "{mapping:.600}");
    assert!(copied > 0);
    assert!(
        before == fs::read(memory).expect("memory"),
        "a clone has changed its template"
    );
}

fn sizes(guests: &Guests) {
    let config = made(guests);
    let mut spec = guests.spec(&["sleep", "1000"]);
    spec.resources.memory = Some(ByteSize::from_mib(100));
    assert!(!is_from_template(&Running::start(guests, &spec)));
    template::prepare(&config, &spec.resources).expect("a template");
    assert_eq!(template_files(&config, "state").len(), 2);
    let mut spec = guests.spec(&["sleep", "1000"]);
    spec.resources.memory = Some(ByteSize::from_mib(100));
    assert!(is_from_template(&Running::start(guests, &spec)));
}

fn another_kernel(guests: &Guests) {
    let mut config = made(guests);
    let kernel = guests.directory().join("vmlinux");
    fs::copy(&config.kernel, &kernel).expect("copy");
    config.kernel = kernel;
    let backend = bulkhead_microvm::MicroVmBackend::new(config);
    let spec = guests.spec(&["sleep", "1000"]);
    let sandbox = bulkhead_model::Backend::create(&backend, &spec, Vec::new()).expect("create");
    let line = fs::read(format!("/proc/{}/cmdline", sandbox.pid())).expect("cmdline");
    assert!(!String::from_utf8_lossy(&line).contains("-incoming"));
    sandbox.delete().expect("delete");
}

fn broken(guests: &Guests) {
    let config = made(guests);
    let state = &template_files(&config, "state")[0];
    let file = OpenOptions::new().write(true).open(state).expect("state");
    let length = file.metadata().expect("state").len();
    file.set_len(length / 2).expect("truncate");
    let running = Running::start(guests, &guests.spec(&["sleep", "1000"]));
    assert!(!is_from_template(&running));
    assert_eq!(clone_words(&running).len(), 5);
}

fn outdated(guests: &Guests) {
    let mut config = made(guests);
    let old = template_files(&config, "identity");
    // One that was cut off in its making, and one of another kernel.
    let partial = config.cache_dir.join("templates/0123.partial");
    fs::create_dir(&partial).expect("partial");
    let kernel = guests.directory().join("vmlinux");
    fs::copy(&config.kernel, &kernel).expect("copy");
    config.kernel = kernel;
    template::prepare(&config, &Resources::default()).expect("a template");
    assert!(!partial.exists() && !old[0].exists());
    assert_eq!(template_files(&config, "identity").len(), 1);
}

fn no_leak(guests: &Guests) {
    let config = made(guests);
    for name in ["memory", "state", "identity"] {
        let files = template_files(&config, name);
        assert!(files.len() == 1 && files[0].is_file(), "{files:?}");
    }
    // A guest that does not boot is no template, and leaves nothing.
    let mut config = config;
    config.kernel = guests.directory().join("vmlinux");
    fs::write(&config.kernel, "no kernel").expect("file");
    template::prepare(&config, &Resources::default()).expect_err("that is no kernel");
    assert_eq!(template_files(&config, "").len(), 0);
    let own = guests.directory.path().to_string_lossy().into_owned();
    for entry in fs::read_dir("/proc").expect("/proc") {
        let path = entry.expect("entry").path().join("cmdline");
        let line = fs::read(path).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        assert!(!line.contains(&own), "left: {line}");
    }
}
