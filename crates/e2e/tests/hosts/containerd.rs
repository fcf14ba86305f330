//! containerd with `ctr run --runc-binary`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bulkhead_e2e::Scenario;
use bulkhead_e2e::instance::{self, Output, eventually};
use serde_json::json;

use crate::support::{Daemon, Ground, check, grows, show_limit, succeed};

const NEEDED: [(&str, &str); 2] = [
    ("/usr/bin/containerd", "containerd"),
    ("/usr/bin/ctr", "containerd"),
];
const IMAGE: &str = "docker.io/library/busybox:test";

/// containerd of the ground's own, at the socket `containerd.sock`.
pub fn start(ground: &Ground) -> Result<Daemon> {
    let config = format!(
        "version = 2\nroot = '{}'\nstate = '{}'\n\
         disabled_plugins = ['io.containerd.grpc.v1.cri']\n[grpc]\naddress = '{}'\n",
        ground.path("containerd"),
        ground.path("containerd-run"),
        ground.path("containerd.sock")
    );
    fs::write(ground.path("containerd.toml"), config)?;
    let mut command = Command::new("/usr/bin/containerd");
    command.args(["--config", &ground.path("containerd.toml")]);
    let mut daemon = ground.daemon("containerd", command)?;
    let socket = ground.path("containerd.sock");
    daemon.await_answer(|| {
        let mut ctr = Command::new("/usr/bin/ctr");
        succeed(ctr.args(["--address", &socket, "version"])).map(drop)
    })?;
    Ok(daemon)
}

#[test]
fn containerd_runs_containers() -> Result<()> {
    let Some(ground) = Ground::new(&NEEDED)? else {
        return Ok(());
    };
    let containerd = start(&ground)?;
    let ctr = Ctr { ground: &ground };
    let mut scenario = Scenario::default();
    if scenario.step("an image", || ctr.import()) {
        scenario.step("run: output and exit codes", || ctr.run_short());
        scenario.step("a terminal", || ctr.terminal());
        scenario.step("limits", || ctr.limits());
        if scenario.step("run --detach", || ctr.start()) {
            scenario.step("exec", || ctr.exec());
            scenario.step("pause and resume", || ctr.pause());
            scenario.step("ps and metrics", || ctr.metrics());
            scenario.step("kill and remove", || ctr.kill());
        }
        scenario.step("the image goes", || {
            ctr.said(&["image", "remove", "--sync", IMAGE]).map(drop)
        });
    }
    scenario.step("the daemon ends", || containerd.stop());
    scenario.step("nothing is left", || {
        let left = ground.leftovers()?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    });
    scenario.finish()
}

struct Ctr<'a> {
    ground: &'a Ground,
}

impl Ctr<'_> {
    /// containerd puts containers into the cgroup that is named for their namespace.
    fn attempt(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("/usr/bin/ctr");
        command
            .args(["--address", &self.ground.path("containerd.sock")])
            .args(["--namespace", &self.ground.cgroup()])
            .args(arguments)
            .stdin(std::process::Stdio::null());
        instance::run(command)
    }

    fn said(&self, arguments: &[&str]) -> Result<String> {
        let output = self.attempt(arguments)?;
        check(&arguments.join(" "), &output, 0, "")?;
        Ok(output.stdout)
    }

    fn run(&self, options: &[&str], id: &str, command: &[&str]) -> Result<Output> {
        let runtime = self.ground.runtime();
        let always = ["run", "--runc-binary", &runtime];
        self.attempt(&[&always[..], options, &[IMAGE, id], command].concat())
    }

    /// An archive in the form of `docker save`.
    fn import(&self) -> Result<()> {
        let archive = self.ground.path("image");
        fs::create_dir(&archive)?;
        fs::copy(self.ground.path("tree.tar"), format!("{archive}/layer.tar"))?;
        let sum = succeed(Command::new("sha256sum").arg(self.ground.path("tree.tar")))?;
        let digest = sum.split(' ').next().context("a sum")?;
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        fs::write(format!("{archive}/config.json"), config.to_string())?;
        let manifest = json!([{
            "Config": "config.json", "RepoTags": ["busybox:test"], "Layers": ["layer.tar"],
        }]);
        fs::write(format!("{archive}/manifest.json"), manifest.to_string())?;
        let file = self.ground.path("image.tar");
        let tar = ["--create", "--file", &file, "--directory", &archive];
        let members = ["manifest.json", "config.json", "layer.tar"];
        succeed(Command::new("tar").args(tar).args(members))?;
        self.said(&["image", "import", &file])?;
        let images = self.said(&["image", "ls", "--quiet"])?;
        ensure!(images.trim() == IMAGE, "{images}");
        Ok(())
    }

    fn run_short(&self) -> Result<()> {
        for (command, code, part) in [
            (&["sh", "-c", "exit 5"][..], 5, ""),
            (&["nope"], 1, "executable file not found"),
            (&["/etc"], 1, "permission denied"),
        ] {
            let output = self.run(&["--rm"], "short", command)?;
            check(&command.join(" "), &output, code, part)?;
            // One that never ran stays, as with runc.
            let _ = self.attempt(&["container", "rm", "short"]);
        }
        let options = ["--rm", "--env", "A=b", "--cwd", "/srv/new"];
        // ctr loses what a process says that ends before ctr has opened the pipe.
        let script = "echo $A; pwd; sleep 0.5";
        let output = self.run(&options, "short", &["sh", "-c", script])?;
        check("run", &output, 0, "b\n/srv/new\n")?;
        let output = self.run(
            &["--rm", "--read-only"],
            "short",
            &["sh", "-c", "touch /x; sleep 0.5"],
        )?;
        check("--read-only", &output, 0, "Read-only file system")
    }

    fn terminal(&self) -> Result<()> {
        let runtime = self.ground.runtime();
        let (socket, namespace) = (self.ground.path("containerd.sock"), self.ground.cgroup());
        let line = format!(
            "stty rows 30 cols 90; ctr --address {socket} --namespace {namespace} run --rm --tty \
             --runc-binary {runtime} {IMAGE} tty sh -c 'tty; until stty size | grep 30.90; do \
             sleep 0.1; done; sleep 0.5'"
        );
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let output = instance::run(script)?;
        check("ctr run --tty", &output, 0, "/dev/pts/0")
    }

    fn limits(&self) -> Result<()> {
        let options = ["--rm", "--memory-limit", "33554432"];
        let script = show_limit("memory", "memory.limit_in_bytes", "memory.max");
        let script = format!("mount -t tmpfs none /tmp 2>&1; {script}; sleep 0.5");
        let cgroup = [
            "--mount",
            "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro",
        ];
        let options = [&options[..], &cgroup].concat();
        let output = self.run(&options, "limited", &["sh", "-c", &script])?;
        check("--memory-limit", &output, 0, "33554432")?;
        check("mount without CAP_SYS_ADMIN", &output, 0, "permi")?;
        let output = self.run(&options, "limited", &["tail", "/dev/zero"])?;
        check("more memory than the limit", &output, 137, "")
    }

    fn start(&self) -> Result<()> {
        let directory = self.ground.path("beat");
        fs::create_dir(&directory)?;
        let mount = format!("type=bind,src={directory},dst=/data,options=rbind:rw");
        let options = ["--detach", "--null-io", "--mount", &mount];
        let script = "trap 'exit 3' TERM; while :; do echo >> /data/beat; usleep 50000; done";
        let output = self.run(&options, "long", &["sh", "-c", script])?;
        check("run --detach", &output, 0, "")?;
        eventually("the workload beats", || {
            ensure!(self.beat()?, "it does not");
            Ok(())
        })
    }

    fn beat(&self) -> Result<bool> {
        grows(Path::new(&self.ground.path("beat/beat")))
    }

    fn exec(&self) -> Result<()> {
        let exec = |command: &[&str]| {
            let always = ["task", "exec", "--exec-id", "more", "long"];
            self.attempt(&[&always[..], command].concat())
        };
        check("exec", &exec(&["sh", "-c", "exit 6"])?, 6, "")?;
        let script = "grep -q 'usleep' /proc/1/cmdline && echo the same; sleep 0.5";
        check("exec", &exec(&["sh", "-c", script])?, 0, "the same")?;
        check("exec", &exec(&["nope"])?, 1, "executable file not found")
    }

    fn pause(&self) -> Result<()> {
        self.said(&["task", "pause", "long"])?;
        let listed = self.said(&["task", "ls"])?;
        let beats = self.beat()?;
        self.said(&["task", "resume", "long"])?;
        ensure!(listed.contains("PAUSED"), "{listed}");
        ensure!(!beats, "what is paused goes on");
        ensure!(self.beat()?, "it does not go on");
        Ok(())
    }

    fn metrics(&self) -> Result<()> {
        let processes = self.said(&["task", "ps", "long"])?;
        ensure!(processes.lines().count() >= 2, "{processes}");
        let metrics = self.said(&["task", "metrics", "long"])?;
        ensure!(metrics.contains("pids"), "{metrics}");
        Ok(())
    }

    fn kill(&self) -> Result<()> {
        self.said(&["task", "kill", "--signal", "TERM", "long"])?;
        eventually("it has stopped", || {
            let listed = self.said(&["task", "ls"])?;
            ensure!(listed.contains("STOPPED"), "{listed}");
            Ok(())
        })?;
        let output = self.attempt(&["task", "delete", "long"])?;
        check("delete", &output, 0, "non-zero exit code 3")?;
        let options = ["task", "start", "--detach", "--null-io", "long"];
        self.said(&options)?;
        let output = self.attempt(&["task", "delete", "--force", "long"])?;
        check("delete", &output, 0, "non-zero exit code 137")?;
        self.said(&["container", "rm", "long"]).map(drop)
    }
}
