//! `bulkhead run` does the same on both kinds.

use std::fs;
use std::io::{Read, Seek};

use anyhow::{Context, Result, ensure};
use bulkhead_e2e::http::Request;
use bulkhead_e2e::instance::{Output, eventually, free_address, repository};
use bulkhead_e2e::{Instance, Scenario};

const IMAGE: &str = "debian:bookworm-slim";
/// Answers every request with `hello`; the base image has perl, and no other server.
const SERVER: &str = r#"
    use IO::Socket::INET;
    my $listener = IO::Socket::INET->new(LocalPort => 8000, Listen => 5, ReuseAddr => 1) or die;
    while (my $client = $listener->accept) {
        while (<$client>) { last if /^\r?$/ }
        print $client "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        close $client;
    }
"#;

#[test]
fn programs_run_in_containers() -> Result<()> {
    programs_run_in("container")
}

#[test]
fn programs_run_in_micro_vms() -> Result<()> {
    programs_run_in("microvm")
}

fn programs_run_in(kind: &str) -> Result<()> {
    let Some(instance) = Instance::new(&repository())? else {
        return Ok(());
    };
    let runner = Runner {
        instance: &instance,
        kind,
    };
    let mut scenario = Scenario::default();
    if scenario.step("base image", || instance.import_base_image()) {
        scenario.step("exit codes are Docker's", || runner.exit_codes());
        scenario.step("environment, directory and user", || runner.surroundings());
        scenario.step("standard streams", || runner.streams());
        scenario.step("a bind mount goes both ways", || runner.bind_mount());
        scenario.step("a named volume outlives its sandbox", || {
            runner.named_volume()
        });
        scenario.step("no network is no network", || runner.no_network());
        scenario.step("the memory limit holds", || runner.memory_limit());
        scenario.step("a published port", || runner.published_port());
        if kind == "microvm" {
            scenario.step("a guest's death is told", || runner.guest_dies());
            scenario.step("a forced accelerator", || runner.forced_accelerator());
            scenario.step("a forced accelerator in a Compose file", || {
                runner.accelerator_of_a_service()
            });
        } else {
            scenario.step("no accelerator", || runner.no_accelerator());
            scenario.step("no console", || runner.no_console());
        }
    }
    // The default network is the daemon's, not a sandbox's.
    scenario.step("the daemon stops", || {
        instance.run(&["daemon", "stop"]).map(drop)
    });
    scenario.step("nothing is left", || {
        let left = instance.leftovers()?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    });
    scenario.finish()
}

struct Runner<'a> {
    instance: &'a Instance,
    kind: &'a str,
}

impl Runner<'_> {
    fn arguments<'b>(&'b self, options: &[&'b str], command: &[&'b str]) -> Vec<&'b str> {
        [
            &["run", "--rm", "--runtime", self.kind],
            options,
            &[IMAGE],
            command,
        ]
        .concat()
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Result<Output> {
        self.instance.attempt(&self.arguments(options, command))
    }

    /// The stdout of a program that succeeds.
    fn said(&self, options: &[&str], command: &[&str]) -> Result<String> {
        self.instance.run(&self.arguments(options, command))
    }

    fn exit_codes(&self) -> Result<()> {
        for (options, command, code) in [
            (&[][..], &["true"][..], 0),
            (&[], &["sh", "-c", "exit 3"], 3),
            // Not of the first process itself: a PID namespace shields it.
            (&[], &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
            (&[], &["no-such-program"], 127),
            (&[], &["/etc/passwd"], 126),
            (&["--no-such-flag"], &["true"], 125),
            (&["--user", "nobody2"], &["true"], 125),
        ] {
            let output = self.run(options, command)?;
            ensure!(
                output.status.code() == Some(code),
                "{options:?} {command:?}: {:?} instead of {code}: {}",
                output.status.code(),
                output.stderr
            );
        }
        Ok(())
    }

    fn surroundings(&self) -> Result<()> {
        let options = ["-e", "COLOUR=blue", "-w", "/srv/new", "-u", "65534:65534"];
        let said = self.said(
            &options,
            &["sh", "-c", "echo $COLOUR; pwd; id -u; id -g; umask"],
        )?;
        ensure!(said == "blue\n/srv/new\n65534\n65534\n0022\n", "{said:?}");
        Ok(())
    }

    fn streams(&self) -> Result<()> {
        let command = ["sh", "-c", "echo out; echo err >&2"];
        let output = self.run(&[], &command)?;
        ensure!(
            output.stdout == "out\n" && output.stderr == "err\n",
            "{output:?}"
        );
        let text = "a line\n".repeat(20_000);
        let arguments = self.arguments(&["-i"], &["cat"]);
        let output = self.instance.attempt_with_input(&arguments, &text)?;
        ensure!(
            output.stdout == text,
            "{} bytes went in, {} came out: {}",
            text.len(),
            output.stdout.len(),
            output.stderr
        );
        Ok(())
    }

    fn bind_mount(&self) -> Result<()> {
        let directory = tempfile::tempdir_in("/var/tmp")?;
        fs::write(directory.path().join("question"), "6 * 7")?;
        let volume = format!("{}:/data", directory.path().display());
        let command = ["sh", "-c", "cat /data/question; echo 42 > /data/answer"];
        let said = self.said(&["-v", &volume], &command)?;
        ensure!(said == "6 * 7", "{said:?}");
        let answer = fs::read_to_string(directory.path().join("answer"))?;
        ensure!(answer == "42\n", "{answer:?}");
        let read_only = format!("{volume}:ro");
        let output = self.run(&["-v", &read_only], &["touch", "/data/no"])?;
        ensure!(!output.status.success(), "a read-only mount was written to");
        Ok(())
    }

    fn named_volume(&self) -> Result<()> {
        self.said(
            &["-v", "memory:/data"],
            &["sh", "-c", "echo kept > /data/file"],
        )?;
        let said = self.said(&["-v", "memory:/data"], &["cat", "/data/file"])?;
        ensure!(said == "kept\n", "{said:?}");
        self.instance.run(&["volume", "rm", "memory"]).map(drop)
    }

    fn no_network(&self) -> Result<()> {
        let said = self.said(&["--network", "none"], &["ls", "/sys/class/net"])?;
        ensure!(said.trim() == "lo", "{said:?}");
        Ok(())
    }

    fn memory_limit(&self) -> Result<()> {
        let hoard = ["perl", "-e", "$x = 'x' x (512 << 20); print length $x"];
        let output = self.run(&["--memory", "128m"], &hoard)?;
        ensure!(
            !output.status.success(),
            "512 MiB fit into 128 MiB: {}",
            output.stdout
        );
        Ok(())
    }

    fn inspected(&self, name: &str, format: &str) -> Result<String> {
        let said = self.instance.run(&["inspect", "-f", format, name])?;
        Ok(said.trim_end().to_owned())
    }

    fn forced_accelerator(&self) -> Result<()> {
        let options = ["-d", "--name", "forced", "--accelerator", "tcg"];
        self.said(&options, &["sleep", "1000"])?;
        let said = self.inspected("forced", "{{json .Bulkhead}}")?;
        let stopped = self.instance.run(&["stop", "-t", "1", "forced"]);
        ensure!(
            said.contains(r#""Accelerator":"tcg""#)
                && said.contains(r#""Kind":"microvm""#)
                && said.contains("forced by the label bulkhead.accelerator"),
            "{said}"
        );
        stopped?;

        let label = ["--label", "bulkhead.accelerator=hvf"];
        let refused = self.run(&label, &["true"])?;
        ensure!(
            refused.status.code() == Some(125)
                && refused.stderr.contains("label bulkhead.accelerator")
                && refused.stderr.contains("'kvm' or 'tcg'"),
            "{refused:?}"
        );

        let works = self.instance.api("/bulkhead/info")?["accelerator"] == "kvm";
        let device = fs::File::options().read(true).write(true).open("/dev/kvm");
        if !works && device.is_ok() {
            // What a guest does on a device that does not keep its promise is nobody's to say.
            return Ok(());
        }
        let forced = self.run(&["--accelerator", "kvm"], &["true"])?;
        match works {
            true => ensure!(forced.status.success(), "{forced:?}"),
            false => ensure!(
                forced.status.code() == Some(125)
                    && forced.stderr.contains("kvm cannot be used")
                    && forced.stderr.contains("/dev/kvm"),
                "{forced:?}"
            ),
        }
        Ok(())
    }

    fn accelerator_of_a_service(&self) -> Result<()> {
        let directory = tempfile::tempdir_in("/var/tmp")?;
        let file = directory.path().join("compose.yaml");
        let text = format!(
            "name: emulated\nservices:\n  one:\n    image: {IMAGE}\n    runtime: microvm\n    \
             command: sleep 1000\n    stop_grace_period: 1s\n    labels:\n      \
             bulkhead.accelerator: tcg\n"
        );
        fs::write(&file, text)?;
        let file = file.to_string_lossy().into_owned();
        let up = self.instance.attempt(&["-f", &file, "up", "-d"])?;
        let said = self.inspected("emulated-one-1", "{{json .Bulkhead}}");
        self.instance.run(&["-f", &file, "down"])?;
        ensure!(up.status.success(), "{up:?}");
        let notes = up.stderr.lines().filter(|line| line.starts_with("note: "));
        ensure!(notes.count() == 1, "{}", up.stderr);
        let said = said?;
        ensure!(said.contains("forced by the label"), "{said}");
        Ok(())
    }

    /// A kernel that panics is a failure: its last words are told, and the policy restarts it.
    fn guest_dies(&self) -> Result<()> {
        // Where all memory is gone and nothing may be killed, the kernel gives up.
        let script =
            "echo -1000 > /proc/self/oom_score_adj; exec dd if=/dev/zero of=/dev/null bs=1024M";
        let arguments = [
            "run",
            "-d",
            "--name",
            "panics",
            "--runtime",
            self.kind,
            "--privileged",
            "--restart",
            "on-failure:1",
            IMAGE,
            "sh",
            "-c",
            script,
        ];
        // The daemon keeps no old events.
        let mut heard = tempfile::tempfile()?;
        let filters = ["events", "--format", "json", "--filter", "event=die"];
        let mut listener = self.instance.command(&filters);
        let mut listener = listener.stdout(heard.try_clone()?).spawn()?;
        let told = self.dies_twice(&arguments, &mut heard);
        listener.kill()?;
        listener.wait()?;
        self.instance.run(&["rm", "-f", "panics"])?;
        told
    }

    fn dies_twice(&self, arguments: &[&str], heard: &mut fs::File) -> Result<()> {
        self.instance.run(arguments)?;
        let format = "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}} {{.State.Error}}";
        eventually("it has died twice", || {
            let said = self.inspected("panics", format)?;
            ensure!(said.starts_with("exited 1 137 "), "{said}");
            ensure!(said.contains("Kernel panic"), "{said}");
            Ok(())
        })?;
        let console = self.instance.run(&["logs", "--console", "panics"])?;
        ensure!(console.contains("Kernel panic"), "{console}");
        eventually("both deaths are heard of", || {
            let mut events = String::new();
            heard.rewind()?;
            heard.read_to_string(&mut events)?;
            let deaths = events.lines().filter(|line| line.contains("Kernel panic"));
            ensure!(deaths.count() == 2, "{events}");
            Ok(())
        })
    }

    fn no_console(&self) -> Result<()> {
        let name = "no-console";
        let arguments = ["run", "--name", name, "--runtime", self.kind, IMAGE, "true"];
        self.instance.run(&arguments)?;
        let refused = self.instance.attempt(&["logs", "--console", name])?;
        self.instance.run(&["rm", name])?;
        ensure!(
            !refused.status.success() && refused.stderr.contains("has no console"),
            "{refused:?}"
        );
        Ok(())
    }

    fn no_accelerator(&self) -> Result<()> {
        let label = ["--label", "bulkhead.accelerator=tcg"];
        let refused = self.run(&label, &["true"])?;
        ensure!(
            refused.status.code() == Some(125)
                && refused.stderr.contains("label bulkhead.accelerator")
                && refused.stderr.contains("a container has no accelerator"),
            "{refused:?}"
        );
        Ok(())
    }

    fn published_port(&self) -> Result<()> {
        let address = free_address()?;
        let publish = format!("{address}:8000");
        let name = format!("e2e-{}", address.port());
        let options = ["-d", "--name", &name, "-p", &publish];
        self.said(&options, &["perl", "-e", SERVER])?;
        let answered = eventually("the published port answers", || {
            let answer = Request::get("/").send_tcp(address)?.expect(200)?;
            ensure!(answer.text() == "hello", "{}", answer.text());
            Ok(())
        });
        self.instance
            .run(&["stop", "-t", "1", &name])
            .context("stop")?;
        answered
    }
}
