//! Podman with `--runtime`, as root, without systemd.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use bulkhead_e2e::Scenario;
use bulkhead_e2e::instance::{self, Output, eventually};

use crate::support::{Ground, check, grows, show_limit};

const NEEDED: [(&str, &str); 2] = [("/usr/bin/podman", "podman"), ("/usr/bin/conmon", "conmon")];
const IMAGE: &str = "localhost/busybox:test";

#[test]
fn podman_runs_containers() -> Result<()> {
    let Some(ground) = Ground::new(&NEEDED)? else {
        return Ok(());
    };
    // Podman's own default for RLIMIT_NOFILE needs CAP_SYS_RESOURCE; and its locks would be shared
    // with every other Podman of the machine.
    let settings = "[containers]\ndefault_ulimits = []\n[engine]\nlock_type = \"file\"\n";
    fs::write(ground.path("containers.conf"), settings)?;
    let podman = Podman { ground: &ground };
    let mut scenario = Scenario::default();
    if scenario.step("an image", || {
        podman
            .said(&["import", &ground.path("tree.tar"), IMAGE])
            .map(drop)
    }) {
        scenario.step("run: output and exit codes", || podman.run_short());
        scenario.step("confinement", || podman.confinement());
        scenario.step("limits", || podman.limits());
        scenario.step("a terminal", || podman.terminal());
        if scenario.step("run --detach", || podman.start()) {
            scenario.step("exec", || podman.exec());
            scenario.step("pause and unpause", || podman.pause());
            scenario.step("stats and top", || podman.stats());
            scenario.step("update", || podman.update());
            scenario.step("stop and start", || podman.stop());
            scenario.step("kill and remove", || podman.kill());
        }
        scenario.step("create and start --attach", || podman.create());
    }
    scenario.step("everything goes", || podman.remove_all());
    scenario.step("nothing is left", || {
        let left = ground.leftovers()?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    });
    scenario.finish()
}

struct Podman<'a> {
    ground: &'a Ground,
}

impl Podman<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let path = |name: &str| self.ground.path(name);
        let mut command = Command::new("/usr/bin/podman");
        command
            .args([
                "--root",
                &path("storage"),
                "--runroot",
                &path("storage-run"),
            ])
            .args(["--tmpdir", &path("podman"), "--runtime", &path("runtime")])
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
            .args(arguments)
            // Its monitor tells of a kill for want of memory by a file where it stands.
            .current_dir(path("."))
            .env("CONTAINERS_CONF", path("containers.conf"))
            .env("TMPDIR", path("."))
            .stdin(std::process::Stdio::null());
        command
    }

    fn attempt(&self, arguments: &[&str]) -> Result<Output> {
        instance::run(self.command(arguments))
    }

    fn said(&self, arguments: &[&str]) -> Result<String> {
        let output = self.attempt(arguments)?;
        check(&arguments.join(" "), &output, 0, "")?;
        Ok(output.stdout)
    }

    /// `create` or `run` with options.
    fn make(&self, verb: &str, options: &[&str], command: &[&str]) -> Result<Output> {
        let parent = format!("/{}", self.ground.cgroup());
        let always = [verb, "--network", "none", "--cgroup-parent", &parent];
        self.attempt(&[&always[..], options, &[IMAGE], command].concat())
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Result<Output> {
        self.make("run", &[&["--rm"], options].concat(), command)
    }

    fn run_short(&self) -> Result<()> {
        for (options, command, code, part) in [
            (&[][..], &["sh", "-c", "echo out; exit 5"][..], 5, "out\n"),
            (&[], &["nope"], 127, "executable file not found"),
            (&[], &["/etc"], 126, "permission denied"),
            (&["--user", "nobody2"], &["true"], 126, "nobody2"),
            (
                &["--user", "7:8"],
                &["sh", "-c", "id -u; id -g"],
                0,
                "7\n8\n",
            ),
            (&["--workdir", "/etc"], &["pwd"], 0, "/etc\n"),
            (&["--env", "A=b"], &["sh", "-c", "echo $A"], 0, "b\n"),
        ] {
            let output = self.run(options, command)?;
            check(&command.join(" "), &output, code, part)?;
        }
        Ok(())
    }

    fn confinement(&self) -> Result<()> {
        let status = ["cat", "/proc/self/status"];
        for (options, command, code, part) in [
            (
                &["--read-only"][..],
                &["touch", "/x"][..],
                1,
                "Read-only file system",
            ),
            (
                &["--cap-drop", "ALL"],
                &status,
                0,
                "CapEff:\t0000000000000000",
            ),
            (&[], &status, 0, "Seccomp:\t2"),
            (
                &["--security-opt", "seccomp=unconfined"],
                &status,
                0,
                "Seccomp:\t0",
            ),
            (
                &["--security-opt", "no-new-privileges"],
                &status,
                0,
                "NoNewPrivs:\t1",
            ),
            (&["--tmpfs", "/mnt:size=1m"], &["df", "/mnt"], 0, "1024"),
            (&["--hostname", "box"], &["hostname"], 0, "box\n"),
            (&[], &["ls", "/sys/class/net"], 0, "lo\n"),
        ] {
            let output = self.run(options, command)?;
            check(&format!("{options:?} {command:?}"), &output, code, part)?;
        }
        Ok(())
    }

    fn limits(&self) -> Result<()> {
        let output = self.run(&["--memory", "24m"], &["tail", "/dev/zero"])?;
        check("more memory than the limit", &output, 137, "")?;
        let script = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait";
        let output = self.run(&["--pids-limit", "5"], &["sh", "-c", script])?;
        check("--pids-limit 5", &output, 2, "can't fork")?;
        let script = show_limit("cpu", "cpu.cfs_quota_us", "cpu.max");
        let output = self.run(&["--cpus", "0.5"], &["sh", "-c", &script])?;
        check("--cpus", &output, 0, "50000")
    }

    fn terminal(&self) -> Result<()> {
        let output = self.run(&["--tty"], &["tty"])?;
        check("--tty", &output, 0, "/dev/pts/0")
    }

    fn start(&self) -> Result<()> {
        let directory = self.ground.path("beat");
        fs::create_dir(&directory)?;
        let volume = format!("{directory}:/data");
        let options = ["--detach", "--name", "one", "--volume", &volume];
        let script = "trap 'exit 3' TERM; while :; do echo >> /data/beat; usleep 50000; done";
        let output = self.make("run", &options, &["sh", "-c", script])?;
        check("run --detach", &output, 0, "")?;
        self.await_beat()
    }

    fn beat(&self) -> Result<bool> {
        grows(Path::new(&self.ground.path("beat/beat")))
    }

    fn await_beat(&self) -> Result<()> {
        eventually("the workload beats", || {
            ensure!(self.beat()?, "it does not");
            Ok(())
        })
    }

    fn inspect(&self) -> Result<String> {
        let format = "{{.State.Status}} {{.State.ExitCode}}";
        let said = self.said(&["inspect", "--format", format, "one"])?;
        Ok(said.trim().into())
    }

    fn exec(&self) -> Result<()> {
        for (options, command, code, part) in [
            (&[][..], &["sh", "-c", "exit 6"][..], 6, ""),
            (&[], &["grep", "usleep", "/proc/1/cmdline"], 0, "usleep"),
            (
                &["--user", "5:6"],
                &["sh", "-c", "id -u; id -g"],
                0,
                "5\n6\n",
            ),
            (&["--tty"], &["tty"], 0, "/dev/pts/"),
            (&[], &["nope"], 127, "executable file not found"),
            (&["--workdir", "/nowhere"], &["true"], 127, "/nowhere"),
        ] {
            let output = self.attempt(&[&["exec"], options, &["one"], command].concat())?;
            check(&format!("{options:?} {command:?}"), &output, code, part)?;
        }
        Ok(())
    }

    fn pause(&self) -> Result<()> {
        self.said(&["pause", "one"])?;
        let status = self.inspect()?;
        let beats = self.beat()?;
        self.said(&["unpause", "one"])?;
        ensure!(status == "paused 0", "{status}");
        ensure!(!beats, "what is paused goes on");
        ensure!(self.beat()?, "it does not go on");
        Ok(())
    }

    fn stats(&self) -> Result<()> {
        let format = "{{.PIDs}} {{.MemUsage}}";
        let said = self.said(&["stats", "--no-stream", "--format", format, "one"])?;
        ensure!(
            matches!(said.split(' ').next(), Some("1" | "2")) && !said.contains(" 0B"),
            "{said}"
        );
        let said = self.said(&["top", "one"])?;
        ensure!(said.contains("usleep"), "{said}");
        Ok(())
    }

    fn update(&self) -> Result<()> {
        self.said(&["update", "--memory", "64m", "--cpus", "0.5", "one"])?;
        let script = [
            show_limit("memory", "memory.limit_in_bytes", "memory.max"),
            show_limit("cpu", "cpu.cfs_quota_us", "cpu.max"),
        ];
        let said = self.said(&["exec", "one", "sh", "-c", &script.join("; ")])?;
        ensure!(said.starts_with("67108864\n50000"), "{said:?}");
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        self.said(&["stop", "--time", "20", "one"])?;
        let seen = self.inspect()?;
        ensure!(seen == "exited 3", "{seen}");
        self.said(&["start", "one"])?;
        self.await_beat()
    }

    fn kill(&self) -> Result<()> {
        self.said(&["kill", "one"])?;
        eventually("it has ended", || {
            let seen = self.inspect()?;
            ensure!(seen == "exited 137", "{seen}");
            Ok(())
        })?;
        self.said(&["start", "one"])?;
        self.said(&["rm", "--force", "--time", "0", "one"])?;
        let all = self.said(&["ps", "--all", "--quiet"])?;
        ensure!(all.is_empty(), "{all}");
        Ok(())
    }

    fn create(&self) -> Result<()> {
        let output = self.make(
            "create",
            &["--name", "two"],
            &["sh", "-c", "echo hi; exit 4"],
        )?;
        check("create", &output, 0, "")?;
        let output = self.attempt(&["start", "--attach", "two"])?;
        check("start --attach", &output, 4, "hi\n")?;
        self.said(&["rm", "two"]).map(drop)
    }

    fn remove_all(&self) -> Result<()> {
        self.said(&["rm", "--all", "--force", "--time", "0"])?;
        self.said(&["rmi", "--all", "--force"]).map(drop)
    }
}
