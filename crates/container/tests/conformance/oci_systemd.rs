//! The systemd driver against a systemd: the host's, or one that is PID 1 of namespaces of its own
//! on cgroup v2.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::bundle::{Answer, Bundle};
use crate::support::{Host, HostScenario, cgroup_parent};

pub const SCENARIOS: &[HostScenario] = &[
    ("a_scope_is_made_limited_and_removed", scope),
    ("a_failed_unit_is_forgotten", failed_unit),
    ("without_systemd_the_flag_is_refused_with_a_reason", refused),
];

/// Where systemd is PID 1.
struct Machine {
    /// The process that made its namespaces, and systemd itself, unless it is the host's.
    booted: Option<(Child, u32, PathBuf)>,
}

impl Machine {
    /// `None`, said aloud, where there is no systemd and none can be started.
    fn new(host: &Host) -> Option<Self> {
        if Path::new("/run/systemd/system").is_dir() {
            return Some(Self { booted: None });
        }
        let systemd = Path::new("/usr/lib/systemd/systemd");
        let layout = bulkhead_container::cgroup::probe().expect("cgroups");
        let unified = layout.beside().or_else(|| {
            layout
                .hierarchies()
                .next()
                .filter(|_| layout.to_string() == "v2")
        });
        let Some(unified) = unified.filter(|_| systemd.exists()) else {
            eprintln!("skipped: systemd is not installed, or no cgroup v2 is mounted");
            return None;
        };
        let directory = host.fresh("systemd");
        let target = "[Unit]\nDescription=Nothing\nDefaultDependencies=no\n";
        fs::write(directory.join("nothing.target"), target).expect("target");
        let unique = directory.parent().and_then(Path::file_name).expect("name");
        let group = unified.mount_point.join(format!(
            "{}-systemd-{}",
            cgroup_parent(),
            unique.to_string_lossy()
        ));
        fs::create_dir_all(&group).expect("group");
        let script = format!(
            "echo $$ > {}/cgroup.procs; exec unshare --cgroup --mount --pid --ipc --uts --net \
             --fork --propagation private --mount-proc sh -c '\
             umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; \
             mount -t tmpfs -o mode=755 tmpfs /run; \
             exec env -i PATH=$PATH container=test SYSTEMD_UNIT_PATH={} {} --system \
             --unit=nothing.target --log-target=null --show-status=0'",
            group.display(),
            directory.display(),
            systemd.display()
        );
        let child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let mut machine = Self {
            booted: Some((child, 0, group)),
        };
        for _ in 0..400 {
            std::thread::sleep(Duration::from_millis(25));
            machine.find_systemd();
            if machine
                .run("systemctl", &["is-active", "nothing.target"])
                .code
                == 0
            {
                return Some(machine);
            }
        }
        eprintln!("skipped: systemd does not start in namespaces here");
        None
    }

    fn find_systemd(&mut self) {
        if let Some((child, systemd, _)) = &mut self.booted {
            let children = format!("/proc/{0}/task/{0}/children", child.id());
            let children = fs::read_to_string(children).unwrap_or_default();
            let first = children.split_whitespace().next();
            *systemd = first.and_then(|pid| pid.parse().ok()).unwrap_or(0);
        }
    }

    fn command(&self, program: &str) -> Command {
        let Some((_, systemd, _)) = &self.booted else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={systemd}"));
        command.args(["--mount", "--pid", "--cgroup", "--ipc", "--uts", program]);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Answer {
        let mut command = self.command(program);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        Answer::of(output.expect("run"))
    }

    fn oci(&self, bundle: &Bundle, arguments: &[&str]) -> Answer {
        let program = std::env::current_exe().expect("program");
        let log = bundle.directory.join("log");
        let log = fs::File::create(log).expect("log");
        let root = bundle.root.to_str().expect("path");
        // nsenter(1) goes to the root directory.
        let script = "cd \"$1\" && shift && exec \"$@\"";
        let mut command = self.command("sh");
        command.args(["-c", script, "sh"]).arg(&bundle.directory);
        command.arg(program);
        command.args(["oci", "--root", root, "--systemd-cgroup"]);
        // A container that goes on keeps the streams.
        let detached = arguments.contains(&"-d");
        let output = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(if detached {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stderr(log)
            .output();
        let mut answer = Answer::of(output.expect("oci"));
        answer.err = fs::read_to_string(bundle.directory.join("log")).expect("log");
        answer
    }

    fn property(&self, unit: &str, name: &str) -> String {
        let answer = self.run("systemctl", &["show", "--property", name, unit]);
        let text = answer.output();
        text.trim()
            .trim_start_matches(name)
            .trim_start_matches('=')
            .into()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some((child, systemd, group)) = &mut self.booted {
            if let Some(systemd) = rustix::process::Pid::from_raw(*systemd as i32) {
                let _ = rustix::process::kill_process(systemd, rustix::process::Signal::KILL);
            }
            let _ = child.kill();
            let _ = child.wait();
            // The groups that systemd made go from the innermost outwards.
            let script = format!(
                "for i in 1 2 3 4 5; do find {0} -depth -type d -exec rmdir {{}} + && break; sleep 0.1; done",
                group.display()
            );
            let _ = Command::new("sh")
                .args(["-c", &script])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// A bundle whose group is the scope `PREFIX-NAME.scope`, which is given.
fn bundle(host: &Host, args: &[&str]) -> (Bundle, String) {
    let mut bundle = Bundle::new(host, args);
    let name = format!("{}-{}", cgroup_parent(), bundle.id);
    bundle.config["linux"]["cgroupsPath"] = json!(format!("machine-test.slice:bulkhead:{name}"));
    (bundle, format!("bulkhead-{name}.scope"))
}

fn scope(host: &Host) {
    let Some(machine) = Machine::new(host) else {
        return;
    };
    let (mut bundle, unit) = bundle(host, &["sh", "-c", "cat; sleep 1000"]);
    bundle.config["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "uint64 7"});
    bundle.write();
    let id = bundle.id.clone();
    machine.oci(&bundle, &["run", "-d", &id]).output();
    for (name, value) in [
        ("ActiveState", "active"),
        ("Slice", "machine-test.slice"),
        ("Delegate", "yes"),
        ("TimeoutStopUSec", "7s"),
        ("DevicePolicy", "strict"),
        ("NeedDaemonReload", "no"),
    ] {
        assert_eq!(machine.property(&unit, name), value, "{name}");
    }
    assert!(
        machine
            .property(&unit, "DeviceAllow")
            .contains("/dev/char/1:3")
    );
    let group = machine.property(&unit, "ControlGroup");
    assert_eq!(group, format!("/machine.slice/machine-test.slice/{unit}"));
    let answer = machine.oci(
        &bundle,
        &["exec", &id, "sh", "-c", "echo x > /dev/null && echo fine"],
    );
    assert_eq!(answer.output(), "fine\n");
    machine.run("systemctl", &["daemon-reload"]).output();
    let answer = machine.oci(
        &bundle,
        &["exec", &id, "sh", "-c", "echo x > /dev/null && echo fine"],
    );
    assert_eq!(answer.output(), "fine\n");
    // The limits that can be had depend on the host; the property is told either way.
    let updated = machine.oci(&bundle, &["update", "--pids-limit", "30", &id]);
    let controllers = machine.run("cat", &["/sys/fs/cgroup/cgroup.controllers"]);
    if controllers.output().contains("pids") {
        updated.output();
    } else {
        updated.refused("linux.resources.pids.limit");
    }
    machine.oci(&bundle, &["pause", &id]).output();
    assert!(
        machine
            .oci(&bundle, &["state", &id])
            .output()
            .contains("paused")
    );
    machine.oci(&bundle, &["delete", "--force", &id]).output();
    assert_eq!(machine.property(&unit, "LoadState"), "not-found");
    assert!(!bundle.root.join(&id).exists(), "the state is left");
    let directory = format!("/sys/fs/cgroup{group}");
    assert_ne!(machine.run("test", &["-e", &directory]).code, 0);
}

fn failed_unit(host: &Host) {
    let Some(machine) = Machine::new(host) else {
        return;
    };
    let (mut bundle, unit) = bundle(host, &["sleep", "1000"]);
    let id = bundle.id.clone();
    bundle.config["annotations"] = json!({"org.systemd.property.Nope": "1"});
    bundle.write();
    machine
        .oci(&bundle, &["run", "-d", &id])
        .refused("unable to start unit");
    assert!(!bundle.root.join(&id).exists(), "the state is left");
    bundle.config["annotations"] = json!({
        "org.systemd.property.RuntimeMaxSec": "1",
        "org.systemd.property.TimeoutStopSec": "1",
    });
    bundle.write();
    machine.oci(&bundle, &["run", "-d", &id]).output();
    for _ in 0..400 {
        if machine.property(&unit, "ActiveState") == "failed" {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    assert_eq!(machine.property(&unit, "ActiveState"), "failed");
    machine.oci(&bundle, &["delete", &id]).output();
    assert_eq!(machine.property(&unit, "LoadState"), "not-found");
}

fn refused(host: &Host) {
    if Path::new("/run/systemd/system").is_dir() {
        eprintln!("skipped: systemd runs on this host");
        return;
    }
    let (bundle, _) = bundle(host, &["true"]);
    bundle.write();
    let mut command = Command::new("/proc/self/exe");
    let root = bundle.root.to_str().expect("path");
    command.args(["oci", "--root", root, "--systemd-cgroup", "run", &bundle.id]);
    let output = command
        .current_dir(&bundle.directory)
        .output()
        .expect("run");
    Answer::of(output).refused("systemd not running on this host");
    assert!(!bundle.root.join(&bundle.id).exists(), "the state is left");
}
