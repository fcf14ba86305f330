//! The control groups of OCI containers, by real runs.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::bundle::Bundle;
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("every_hierarchy_has_the_group", every_hierarchy),
    ("a_frozen_group_is_not_taken", frozen_group),
    ("a_group_below_an_empty_cpuset_is_usable", empty_cpuset),
    ("what_the_container_made_in_its_group_is_removed", nested),
];

/// The group's directory in the hierarchy that has `controller`, or the only one of v2.
pub fn directory(bundle: &Bundle, controller: &str) -> PathBuf {
    let below = bundle.config["linux"]["cgroupsPath"]
        .as_str()
        .expect("path");
    let layout = bulkhead_container::cgroup::probe().expect("cgroups");
    let hierarchy = layout
        .hierarchies()
        .chain(layout.others())
        .find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
        .or_else(|| layout.hierarchies().next())
        .expect("hierarchy");
    hierarchy.mount_point.join(below.trim_start_matches('/'))
}

fn is_v2() -> bool {
    bulkhead_container::cgroup::probe()
        .expect("cgroups")
        .to_string()
        == "v2"
}

fn every_hierarchy(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.start();
    let below = bundle.config["linux"]["cgroupsPath"]
        .as_str()
        .expect("path");
    let groups_of = |pid: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("groups");
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        lines.sort();
        lines
    };
    let init = groups_of(&bundle.state()["pid"].to_string());
    for line in &init {
        // Controllers that are mounted nowhere stay with the root.
        let mounted = line.starts_with("0:") || !line.contains("::");
        assert!(!mounted || line.ends_with(below), "{init:?}");
    }
    bundle
        .detached(&[
            "exec",
            "--detach",
            "--pid-file",
            "pid",
            &bundle.id,
            "sleep",
            "500",
        ])
        .output();
    let pid = fs::read_to_string(bundle.directory.join("pid")).expect("pid");
    assert_eq!(groups_of(&pid), init);
    bundle.run(&["delete", "--force", &bundle.id]).output();
    bundle.assert_gone();
}

fn frozen_group(host: &Host) {
    let bundle = Bundle::new(host, &["true"]);
    let directory = directory(&bundle, "freezer");
    fs::create_dir_all(&directory).expect("group");
    let (file, value) = match is_v2() {
        true => ("cgroup.freeze", "1"),
        false => ("freezer.state", "FROZEN"),
    };
    fs::write(directory.join(file), value).expect("freeze");
    bundle
        .play()
        .refused("container's cgroup unexpectedly frozen");
    fs::remove_dir(&directory).expect("the group of another is left alone");
    assert_eq!(bundle.play().code, 0);
    bundle.assert_gone();
}

/// On v1 the groups above may have been made by others, who left their cpusets empty.
fn empty_cpuset(host: &Host) {
    let mut bundle = Bundle::new(host, &["sh", "-c", "grep Cpus_allowed: /proc/self/status"]);
    let path = bundle.config["linux"]["cgroupsPath"]
        .as_str()
        .expect("path");
    let inner = format!("{path}/inner");
    let above = directory(&bundle, "cpuset");
    fs::create_dir_all(&above).expect("group");
    bundle.config["linux"]["cgroupsPath"] = json!(inner);
    let answer = bundle.play();
    // The groups above are not the container's, and stay in every hierarchy.
    let layout = bulkhead_container::cgroup::probe().expect("cgroups");
    let all = layout.hierarchies().chain(layout.others());
    for hierarchy in all.chain(layout.beside()) {
        let below = inner.trim_start_matches('/');
        let path = hierarchy.mount_point.join(below);
        fs::remove_dir(path.parent().expect("parent")).expect("it is there, and empty");
    }
    assert!(answer.output().contains("Cpus_allowed"));
}

fn nested(host: &Host) {
    let mut bundle = Bundle::new(
        host,
        &[
            "sh",
            "-c",
            "for group in /sys/fs/cgroup /sys/fs/cgroup/*; do \
             test -e $group/cgroup.procs || continue; \
             mkdir -p $group/inner/most && sh -c \"echo \\$\\$ > $group/inner/most/cgroup.procs; sleep 1000 & \" || exit 1; \
             done; echo ready; sleep 1000",
        ],
    );
    for mount in bundle.config["mounts"].as_array_mut().expect("mounts") {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["rw"]);
        }
    }
    bundle.start();
    let inner = directory(&bundle, "memory").join("inner/most");
    for _ in 0..1000 {
        if inner.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(inner.exists(), "the container could not make a group");
    bundle.run(&["pause", &bundle.id]).output();
    assert_eq!(bundle.status(), "paused");
    bundle.run(&["delete", "--force", &bundle.id]).output();
    bundle.assert_gone();
}
