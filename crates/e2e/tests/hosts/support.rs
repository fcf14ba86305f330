//! What every host needs: a directory, a cgroup, the runtime as a program, and an image of busybox.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bulkhead_e2e::host::{self, HostState, Names};
use bulkhead_e2e::instance::{self, Output, eventually};
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

/// A place for one host. Dropping it ends and removes everything that was started on it.
pub struct Ground {
    names: Names,
    before: HostState,
    root: TempDir,
}

impl Ground {
    /// `None`, said aloud, where this machine cannot have such a host; `needed` are programs with
    /// the packages that bring them.
    pub fn new(needed: &[(&str, &str)]) -> Result<Option<Self>> {
        let Some(binary) = instance::binary()? else {
            println!("skipped: the binary is not built; 'make test' builds it");
            return Ok(None);
        };
        if fs::metadata("/proc/self")?.uid() != 0 {
            println!("skipped: containers need root; 'make test' runs the tests as root");
            return Ok(None);
        }
        for (program, package) in needed.iter().chain(&[(BUSYBOX, "busybox-static")]) {
            if !Path::new(program).exists() {
                println!("skipped: no {program}: 'apt-get install {package}'");
                return Ok(None);
            }
        }
        // Short: paths of sockets are limited.
        let root = tempfile::Builder::new()
            .prefix("bhh")
            .tempdir_in("/var/tmp")?;
        let before = HostState::of_everything(root.path())?;
        let names = Names::of(root.path())?;
        let ground = Self {
            names,
            before,
            root,
        };
        ground.make_tree()?;
        // Not a link: the runtime finds itself by the program that it is.
        let script = format!("#!/bin/sh\nexec '{}' oci \"$@\"\n", binary.display());
        fs::write(ground.path("runtime"), script)?;
        fs::set_permissions(ground.path("runtime"), fs::Permissions::from_mode(0o755))?;
        Ok(Some(ground))
    }

    pub fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    /// The program that the host is to take for runc.
    pub fn runtime(&self) -> String {
        self.path("runtime")
    }

    /// The name of the cgroup below which the host is to make its own.
    pub fn cgroup(&self) -> String {
        self.names.cgroup()
    }

    /// A root filesystem: busybox under all its names.
    fn make_tree(&self) -> Result<()> {
        let tree = PathBuf::from(self.path("tree"));
        for directory in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            fs::create_dir_all(tree.join(directory))?;
        }
        fs::copy(BUSYBOX, tree.join("bin/busybox"))?;
        fs::write(
            tree.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nguest:x:405:100::/tmp:/bin/sh\n",
        )?;
        fs::write(tree.join("etc/group"), "root:x:0:\nusers:x:100:\n")?;
        let listed = Command::new(BUSYBOX).arg("--list").output()?;
        for name in String::from_utf8(listed.stdout)?.lines() {
            if name != "busybox" {
                std::os::unix::fs::symlink("busybox", tree.join("bin").join(name))?;
            }
        }
        succeed(Command::new("tar").args([
            "--create",
            "--file",
            &self.path("tree.tar"),
            "--directory",
            &self.path("tree"),
            ".",
        ]))
        .map(drop)
    }

    /// Starts a daemon whose output goes to a file; dropped, it is told to end.
    pub fn daemon(&self, name: &str, mut command: Command) -> Result<Daemon> {
        let log = PathBuf::from(self.path(&format!("{name}.log")));
        let output = File::create(&log)?;
        let process = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Daemon {
            name: name.into(),
            process,
            log,
        })
    }

    /// What is left on the machine: mounts, cgroups and processes. The host's own cgroup may stay,
    /// empty: a host makes it and leaves it.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        self.remove_cgroup();
        Ok(HostState::of_everything(self.root.path())?.since(&self.before))
    }

    fn remove_cgroup(&self) {
        for directory in self.cgroups() {
            // Podman's monitors have one of their own in there.
            let _ = fs::remove_dir(directory.join("conmon"));
            let _ = fs::remove_dir(&directory);
            if !directory.join("cgroup.clone_children").exists()
                && !directory.join("cgroup.controllers").exists()
            {
                // Not a cgroup, but files below the directory of the mount points.
                let _ = fs::remove_dir_all(&directory);
            }
        }
    }

    /// The host's cgroup in each hierarchy, and where Podman takes a directory for one: it makes
    /// that for each controller, mounted or not.
    fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        hierarchies
            .flatten()
            .map(|hierarchy| hierarchy.path())
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|hierarchy| hierarchy.join(self.cgroup()))
            .filter(|directory| directory.is_dir())
            .collect()
    }

    /// A test that has passed has nothing left; after one that failed the machine is still clean.
    fn clean(&self) -> Result<()> {
        let kill = |pid: &str| Command::new("kill").args(["-9", pid]).status();
        for (pid, _) in host::processes_of(self.root.path())? {
            kill(&pid.to_string())?;
        }
        for group in self.cgroups() {
            let mut groups = vec![group];
            for index in 0.. {
                let Some(group) = groups.get(index).cloned() else {
                    break;
                };
                let below = fs::read_dir(group).into_iter().flatten().flatten();
                groups.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
            }
            for group in groups.iter().rev() {
                let processes = fs::read_to_string(group.join("cgroup.procs"));
                for pid in processes.unwrap_or_default().lines() {
                    kill(pid)?;
                }
                // Its processes need a moment to be gone.
                for _ in 0..100 {
                    if fs::remove_dir(group).is_ok() || !group.exists() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        for line in HostState::of_sandboxes(self.root.path())?.since(&self.before) {
            if let Some(target) = line.strip_prefix("mount ") {
                let _ = Command::new("umount").args(["--lazy", target]).status();
            }
        }
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = self.clean() {
            println!("cleaning up after the test: {error:#}");
        }
    }
}

/// A daemon of a host.
pub struct Daemon {
    name: String,
    process: Child,
    log: PathBuf,
}

impl Daemon {
    /// Waits until it answers; its last words are in the error.
    pub fn await_answer(&mut self, ask: impl Fn() -> Result<()>) -> Result<()> {
        eventually(&format!("{} answers", self.name), || {
            if let Some(status) = self.process.try_wait()? {
                // No use in asking again.
                println!("{} has ended: {status}", self.name);
            }
            ask()
        })
        .with_context(|| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(10).collect();
            format!("{}'s last words, latest first: {lines:#?}", self.name)
        })
    }

    /// Asks it to end, and waits for that.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.process.try_wait()?.is_some() {
            return Ok(());
        }
        Command::new("kill")
            .arg(self.process.id().to_string())
            .status()?;
        for _ in 0..1500 {
            if self.process.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process.kill()?;
        self.process.wait()?;
        anyhow::bail!("{} did not end within 30 s of SIGTERM", self.name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            println!("{error:#}");
        }
    }
}

/// The stdout of a program that must succeed.
pub fn succeed(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fails unless a command ended with this code and said this on either stream.
pub fn check(what: &str, output: &Output, code: i32, part: &str) -> Result<()> {
    ensure!(
        output.status.code() == Some(code),
        "{what}: {} instead of {code}: {}{}",
        output.status,
        output.stdout,
        output.stderr
    );
    ensure!(
        output.stdout.contains(part) || output.stderr.contains(part),
        "{what}: no '{part}' in {output:?}"
    );
    Ok(())
}

/// Shell code that shows a limit, wherever this machine's cgroups have it.
pub fn show_limit(controller: &str, v1: &str, v2: &str) -> String {
    format!("cat /sys/fs/cgroup/{controller}/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}")
}

/// The size of a file that a workload appends to stands still, or grows, over a while.
pub fn grows(path: &Path) -> Result<bool> {
    let before = fs::metadata(path)?.len();
    std::thread::sleep(Duration::from_millis(600));
    Ok(fs::metadata(path)?.len() > before)
}
