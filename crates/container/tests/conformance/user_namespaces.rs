//! User namespaces, id-mapped mounts and what else of mounts depends on who makes them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::bundle::{Answer, Bundle};
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("ids_are_mapped", ids),
    ("exec_joins_the_user_namespace", exec),
    ("what_has_no_mapping_is_refused", refused),
    ("a_user_namespace_is_joined_by_path", joined),
    ("time_offsets_hold_in_a_user_namespace", time),
    ("an_id_mapped_mount_shows_other_owners", id_mapped),
    ("devices_are_the_hosts", devices),
    ("tmpcopyup_copies_what_it_covers", copy_up),
    ("a_remount_changes_a_mount", remount),
    ("a_mount_follows_links_within_the_root", links),
    ("a_shared_root_does_not_reach_the_host", shared),
];

/// The first id on the host that the container's are mapped to.
const FIRST: u32 = 100_000;

/// A bundle whose container has a user namespace and whose files belong to it.
fn mapped(host: &Host, args: &[&str]) -> Bundle {
    let mut bundle = Bundle::new(host, args);
    let mapping = json!([{"containerID": 0, "hostID": FIRST, "size": 1000}]);
    bundle.config["linux"]["uidMappings"] = mapping.clone();
    bundle.config["linux"]["gidMappings"] = mapping;
    push(
        &mut bundle.config["linux"]["namespaces"],
        json!({"type": "user"}),
    );
    own(&bundle.directory.join("rootfs"));
    bundle
}

fn own(path: &Path) {
    let owner = format!("{FIRST}:{FIRST}");
    let status = Command::new("chown")
        .args(["-R", &owner])
        .arg(path)
        .status();
    assert!(status.expect("chown").success());
}

fn push(list: &mut Value, value: Value) {
    list.as_array_mut().expect("list").push(value);
}

fn ids(host: &Host) {
    let script = "id -u; id -g; cat /proc/self/uid_map; touch /made; stat -c %u /made; \
                  grep CapEff /proc/self/status";
    let bundle = mapped(host, &["sh", "-c", script]);
    let answer = bundle.play();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), ("0", "0", "0"));
    let numbers: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(numbers, ["0", "100000", "1000"]);
    assert!(lines[4].ends_with("20000420"), "{}", lines[4]);
    let made = fs::metadata(bundle.directory.join("rootfs/made")).expect("made");
    assert_eq!((made.uid(), made.gid()), (FIRST, FIRST));
    bundle.assert_gone();
}

fn exec(host: &Host) {
    let bundle = mapped(host, &["sleep", "1000"]);
    bundle.start();
    let exec = |user: &str| {
        let script = "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; true";
        let id = bundle.id.as_str();
        bundle.run(&["exec", "--user", user, id, "sh", "-c", script])
    };
    let output = exec("0").output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "0");
    assert_eq!(lines[1], lines[2]);
    assert!(exec("7:7").output().starts_with("7\n"));
    let outside = exec("5000:5000");
    assert_eq!(outside.code, 255);
    assert!(outside.err.contains("5000"), "{}", outside.err);
}

fn refused(host: &Host) {
    for (change, part) in [
        (json!([]), "linux.uidMappings: it is empty"),
        (
            json!([{"containerID": 1, "hostID": FIRST, "size": 1}]),
            "id 0 is not mapped",
        ),
        (
            json!([{"containerID": 0, "hostID": FIRST, "size": 1}, {"containerID": 5, "hostID": 7, "size": 0}]),
            "linux.uidMappings[1].size",
        ),
        (
            json!([{"containerID": 0, "hostID": FIRST, "size": 9}, {"containerID": 5, "hostID": FIRST, "size": 9}]),
            "linux.uidMappings",
        ),
    ] {
        let mut bundle = mapped(host, &["true"]);
        bundle.config["linux"]["uidMappings"] = change;
        bundle.play().refused(part);
        bundle.assert_gone();
    }
    let mut bundle = mapped(host, &["true"]);
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut();
    namespaces.expect("list").pop();
    bundle.play().refused("it needs a user namespace");
    for mount in [
        json!({"destination": "/m", "type": "tmpfs", "options": ["idmap"]}),
        json!({"destination": "/m", "type": "bind", "source": "/tmp", "options": ["idmap"]}),
        json!({"destination": "/m", "type": "bind", "source": "/tmp", "options": ["bind"],
               "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}),
    ] {
        let mut bundle = Bundle::new(host, &["true"]);
        push(&mut bundle.config["mounts"], mount);
        bundle.play().refused("id-mapped mounts");
    }
}

fn joined(host: &Host) {
    let holder = mapped(host, &["sleep", "1000"]);
    holder.start();
    let pid = holder.state()["pid"].to_string();
    let mut bundle = mapped(
        host,
        &[
            "sh",
            "-c",
            "readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u",
        ],
    );
    bundle.config["linux"]["uidMappings"] = json!([]);
    bundle.config["linux"]["gidMappings"] = json!([]);
    for namespace in bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("list")
    {
        let kind = namespace["type"].as_str().expect("type").to_owned();
        match kind.as_str() {
            "user" => namespace["path"] = json!(format!("/proc/{pid}/ns/user")),
            "network" => namespace["path"] = json!(format!("/proc/{pid}/ns/net")),
            _ => {}
        }
    }
    let answer = bundle.play();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("link");
    let expected = format!("{}\n{}\n0\n", link("user").display(), link("net").display());
    assert_eq!(answer.out, expected);
    bundle.assert_gone();
}

fn time(host: &Host) {
    let mut bundle = mapped(host, &["cat", "/proc/uptime"]);
    push(
        &mut bundle.config["linux"]["namespaces"],
        json!({"type": "time"}),
    );
    let day = 86_400;
    bundle.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 10_000 * day}});
    let answer = bundle.play();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let seconds = answer
        .out
        .split('.')
        .next()
        .and_then(|text| text.parse::<u64>().ok());
    assert!(seconds.expect("seconds") >= 10_000 * day, "{}", answer.out);
}

fn id_mapped(host: &Host) {
    let mut bundle = mapped(
        host,
        &["stat", "-c", "%u:%g", "/plain/file", "/mapped/file"],
    );
    let source = bundle.directory.join("source");
    fs::create_dir(&source).expect("directory");
    fs::write(source.join("file"), "").expect("file");
    for (target, options) in [
        ("/plain", json!(["rbind"])),
        ("/mapped", json!(["bind", "idmap"])),
    ] {
        let mount =
            json!({"destination": target, "type": "bind", "source": source, "options": options});
        push(&mut bundle.config["mounts"], mount);
    }
    let answer = bundle.play();
    if answer.err.contains("allows id-mapped mounts") {
        eprintln!("skipped: the filesystem of the temporary directory has no id-mapped mounts");
        return;
    }
    // The host's root is nobody in the container, and by the mapping it is its root.
    assert_eq!(answer.out, "65534:65534\n0:0\n", "{}", answer.err);
    let mapping = json!([{"containerID": 0, "hostID": FIRST + 5, "size": 10}]);
    let mount = &mut bundle.config["mounts"]
        .as_array_mut()
        .expect("list")
        .pop()
        .expect("mount");
    mount["uidMappings"] = mapping.clone();
    mount["gidMappings"] = mapping;
    push(&mut bundle.config["mounts"], mount.clone());
    assert_eq!(bundle.play().output(), "65534:65534\n5:5\n");
    bundle.assert_gone();
}

fn devices(host: &Host) {
    let mut bundle = mapped(
        host,
        &[
            "sh",
            "-c",
            "head -c 3 /dev/zero | wc -c; echo x > /dev/null; ls /dev/more",
        ],
    );
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/more", "type": "c", "major": 1, "minor": 3}]);
    // There is none of this path on the host to be bound.
    bundle.play().refused("/dev/more");
    bundle.config["linux"]["devices"] = json!([]);
    let answer = bundle.play();
    assert!(
        answer.out.starts_with("3\n"),
        "{}{}",
        answer.out,
        answer.err
    );
}

fn copy_up(host: &Host) {
    let script = "cat /data/a/file; readlink /data/link; stat -c %a:%u /data/a; echo new > /data/a/file; \
                  grep -c ' /data tmpfs' /proc/mounts";
    let mut bundle = Bundle::new(host, &["sh", "-c", script]);
    let data = bundle.directory.join("rootfs/data");
    fs::create_dir_all(data.join("a")).expect("directory");
    fs::write(data.join("a/file"), "old\n").expect("file");
    symlink("/etc/passwd", data.join("link")).expect("link");
    let changed = Command::new("sh")
        .args(["-c", "chmod 2750 a && chown 7 a && mkfifo pipe"])
        .current_dir(&data)
        .status();
    assert!(changed.expect("sh").success());
    push(
        &mut bundle.config["mounts"],
        json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
    );
    assert_eq!(bundle.play().output(), "old\n/etc/passwd\n2750:7\n1\n");
    assert_eq!(
        fs::read_to_string(data.join("a/file")).expect("file"),
        "old\n"
    );
}

fn remount(host: &Host) {
    let mut bundle = Bundle::new(
        host,
        &["sh", "-c", "touch /data/x; grep ' /data ' /proc/mounts"],
    );
    for options in [
        json!(["size=1m"]),
        json!(["remount", "bind", "ro", "noexec"]),
    ] {
        let mount =
            json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options});
        push(&mut bundle.config["mounts"], mount);
    }
    let answer = bundle.play();
    assert!(answer.err.contains("Read-only"), "{}", answer.err);
    assert!(answer.out.contains("ro,noexec"), "{}", answer.out);
}

fn links(host: &Host) {
    let mut bundle = Bundle::new(host, &["sh", "-c", "cat /there/made/file; ls /tmp/escaped"]);
    let root = bundle.directory.join("rootfs");
    let outside = bundle.directory.join("outside");
    fs::write(&outside, "mounted\n").expect("file");
    // Each leads nowhere before the mount is made.
    symlink("/there", root.join("first")).expect("link");
    symlink("../../../../../tmp/escaped", root.join("second")).expect("link");
    for (target, source, kind) in [
        ("/first/made/file", json!(outside), "bind"),
        ("/second", json!("tmpfs"), "tmpfs"),
    ] {
        let options = if kind == "bind" {
            json!(["bind"])
        } else {
            json!([])
        };
        let mount =
            json!({"destination": target, "type": kind, "source": source, "options": options});
        push(&mut bundle.config["mounts"], mount);
    }
    assert_eq!(bundle.play().output(), "mounted\n");
    assert!(root.join("tmp/escaped").is_dir());
    assert!(!Path::new("/tmp/escaped").exists());
    symlink("loop", root.join("loop")).expect("link");
    push(
        &mut bundle.config["mounts"],
        json!({"destination": "/loop", "type": "tmpfs", "source": "tmpfs"}),
    );
    bundle.play().refused("/loop");
}

fn shared(host: &Host) {
    let script = "grep -c shared: /proc/self/mountinfo; grep ' /data ' /proc/self/mountinfo";
    let mut bundle = Bundle::new(host, &["sh", "-c", script]);
    bundle.config["linux"]["rootfsPropagation"] = json!("shared");
    push(
        &mut bundle.config["mounts"],
        json!({"destination": "/data", "type": "bind", "source": "/tmp", "options": ["bind", "shared"]}),
    );
    bundle.write();
    // As on hosts with systemd all mounts are shared; of this copy nobody else knows.
    let script = "cut -d' ' -f5 /proc/self/mountinfo > before; \"$@\"; echo $?; \
                  cut -d' ' -f5 /proc/self/mountinfo | diff before - && echo same";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "shared",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(std::env::current_exe().expect("path"))
        .args(["oci", "--root"])
        .arg(&bundle.root)
        .args(["run", &bundle.id])
        .current_dir(&bundle.directory)
        .output();
    let answer = Answer::of(output.expect("unshare"));
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_eq!(lines.len(), 4, "{answer:?}");
    assert!(lines[1].contains(" shared:"), "{answer:?}");
    assert_eq!(lines[2..], ["0", "same"], "{answer:?}");
    bundle.assert_gone();
}
