//! An ordinary user runs containers: with only his own id mapped, and with those that
//! `newuidmap(1)` lets him have.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bundle::{Answer, Bundle};
use crate::support::{Host, HostScenario};

pub const SCENARIOS: &[HostScenario] = &[
    ("one_id_needs_no_tool", one_id),
    ("many_ids_are_mapped_by_newuidmap", many_ids),
    ("exec_and_the_other_verbs_work", verbs),
    ("what_an_ordinary_user_may_not_is_refused", refused),
];

const USER: u32 = 23_456;
/// The first of the subordinate ids.
const SUBORDINATE: u32 = 3_000_000;

/// A bundle of an ordinary user's, in a place that he can reach.
struct Own {
    bundle: Bundle,
    program: PathBuf,
}

impl Own {
    fn new(host: &Host, args: &[&str], mapping: &Value) -> Self {
        let mut bundle = Bundle::new(host, args);
        let linux = &mut bundle.config["linux"];
        linux["uidMappings"] = mapping.clone();
        linux["gidMappings"] = mapping.clone();
        for field in ["resources", "cgroupsPath"] {
            linux.as_object_mut().expect("linux").remove(field);
        }
        let namespaces = linux["namespaces"].as_array_mut().expect("list");
        namespaces.push(json!({"type": "user"}));
        let mounts = bundle.config["mounts"].as_array_mut().expect("list");
        mounts.retain(|mount| mount["type"] != "cgroup");
        for mount in mounts {
            if let Some(options) = mount["options"].as_array_mut() {
                options
                    .retain(|option| !option.as_str().is_some_and(|text| text.starts_with("gid=")));
            }
        }
        let top = bundle.directory.parent().expect("directory").to_owned();
        let program = top.join("program");
        if !program.exists() {
            fs::copy("/proc/self/exe", &program).expect("program");
        }
        for path in [&top, &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
        }
        let owner = format!("{USER}:{USER}");
        let owned = Command::new("chown")
            .args(["-R", &owner])
            .arg(&bundle.directory)
            .status();
        assert!(owned.expect("chown").success());
        Self { bundle, program }
    }

    /// The verb as the user, with the files below `/etc` that give him subordinate ids; nobody
    /// else sees them.
    fn command(&self, arguments: &[&str]) -> Command {
        let directory = &self.bundle.directory;
        let files = [
            (
                "passwd",
                format!("root:x:0:0::/:/bin/sh\nordinary:x:{USER}:{USER}::/:/bin/sh\n"),
            ),
            ("subuid", format!("ordinary:{SUBORDINATE}:65536\n")),
            ("subgid", format!("ordinary:{SUBORDINATE}:65536\n")),
        ];
        let mut script = String::new();
        for (name, text) in files {
            fs::write(directory.join(name), text).expect("file");
            script += &format!("mount --bind {name} /etc/{name} || exit 99; ");
        }
        script += &format!("exec setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\"");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(&self.program)
            .arg("oci")
            .arg("--root")
            .arg(directory.join("state"))
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments).output().expect("run"))
    }

    fn play(&self) -> Answer {
        self.bundle.write();
        self.run(&["run", &self.bundle.id])
    }
}

fn one() -> Value {
    json!([{"containerID": 0, "hostID": USER, "size": 1}])
}

fn many() -> Value {
    json!([
        {"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": SUBORDINATE, "size": 65536},
    ])
}

/// Says so where ordinary users have no user namespaces.
fn possible() -> bool {
    let allowed = |name: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).map_or(true, |text| text.trim() != "0")
    };
    let possible =
        allowed("kernel/unprivileged_userns_clone") && allowed("user/max_user_namespaces");
    if !possible {
        eprintln!("skipped: ordinary users may make no user namespaces here");
    }
    possible
}

fn one_id(host: &Host) {
    if !possible() {
        return;
    }
    let script = "id -u; cat /proc/self/setgroups; touch /made; echo x > /dev/null && echo null";
    let own = Own::new(host, &["sh", "-c", script], &one());
    assert_eq!(own.play().output(), "0\ndeny\nnull\n");
    let made = fs::metadata(own.bundle.directory.join("rootfs/made")).expect("made");
    assert_eq!(made.uid(), USER);
    assert!(
        !own.bundle
            .directory
            .join("state")
            .join(&own.bundle.id)
            .exists()
    );
}

fn many_ids(host: &Host) {
    if !possible() {
        return;
    }
    let installed = Command::new("sh")
        .args(["-c", "command -v newuidmap && command -v newgidmap"])
        .output();
    if !installed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: newuidmap is not installed (Debian's package uidmap)");
        return;
    }
    let script = "id; touch /made; chown 5:6 /made";
    let mut own = Own::new(host, &["sh", "-c", script], &many());
    own.bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [9]});
    own.bundle.config["process"]["capabilities"]["effective"] = json!(["CAP_CHOWN"]);
    own.bundle.config["process"]["capabilities"]["permitted"] = json!(["CAP_CHOWN"]);
    own.bundle.config["process"]["capabilities"]["bounding"] = json!(["CAP_CHOWN"]);
    let output = own.play().output();
    assert!(output.contains("groups=9"), "{output}");
    let made = fs::metadata(own.bundle.directory.join("rootfs/made")).expect("made");
    assert_eq!(made.uid(), SUBORDINATE + 4);
    assert_eq!(made.gid(), SUBORDINATE + 5);
}

fn verbs(host: &Host) {
    if !possible() {
        return;
    }
    let own = Own::new(host, &["sleep", "1000"], &one());
    own.bundle.write();
    let id = own.bundle.id.as_str();
    let started = own
        .command(&["run", "--detach", id])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(started.expect("run").success());
    assert_eq!(own.run(&["exec", id, "id", "-u"]).output(), "0\n");
    let state: Value = serde_json::from_str(&own.run(&["state", id]).output()).expect("state");
    assert_eq!(state["status"], "running");
    own.run(&["pause", id]).refused("");
    own.run(&["kill", id, "KILL"]).output();
    own.bundle.await_status("stopped");
    own.run(&["delete", id]).output();
    assert_eq!(own.run(&["list", "-q"]).output(), "");
}

fn refused(host: &Host) {
    if !possible() {
        return;
    }
    let mut own = Own::new(host, &["true"], &one());
    own.bundle.config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}});
    own.play().refused("cannot set memory limit");
    own.bundle.config["linux"]
        .as_object_mut()
        .expect("linux")
        .remove("resources");
    own.bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [9]});
    own.play().refused("supplementary groups");
    own.bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    let mounts = own.bundle.config["mounts"].as_array_mut().expect("list");
    mounts.push(
        json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["gid=5"]}),
    );
    own.play().refused("gid=5");
    let namespaces = own.bundle.config["linux"]["namespaces"].as_array_mut();
    namespaces.expect("list").pop();
    own.bundle.config["linux"]["uidMappings"] = json!([]);
    own.bundle.config["linux"]["gidMappings"] = json!([]);
    own.play()
        .refused("rootless container requires user namespaces");
    let left = fs::read_dir(own.bundle.directory.join("state")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}
