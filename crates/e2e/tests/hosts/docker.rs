//! Docker with `--add-runtime`: what a container is given, and what it is refused.

use std::fs::{self, File};
use std::process::Command;

use anyhow::{Result, ensure};
use bulkhead_e2e::Scenario;
use bulkhead_e2e::instance::{self, Output};

use crate::support::{Daemon, Ground, check, show_limit, succeed};

pub const NEEDED: [(&str, &str); 3] = [
    ("/usr/sbin/dockerd", "docker.io"),
    ("/usr/bin/docker", "docker.io"),
    ("/usr/bin/containerd", "containerd"),
];
pub const IMAGE: &str = "busybox:test";

#[test]
fn docker_runs_containers() -> Result<()> {
    let Some(ground) = Ground::new(&NEEDED)? else {
        return Ok(());
    };
    let docker = Docker::start(&ground, Network::None)?;
    let mut scenario = Scenario::default();
    scenario.step("exit codes are the workload's or Docker's", || {
        docker.exit_codes()
    });
    scenario.step("standard streams", || docker.streams());
    scenario.step("user, directory and environment", || docker.surroundings());
    scenario.step("a terminal", || docker.terminal());
    scenario.step("--init has a process 1 of its own", || docker.init());
    scenario.step("--read-only and volumes", || docker.volumes());
    scenario.step("capabilities and no-new-privileges", || {
        docker.capabilities()
    });
    scenario.step("seccomp: Docker's profile, none, and one's own", || {
        docker.seccomp()
    });
    scenario.step("what must not be seen is masked", || docker.masked());
    scenario.step("namespaces", || docker.namespaces());
    scenario.step("the memory limit holds, and Docker is told", || {
        docker.memory_limit()
    });
    scenario.step("other limits hold", || docker.limits());
    scenario.step("daemons end", || docker.stop());
    scenario.step("nothing is left", || {
        let left = ground.leftovers()?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    });
    scenario.finish()
}

/// Whether Docker has a bridge, which is then in a network namespace of its own.
#[derive(PartialEq)]
pub enum Network {
    None,
    Bridge,
}

/// Docker with a containerd of its own, and an image.
pub struct Docker<'a> {
    pub ground: &'a Ground,
    // Ends before containerd does.
    dockerd: Daemon,
    containerd: Daemon,
}

impl<'a> Docker<'a> {
    pub fn start(ground: &'a Ground, network: Network) -> Result<Self> {
        let containerd = crate::containerd::start(ground)?;
        let mut command = match network {
            Network::None => Command::new("/usr/sbin/dockerd"),
            Network::Bridge => {
                let mut command = Command::new("unshare");
                let script = "ip link set lo up && exec /usr/sbin/dockerd \"$@\"";
                command.args(["--net", "sh", "-c", script, "dockerd"]);
                command
            }
        };
        command
            .args(["--containerd", &ground.path("containerd.sock")])
            .args(["--data-root", &ground.path("data")])
            .args(["--exec-root", &ground.path("exec")])
            .args(["--pidfile", &ground.path("docker.pid")])
            .args(["--host", &host(ground)])
            .args(["--cgroup-parent", &format!("/{}", ground.cgroup())])
            .args(["--add-runtime", &format!("bulkhead={}", ground.runtime())])
            // No configuration of this machine's.
            .args(["--config-file", &ground.path("daemon.json")]);
        fs::write(ground.path("daemon.json"), "{}")?;
        if network == Network::None {
            command.args(["--bridge", "none", "--iptables=false", "--ip-masq=false"]);
        }
        let dockerd = ground.daemon("dockerd", command)?;
        let mut docker = Self {
            ground,
            dockerd,
            containerd,
        };
        let ask = client(ground);
        docker
            .dockerd
            .await_answer(|| succeed(ask().arg("version")).map(drop))?;
        docker.said(&["import", &ground.path("tree.tar"), IMAGE])?;
        Ok(docker)
    }

    pub fn stop(self) -> Result<()> {
        self.dockerd.stop()?;
        self.containerd.stop()?;
        // Docker leaves the namespace of `--network host` mounted.
        let namespace = self.ground.path("exec/netns/default");
        if fs::exists(&namespace)? {
            succeed(Command::new("umount").arg(&namespace))?;
        }
        Ok(())
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = client(self.ground)();
        command.args(arguments);
        command
    }

    pub fn attempt(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments);
        command.stdin(std::process::Stdio::null());
        instance::run(command)
    }

    /// The stdout of a command that succeeds.
    pub fn said(&self, arguments: &[&str]) -> Result<String> {
        let output = self.attempt(arguments)?;
        check(&arguments.join(" "), &output, 0, "")?;
        Ok(output.stdout)
    }

    pub fn run(&self, options: &[&str], command: &[&str]) -> Result<Output> {
        self.attempt(&run(options, command))
    }

    pub fn said_in(&self, options: &[&str], command: &[&str]) -> Result<String> {
        self.said(&run(options, command))
    }

    fn exit_codes(&self) -> Result<()> {
        for (options, command, code, part) in [
            (&[][..], &["true"][..], 0, ""),
            (&[], &["sh", "-c", "exit 5"], 5, ""),
            (&[], &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
            (&[], &["nope"], 127, "executable file not found"),
            (&[], &["/bin/nope"], 127, "no such file or directory"),
            (&[], &["/etc/passwd"], 126, "permission denied"),
            (&[], &["/etc"], 126, ""),
            (&["--user", "nobody2"], &["true"], 125, "nobody2"),
        ] {
            let output = self.run(options, command)?;
            check(&command.join(" "), &output, code, part)?;
        }
        Ok(())
    }

    fn streams(&self) -> Result<()> {
        let output = self.run(&[], &["sh", "-c", "echo out; echo err >&2"])?;
        ensure!(
            (output.stdout.as_str(), output.stderr.as_str()) == ("out\n", "err\n"),
            "{output:?}"
        );
        let text = "a line\n".repeat(20_000);
        fs::write(self.ground.path("input"), &text)?;
        let mut command = self.command(&run(&["--interactive"], &["cat"]));
        command.stdin(File::open(self.ground.path("input"))?);
        let output = instance::run(command)?;
        ensure!(
            output.stdout == text,
            "{} bytes went in, {} came out: {}",
            text.len(),
            output.stdout.len(),
            output.stderr
        );
        Ok(())
    }

    fn surroundings(&self) -> Result<()> {
        let options = ["-e", "COLOUR=blue", "-w", "/srv/new", "-u", "7:8"];
        let script = "echo $COLOUR; pwd; id -u; id -g; umask";
        let said = self.said_in(&options, &["sh", "-c", script])?;
        ensure!(said == "blue\n/srv/new\n7\n8\n0022\n", "{said:?}");
        let options = ["-u", "guest", "--group-add", "55"];
        let said = self.said_in(&options, &["sh", "-c", "id -u; id -G; echo $HOME"])?;
        ensure!(said == "405\n100 55\n/tmp\n", "{said:?}");
        Ok(())
    }

    fn terminal(&self) -> Result<()> {
        let said = self.said_in(&["--tty"], &["tty"])?;
        ensure!(said.trim() == "/dev/pts/0", "{said:?}");
        // The size comes after the start.
        let inside = "until [ \"$(stty size)\" = '30 90' ]; do sleep 0.1; done; echo it fits";
        let mut docker = self.command(&run(&["--interactive", "--tty"], &[]));
        docker.args(["sh", "-c", inside]);
        let words: Vec<String> = std::iter::once(docker.get_program())
            .chain(docker.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")))
            .collect();
        let line = format!("stty rows 30 cols 90; {}", words.join(" "));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let output = instance::run(script)?;
        check("docker run -it", &output, 0, "it fits\r\n")
    }

    fn init(&self) -> Result<()> {
        let said = self.said_in(&["--init"], &["cat", "/proc/1/comm"])?;
        ensure!(said == "docker-init\n", "{said:?}");
        let output = self.run(&["--init"], &["sh", "-c", "exit 9"])?;
        check("--init", &output, 9, "")
    }

    fn volumes(&self) -> Result<()> {
        let refused = "Read-only file system";
        check(
            "--read-only",
            &self.run(&["--read-only"], &["touch", "/x"])?,
            1,
            refused,
        )?;
        let options = ["--read-only", "--tmpfs", "/tmp:size=1m"];
        let said = self.said_in(&options, &["sh", "-c", "echo 1 > /tmp/x; df /tmp"])?;
        ensure!(said.contains("1024"), "{said}");
        let directory = self.ground.path("shared");
        fs::create_dir(&directory)?;
        fs::write(format!("{directory}/question"), "6 * 7")?;
        let volume = format!("{directory}:/data");
        let script = "cat /data/question; echo 42 > /data/answer";
        let said = self.said_in(&["-v", &volume], &["sh", "-c", script])?;
        ensure!(said == "6 * 7", "{said:?}");
        ensure!(fs::read_to_string(format!("{directory}/answer"))? == "42\n");
        let read_only = format!("{volume}:ro");
        let output = self.run(&["-v", &read_only], &["touch", "/data/no"])?;
        check("a read-only bind mount", &output, 1, refused)?;
        let options = ["-v", "memory:/data"];
        self.said_in(&options, &["sh", "-c", "echo kept > /data/file"])?;
        let said = self.said_in(&options, &["cat", "/data/file"])?;
        ensure!(said == "kept\n", "{said:?}");
        self.said(&["volume", "rm", "memory"]).map(drop)
    }

    fn capabilities(&self) -> Result<()> {
        let status = |options: &[&str]| self.said_in(options, &["cat", "/proc/self/status"]);
        let none = status(&["--cap-drop", "ALL"])?;
        for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh"] {
            ensure!(
                none.contains(&format!("{set}:\t0000000000000000")),
                "{none}"
            );
        }
        // CAP_SYS_TIME is number 25.
        let time = status(&["--cap-drop", "ALL", "--cap-add", "SYS_TIME"])?;
        ensure!(time.contains("CapEff:\t0000000002000000"), "{time}");
        let output = self.run(&["--cap-drop", "CHOWN"], &["chown", "1", "/tmp"])?;
        check("--cap-drop CHOWN", &output, 1, "not permitted")?;
        let bound = status(&["--security-opt", "no-new-privileges"])?;
        ensure!(bound.contains("NoNewPrivs:\t1"), "{bound}");
        Ok(())
    }

    fn seccomp(&self) -> Result<()> {
        let mode =
            |options: &[&str]| self.said_in(options, &["grep", "^Seccomp:", "/proc/self/status"]);
        ensure!(mode(&[])? == "Seccomp:\t2\n");
        ensure!(mode(&["--security-opt", "seccomp=unconfined"])? == "Seccomp:\t0\n");
        let profile = self.ground.path("profile.json");
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
        fs::write(&profile, text)?;
        let option = format!("seccomp={profile}");
        let output = self.run(&["--security-opt", &option], &["mkdir", "/tmp/x"])?;
        check("mkdir", &output, 1, "not permitted")?;
        self.said_in(&["--security-opt", &option], &["touch", "/tmp/x"])
            .map(drop)
    }

    fn masked(&self) -> Result<()> {
        // Not every kernel has each of these.
        let script =
            "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | head -c 100 | wc -c";
        let shown = succeed(Command::new("sh").args(["-c", script]))?;
        ensure!(shown.trim() == "100", "nothing to mask: {shown}");
        let said = self.said_in(&[], &["sh", "-c", script])?;
        ensure!(said.trim() == "0", "{said:?}");
        let output = self.run(&[], &["sh", "-c", "echo 1 > /proc/sys/vm/swappiness"])?;
        check("a write to /proc/sys", &output, 1, "Read-only file system")
    }

    fn namespaces(&self) -> Result<()> {
        let said = self.said_in(&[], &["ls", "/sys/class/net"])?;
        ensure!(said == "lo\n", "{said:?}");
        let own = fs::read_link("/proc/self/ns/pid")?.display().to_string();
        let show = ["readlink", "/proc/self/ns/pid"];
        ensure!(self.said_in(&[], &show)?.trim() != own);
        ensure!(self.said_in(&["--pid", "host"], &show)?.trim() == own);
        let options = ["--hostname", "box", "--sysctl", "net.ipv4.ip_forward=1"];
        let script = "hostname; cat /proc/sys/net/ipv4/ip_forward";
        let said = self.said_in(&options, &["sh", "-c", script])?;
        ensure!(said == "box\n1\n", "{said:?}");
        let all = ["run", "--rm", "--runtime", "bulkhead", "--network", "host"];
        let host = [&all[..], &[IMAGE, "readlink", "/proc/self/ns/net"]].concat();
        let own = fs::read_link("/proc/self/ns/net")?.display().to_string();
        ensure!(self.said(&host)?.trim() == own);
        Ok(())
    }

    fn memory_limit(&self) -> Result<()> {
        let options = [
            "run",
            "--name",
            "oom",
            "--network",
            "none",
            "--memory",
            "24m",
        ];
        let own = ["--runtime", "bulkhead", IMAGE, "tail", "/dev/zero"];
        let output = self.attempt(&[&options[..], &own[..]].concat())?;
        let format = "{{.State.OOMKilled}} {{.State.ExitCode}}";
        let seen = self.said(&["inspect", "--format", format, "oom"]);
        self.said(&["rm", "oom"])?;
        check("more memory than the limit", &output, 137, "")?;
        ensure!(seen?.trim() == "true 137");
        Ok(())
    }

    fn limits(&self) -> Result<()> {
        let script = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait";
        let output = self.run(&["--pids-limit", "5"], &["sh", "-c", script])?;
        check("--pids-limit 5", &output, 2, "can't fork")?;
        let options = ["--ulimit", "nofile=100:200", "--oom-score-adj", "100"];
        let script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj";
        let said = self.said_in(&options, &["sh", "-c", script])?;
        ensure!(said == "100\n200\n100\n", "{said:?}");
        let options = ["--cpus", "0.5", "--cpuset-cpus", "0", "--shm-size", "5m"];
        let script = format!(
            "{}; {}; df /dev/shm | grep -o ' 5120 '",
            show_limit("cpu", "cpu.cfs_quota_us", "cpu.max"),
            show_limit("cpuset", "cpuset.cpus", "cpuset.cpus.effective")
        );
        let said = self.said_in(&options, &["sh", "-c", &script])?;
        let words: Vec<&str> = said.split_whitespace().collect();
        ensure!(
            (words.first(), words.last()) == (Some(&"50000"), Some(&"5120"))
                && words[1..].contains(&"0"),
            "{said:?}"
        );
        Ok(())
    }
}

fn run<'b>(options: &[&'b str], command: &[&'b str]) -> Vec<&'b str> {
    let always = ["run", "--rm", "--runtime", "bulkhead", "--network", "none"];
    [&always[..], options, &[IMAGE], command].concat()
}

fn host(ground: &Ground) -> String {
    format!("unix://{}", ground.path("docker.sock"))
}

/// Debian's client, whatever else of that name is in the path.
fn client(ground: &Ground) -> impl Fn() -> Command + use<> {
    let (host, configuration) = (host(ground), ground.path("client"));
    move || {
        let mut command = Command::new("/usr/bin/docker");
        command
            .args(["--host", &host, "--config", &configuration])
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        command
    }
}
