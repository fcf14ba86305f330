//! Settings that only a container has, or whose effect is seen on the host.

use std::collections::BTreeMap;
use std::fs;

use bulkhead_model::testing::{Fixture, Running, run};
use bulkhead_model::{ErrorKind, Resources};

use crate::isolation::refused;
use crate::support::{Host, HostScenario, group};

pub const SCENARIOS: &[HostScenario] = &[
    ("sysctls_are_set_and_those_of_the_host_refused", sysctls),
    ("limits_are_in_the_cgroup", limits),
    ("impossible_limits_fail_the_create", impossible_limits),
    ("oom_score_is_set", oom_score),
    ("a_hundred_and_thirty_layers", many_layers),
    ("layers_with_odd_names", odd_layers),
    ("an_image_without_layers_is_empty", no_layers),
    ("unknown_capability_is_refused", unknown_capability),
];

fn sysctls(host: &Host) {
    let mut spec = host.spec(&[
        "cat",
        "/proc/sys/net/core/somaxconn",
        "/proc/sys/kernel/shmmni",
    ]);
    spec.sysctls = BTreeMap::from([
        ("net.core.somaxconn".into(), "321".into()),
        ("kernel.shmmni".into(), "77".into()),
    ]);
    assert_eq!(run(host, &spec).text(), "321\n77");
    let mut spec = host.spec(&["true"]);
    spec.sysctls = BTreeMap::from([("kernel.panic".into(), "1".into())]);
    assert_eq!(refused(host, &spec).kind(), ErrorKind::InvalidInput);
}

fn limits(host: &Host) {
    let mut spec = host.spec(&["sleep", "1000"]);
    spec.resources = Resources {
        cpu_millis: Some(250),
        cpu_shares: Some(512),
        pids: Some(33),
        cpuset_cpus: Some("0".into()),
        ..Resources::default()
    };
    let running = Running::start(host, &spec);
    let read = |controller: &str, file: &str| {
        let path = group(&spec, controller).expect("controller").join(file);
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .ok()
    };
    assert_eq!(read("pids", "pids.max").as_deref(), Some("33"));
    assert_eq!(read("cpuset", "cpuset.cpus").as_deref(), Some("0"));
    match read("cpu", "cpu.max") {
        Some(unified) => assert_eq!(unified, "25000 100000"),
        None => {
            assert_eq!(read("cpu", "cpu.cfs_quota_us").as_deref(), Some("25000"));
            assert_eq!(read("cpu", "cpu.shares").as_deref(), Some("512"));
        }
    }
    let processes = read("pids", "cgroup.procs").expect("processes");
    assert_eq!(processes, running.sandbox().pid().to_string());
}

fn impossible_limits(host: &Host) {
    let mut spec = host.spec(&["true"]);
    spec.resources.cpuset_cpus = Some("100000".into());
    let error = refused(host, &spec);
    assert!(error.to_string().contains("100000"), "{error}");
}

fn oom_score(host: &Host) {
    let mut spec = host.spec(&["cat", "/proc/self/oom_score_adj"]);
    spec.resources.oom_score_adj = Some(321);
    assert_eq!(run(host, &spec).text(), "321");
}

fn many_layers(host: &Host) {
    let mut spec = host.spec(&[
        "sh",
        "-c",
        "ls -d /layer-* | wc -l; cat /same; echo x > /new",
    ]);
    for number in 0..130 {
        let layer = host.fresh(&format!(
            "a-layer-with-a-name-as-long-as-a-digest-{}",
            "0".repeat(64)
        ));
        fs::write(layer.join(format!("layer-{number}")), "").expect("file");
        fs::write(layer.join("same"), format!("{number}\n")).expect("file");
        spec.root.layers.insert(0, layer);
    }
    assert_eq!(run(host, &spec).text(), "130\n129");
    assert!(spec.root.writable.join("upper/new").exists());
    host.assert_no_trace(&spec);
}

fn odd_layers(host: &Host) {
    let layer = host.fresh("a:b,c\\d e");
    fs::write(layer.join("file"), "odd").expect("file");
    let mut spec = host.spec(&["cat", "/file"]);
    spec.root.layers.insert(0, layer);
    assert_eq!(run(host, &spec).text(), "odd");
}

fn no_layers(host: &Host) {
    let mut spec = host.spec(&["/none"]);
    spec.root.layers.clear();
    assert_eq!(refused(host, &spec).kind(), ErrorKind::CommandNotFound);
}

fn unknown_capability(host: &Host) {
    let mut spec = host.spec(&["true"]);
    spec.security.capabilities_add = vec!["FLY".into()];
    assert!(refused(host, &spec).to_string().contains("FLY"));
}
