//! CVE-2025-52881, CVE-2019-19921, CVE-2019-16884: what the runtime writes below `/proc` goes to
//! a procfs, whatever the container has put there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use bulkhead_model::ProcessSpec;
use bulkhead_model::testing::{Fixture, Running};
use serde_json::json;

use super::paths::{Victim, add_mount, without_mounts};
use crate::bundle::Bundle;
use crate::support::Host;

/// Lays a tree that looks like a procfs to whoever writes by path, and leads to the host.
fn decoy(directory: &Path, victim: &Victim) {
    for (parent, name) in [
        ("sys/net/ipv4", "ip_forward"),
        ("self", "oom_score_adj"),
        ("self", "setgroups"),
        ("self/attr", "exec"),
        ("self/attr/apparmor", "exec"),
        ("thread-self/attr", "exec"),
        ("thread-self/attr/apparmor", "exec"),
    ] {
        fs::create_dir_all(directory.join(parent)).expect("directory");
        symlink(victim.0.join("file"), directory.join(parent).join(name)).expect("link");
    }
}

pub fn sysctl(host: &Host) {
    // In the image itself, in a volume, and with a tmpfs over what was there.
    for laid in ["image", "volume", "tmpfs"] {
        let mut bundle = Bundle::new(host, &["sleep", "1000"]);
        let victim = Victim::new(host, &bundle);
        without_mounts(&mut bundle, "/proc");
        bundle.config["linux"]["maskedPaths"] = json!([]);
        bundle.config["linux"]["readonlyPaths"] = json!([]);
        bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        let image = bundle.directory.join("rootfs/proc");
        fs::create_dir_all(&image).expect("proc");
        match laid {
            "image" => decoy(&image, &victim),
            "volume" => {
                let volume = host.fresh("volume");
                decoy(&volume, &victim);
                add_mount(
                    &mut bundle,
                    json!({"destination": "/proc", "type": "bind", "source": volume,
                           "options": ["bind"]}),
                );
            }
            _ => add_mount(
                &mut bundle,
                json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}),
            ),
        }
        bundle.start();
        victim.assert_untouched(laid);
        let inside = bundle.directory.join("rootfs");
        let inside = inside.join(victim.0.strip_prefix("/").expect("path").join("file"));
        assert_eq!(
            fs::read_to_string(inside).expect("file"),
            "inside",
            "{laid}"
        );
        // It is in force, as the host's own procfs tells of that network.
        let pid = bundle.state()["pid"].to_string();
        let output = Command::new("nsenter")
            .args([
                "--net",
                "--target",
                &pid,
                "cat",
                "/proc/sys/net/ipv4/ip_forward",
            ])
            .output();
        assert_eq!(output.expect("nsenter").stdout, b"1\n", "{laid}");
    }
}

pub fn exec(host: &Host) {
    let mut bundle = Bundle::new(host, &["sleep", "1000"]);
    let victim = Victim::new(host, &bundle);
    // A process of the container has the right to mount.
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    decoy(&bundle.directory.join("rootfs/decoy"), &victim);
    bundle.start();
    let script = "mount --bind /decoy /proc && cat /proc/self/oom_score_adj";
    let text = bundle
        .run(&["exec", &bundle.id, "sh", "-c", script])
        .output();
    assert_eq!(text, "inside", "the decoy does not lead astray");
    let process = json!({
        "args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "oomScoreAdj": 777,
        "user": {"uid": 0, "gid": 0},
    });
    fs::write(bundle.directory.join("process.json"), process.to_string()).expect("process");
    bundle
        .run(&["exec", "--process", "process.json", &bundle.id])
        .output();
    let cat = format!("cat {}/file", victim.0.display());
    let text = bundle.run(&["exec", &bundle.id, "sh", "-c", &cat]).output();
    assert_eq!(text, "inside", "exec wrote to the decoy");
    victim.assert_untouched("exec");
    // It is in force nevertheless.
    let process = process.to_string().replace("true", "/bin/sleep\",\"500");
    fs::write(bundle.directory.join("process.json"), process).expect("process");
    let flags = [
        "exec",
        "--detach",
        "--pid-file",
        "pid",
        "--process",
        "process.json",
        &bundle.id,
    ];
    assert_eq!(bundle.detached(&flags).code, 0);
    let pid = fs::read_to_string(bundle.directory.join("pid")).expect("pid");
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("score");
    assert_eq!(score, "777\n");
}

pub fn exec_of_the_backend(host: &Host) {
    let mut spec = host.spec(&["sleep", "1000"]);
    spec.security.privileged = true;
    spec.resources.oom_score_adj = Some(555);
    let running = Running::start(host, &spec);
    let exec = |script: &str| {
        let process = ProcessSpec {
            args: ["sh", "-c", script].map(String::from).to_vec(),
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            privileged: true,
            ..ProcessSpec::default()
        };
        running.exec(&process).text().to_owned()
    };
    exec(
        "echo untouched >/caught; mkdir -p /decoy/self; \
         ln -s /caught /decoy/self/oom_score_adj; mount --bind /decoy /proc",
    );
    assert_eq!(exec("cat /proc/self/oom_score_adj"), "untouched");
    assert_eq!(exec("cat /caught"), "untouched", "exec wrote to the decoy");
}

/// CVE-2019-19921: `/proc` in the image, or on the way to it, leads into a volume.
pub fn linked_proc(host: &Host) {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new(host, &["true"]);
        let victim = Victim::new(host, &bundle);
        symlink(&victim.0, bundle.directory.join("rootfs").join(name)).expect("link");
        bundle.play().refused("symbolic link");
        victim.assert_untouched(name);
        bundle.assert_gone();
    }
}

/// CVE-2019-16884: a mount below `/proc` makes decoys of the files that security is written to.
pub fn mount_inside(host: &Host) {
    for destination in [
        "/proc/self",
        "/proc/self/attr",
        "/proc/sys",
        "/proc/sys/net",
        "/proc/1/../sys",
        "//proc//sys/",
        "/link/sys",
        "/proc/sys/kernel/core_pattern",
    ] {
        for kind in ["tmpfs", "bind"] {
            let mut bundle = Bundle::new(host, &["true"]);
            symlink("/proc", bundle.directory.join("rootfs/link")).expect("link");
            let source = host.fresh("source");
            let file = source.join("file");
            fs::write(&file, "decoy").expect("file");
            let source = match destination.ends_with("core_pattern") {
                true => file,
                false => source,
            };
            add_mount(
                &mut bundle,
                match kind {
                    "tmpfs" => json!({"destination": destination, "type": "tmpfs",
                                      "source": "tmpfs"}),
                    _ => json!({"destination": destination, "type": "bind", "source": source,
                                "options": ["bind"]}),
                },
            );
            let answer = bundle.play();
            assert_eq!(answer.code, 1, "{kind} on {destination} was taken");
            bundle.assert_gone();
        }
    }
}
