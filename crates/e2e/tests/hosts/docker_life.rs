//! Docker on a container that goes on: exec, pause, update, stats, stop, kill and remove.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bulkhead_e2e::Scenario;
use serde_json::Value;

use crate::docker::{Docker, IMAGE, NEEDED, Network};
use crate::support::{Ground, check, grows, show_limit};

/// Holds 8 MiB, leaves a beat in a file, and ends with 3 on SIGTERM.
const WORKLOAD: &str = "trap 'exit 3' TERM; trap 'echo got it' USR1
    head -c 8388608 /dev/zero > /dev/shm/held
    while :; do echo >> /data/beat; usleep 50000; done";

#[test]
fn docker_keeps_hold_of_containers() -> Result<()> {
    let Some(ground) = Ground::new(&NEEDED)? else {
        return Ok(());
    };
    let docker = Docker::start(&ground, Network::None)?;
    let life = Life { docker: &docker };
    let mut scenario = Scenario::default();
    if scenario.step("run --detach", || life.start()) {
        scenario.step("exec", || life.exec());
        scenario.step("exec with a terminal", || life.exec_terminal());
        scenario.step("exec that cannot be is told", || life.exec_failures());
        scenario.step("top and ps", || life.top());
        scenario.step("pause and unpause", || life.pause());
        scenario.step("stats", || life.figures());
        scenario.step("update", || life.update());
        scenario.step("kill with a signal that is handled", || life.signal());
        scenario.step("stop, start and restart", || life.stop());
        scenario.step("a workload that ignores SIGTERM is killed", || {
            life.stubborn()
        });
        scenario.step("kill a paused one, and remove it by force", || {
            life.kill_paused()
        });
        scenario.step("many at once", || life.many());
    }
    scenario.step("daemons end", || docker.stop());
    scenario.step("nothing is left", || {
        let left = ground.leftovers()?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    });
    scenario.finish()
}

struct Life<'a> {
    docker: &'a Docker<'a>,
}

impl Life<'_> {
    fn run(&self, options: &[&str], command: &[&str]) -> Result<String> {
        let always = ["run", "--runtime", "bulkhead", "--network", "none"];
        let arguments = [&always[..], options, &[IMAGE], command].concat();
        self.docker.said(&arguments)
    }

    fn exec(&self) -> Result<()> {
        let exec = |arguments: &[&str]| self.docker.said(&[&["exec"], arguments].concat());
        let output = self
            .docker
            .attempt(&["exec", "one", "sh", "-c", "exit 6"])?;
        check("exec", &output, 6, "")?;
        let said = exec(&["one", "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '"])?;
        ensure!(said.contains("got it"), "not the same processes: {said}");
        let options = ["-u", "5:6", "-w", "/etc", "-e", "A=b", "one"];
        let script = ["sh", "-c", "id -u; id -g; pwd; echo $A"];
        let said = exec(&[&options[..], &script[..]].concat())?;
        ensure!(said == "5\n6\n/etc\nb\n", "{said:?}");
        let own = exec(&[
            "one",
            "sh",
            "-c",
            "cat /proc/self/cgroup; echo; cat /proc/1/cgroup",
        ])?;
        let (exec, init) = own.split_once("\n\n").context("two lists")?;
        ensure!(
            exec.trim() == init.trim(),
            "exec is not in the cgroup: {own}"
        );
        Ok(())
    }

    fn exec_terminal(&self) -> Result<()> {
        let said = self.docker.said(&["exec", "--tty", "one", "tty"])?;
        ensure!(said.trim().starts_with("/dev/pts/"), "{said:?}");
        Ok(())
    }

    fn exec_failures(&self) -> Result<()> {
        for (arguments, part) in [
            (&["one", "nope"][..], "executable file not found"),
            (&["one", "/etc"], "permission denied"),
            (&["-w", "/nowhere", "one", "true"], "/nowhere"),
            (&["-u", "nobody2", "one", "true"], "nobody2"),
        ] {
            let output = self.docker.attempt(&[&["exec"], arguments].concat())?;
            check(&arguments.join(" "), &output, 126, part)?;
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let directory = self.docker.ground.path("beat");
        std::fs::create_dir(&directory)?;
        let volume = format!("{directory}:/data");
        let options = ["--detach", "--name", "one", "--volume", &volume];
        self.run(&options, &["sh", "-c", WORKLOAD])?;
        self.await_beat()
    }

    fn beat(&self) -> Result<bool> {
        grows(Path::new(&self.docker.ground.path("beat/beat")))
    }

    fn await_beat(&self) -> Result<()> {
        bulkhead_e2e::instance::eventually("the workload beats", || {
            ensure!(self.beat()?, "it does not");
            Ok(())
        })
    }

    fn inspect(&self, format: &str) -> Result<String> {
        let said = self.docker.said(&["inspect", "--format", format, "one"])?;
        Ok(said.trim().into())
    }

    fn top(&self) -> Result<()> {
        let said = self.docker.said(&["top", "one"])?;
        ensure!(said.contains("got it"), "{said}");
        ensure!(self.docker.said(&["ps"])?.contains("Up "));
        Ok(())
    }

    fn pause(&self) -> Result<()> {
        self.docker.said(&["pause", "one"])?;
        let status = self.inspect("{{.State.Status}}")?;
        let beats = self.beat()?;
        self.docker.said(&["unpause", "one"])?;
        ensure!(status == "paused", "{status}");
        ensure!(!beats, "what is paused goes on");
        ensure!(self.beat()?, "it does not go on");
        Ok(())
    }

    fn stats(&self) -> Result<Value> {
        let line = ["stats", "--no-stream", "--format", "{{json .}}", "one"];
        Ok(serde_json::from_str(&self.docker.said(&line)?)?)
    }

    fn figures(&self) -> Result<()> {
        let stats = self.stats()?;
        let text = |name: &str| stats[name].as_str().unwrap_or_default().to_owned();
        // "9.1MiB / 23.5GiB": what it holds, and little beside.
        let held = text("MemUsage");
        let held: f64 = held.split("MiB").next().unwrap_or_default().parse()?;
        ensure!((8.0..16.0).contains(&held), "{stats}");
        ensure!((1..=3).contains(&text("PIDs").parse::<u32>()?), "{stats}");
        ensure!(text("CPUPerc") != "0.00%", "{stats}");
        Ok(())
    }

    fn update(&self) -> Result<()> {
        let limits = [
            "--memory",
            "64m",
            "--memory-swap",
            "64m",
            "--pids-limit",
            "9",
        ];
        let cpus = ["--cpus", "0.5", "--cpuset-cpus", "0"];
        self.docker
            .said(&[&["update"], &limits[..], &cpus[..], &["one"]].concat())?;
        let script = [
            show_limit("memory", "memory.limit_in_bytes", "memory.max"),
            show_limit("pids", "pids.max", "pids.max"),
            show_limit("cpu", "cpu.cfs_quota_us", "cpu.max"),
            show_limit("cpuset", "cpuset.cpus", "cpuset.cpus"),
        ];
        let said = self
            .docker
            .said(&["exec", "one", "sh", "-c", &script.join("; ")])?;
        let lines: Vec<&str> = said.lines().collect();
        ensure!(
            lines[..2] == ["67108864", "9"] && lines[2].starts_with("50000") && lines[3] == "0",
            "{lines:?}"
        );
        let usage = self.stats()?["MemUsage"].to_string();
        ensure!(usage.contains("/ 64MiB"), "{usage}");
        ensure!(self.beat()?, "it does not go on");
        Ok(())
    }

    fn signal(&self) -> Result<()> {
        self.docker.said(&["kill", "--signal", "USR1", "one"])?;
        bulkhead_e2e::instance::eventually("the log has it", || {
            let logs = self.docker.said(&["logs", "one"])?;
            ensure!(logs == "got it\n", "{logs:?}");
            Ok(())
        })
    }

    fn stop(&self) -> Result<()> {
        let state = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}";
        self.docker.said(&["stop", "--time", "20", "one"])?;
        let seen = self.inspect(state)?;
        ensure!(seen == "exited 3 false", "{seen}");
        self.docker.said(&["start", "one"])?;
        self.await_beat()?;
        self.docker.said(&["restart", "--time", "20", "one"])?;
        self.await_beat()?;
        self.docker.said(&["kill", "one"])?;
        let seen = self.inspect(state)?;
        ensure!(seen == "exited 137 false", "{seen}");
        self.docker.said(&["rm", "one"]).map(drop)
    }

    fn stubborn(&self) -> Result<()> {
        let script = "trap '' TERM; while :; do sleep 1; done";
        self.run(&["--detach", "--name", "one"], &["sh", "-c", script])?;
        self.docker.said(&["stop", "--time", "1", "one"])?;
        let code = self.inspect("{{.State.ExitCode}}")?;
        ensure!(code == "137", "{code}");
        self.docker.said(&["rm", "one"]).map(drop)
    }

    fn kill_paused(&self) -> Result<()> {
        self.run(&["--detach", "--name", "one"], &["sleep", "1000"])?;
        self.docker.said(&["pause", "one"])?;
        self.docker.said(&["rm", "--force", "one"])?;
        let all = self.docker.said(&["ps", "--all", "--quiet"])?;
        ensure!(all.is_empty(), "{all}");
        Ok(())
    }

    /// Started together, each with its own answer.
    fn many(&self) -> Result<()> {
        let children: Vec<_> = (0..10)
            .map(|number| {
                let script = format!("echo number {number}");
                let always = ["run", "--rm", "--runtime", "bulkhead", "--network", "none"];
                let mut command = self.docker.command(&always);
                command
                    .args([IMAGE, "sh", "-c", &script])
                    .stdin(std::process::Stdio::null())
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped())
                    .spawn()
            })
            .collect::<Result<_, _>>()?;
        for (number, child) in children.into_iter().enumerate() {
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stdout);
            ensure!(
                said == format!("number {number}\n"),
                "number {number}: {}: {said}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }
}
