//! An instance of Bulkhead that belongs to one test: its own directories, socket and gateway, and
//! images that are kept from run to run.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::host::{self, HostState};
use crate::http::{Request, Response};

/// Longest time for a command: images are built, emulated guests boot.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(900);

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// An instance of Bulkhead. Dropping it ends and removes everything that it made.
#[derive(Debug)]
pub struct Instance {
    binary: PathBuf,
    cache: PathBuf,
    /// Where commands run: the directory of the Compose file.
    project: PathBuf,
    pub gateway: SocketAddr,
    before: HostState,
    root: TempDir,
}

impl Instance {
    /// `None` where this host cannot run it; the reason is printed.
    ///
    /// # Errors
    /// Directories or ports cannot be made.
    pub fn new(project: &Path) -> Result<Option<Self>> {
        let Some(binary) = binary()? else {
            println!("skipped: the binary is not built; 'make test' builds it");
            return Ok(None);
        };
        if fs::metadata("/proc/self")?.uid() != 0 {
            println!("skipped: sandboxes need root; 'make test' runs the tests as root");
            return Ok(None);
        }
        // Not below /tmp, which may be in memory, and short: socket paths are limited.
        let root = tempfile::Builder::new()
            .prefix("bhe")
            .tempdir_in("/var/tmp")?;
        let before = HostState::of_everything(root.path())?;
        Ok(Some(Self {
            binary,
            cache: cache()?,
            project: project.to_owned(),
            gateway: free_address()?,
            before,
            root,
        }))
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.root().join("run/bulkhead.sock")
    }

    /// The address that `docker -H` takes.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// `bulkhead` on this instance, in the project's directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(self.root()).args(arguments);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .current_dir(&self.project)
            .env("BULKHEAD_CACHE", &self.cache)
            .env("BULKHEAD_GATEWAY", self.gateway.to_string())
            .env("NO_COLOR", "1")
            .env_remove("BULKHEAD_HOST")
            .env_remove("DOCKER_HOST")
            .env_remove("COMPOSE_FILE")
            .stdin(Stdio::null());
    }

    /// Runs `bulkhead` and returns what it said, however it ended.
    ///
    /// # Errors
    /// It cannot be started or does not end in time.
    pub fn attempt(&self, arguments: &[&str]) -> Result<Output> {
        run(self.command(arguments))
    }

    /// The same, with this text as its stdin.
    ///
    /// # Errors
    /// It cannot be started or does not end in time.
    pub fn attempt_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut file = tempfile::tempfile()?;
        file.write_all(input.as_bytes())?;
        file.rewind()?;
        let mut command = self.command(arguments);
        command.stdin(file);
        run(command)
    }

    /// Runs `bulkhead`, which must succeed, and returns its stdout.
    ///
    /// # Errors
    /// It failed; stderr is in the message.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        succeeded(
            &format!("bulkhead {}", arguments.join(" ")),
            self.attempt(arguments)?,
        )
    }

    /// Runs another program, which must succeed, with this instance's environment.
    ///
    /// # Errors
    /// It failed; stderr is in the message.
    pub fn run_program(&self, mut command: Command) -> Result<String> {
        let what = format!("{command:?}");
        self.prepare(&mut command);
        succeeded(&what, run(command)?)
    }

    /// Has the base image in the cache.
    ///
    /// # Errors
    /// It cannot be made or imported.
    pub fn import_base_image(&self) -> Result<()> {
        let mut script = Command::new(repository().join("examples/shop/base/bootstrap.sh"));
        script.arg("--import").env(
            "BULKHEAD",
            format!("{} --root {}", self.binary.display(), self.root().display()),
        );
        self.run_program(script).map(drop)
    }

    /// Sends a request through the gateway.
    ///
    /// # Errors
    /// No whole answer.
    pub fn http(&self, request: Request<'_>) -> Result<Response> {
        request.send_tcp(self.gateway)
    }

    /// `GET` of the daemon's API, as JSON.
    ///
    /// # Errors
    /// No daemon, or a status that is not 200.
    pub fn api(&self, path: &str) -> Result<Value> {
        Request::get(path)
            .send_unix(&self.socket())?
            .expect(200)?
            .json()
    }

    /// The process id of the daemon.
    ///
    /// # Errors
    /// No daemon answers.
    pub fn daemon_pid(&self) -> Result<u32> {
        self.api("/bulkhead/info")?["pid"]
            .as_u64()
            .and_then(|pid| pid.try_into().ok())
            .context("the daemon does not say its process id")
    }

    /// What sandboxes have left on the host since this instance was made.
    ///
    /// # Errors
    /// The host cannot be read.
    pub fn leftovers_of_sandboxes(&self) -> Result<Vec<String>> {
        Ok(HostState::of_sandboxes(self.root())?.since(&self.before))
    }

    /// What anything of this instance has left on the host.
    ///
    /// # Errors
    /// The host cannot be read.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = HostState::of_everything(self.root())?.since(&self.before);
        for directory in ["run/sandboxes", "lib/sandboxes", "lib/volumes"] {
            let path = self.root().join(directory);
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                left.push(format!("file {}", entry.path().display()));
            }
        }
        Ok(left)
    }

    fn end(&self) -> Result<()> {
        if self.socket().exists() {
            let _ = self.attempt(&["down", "-v", "--remove-orphans"]);
            let _ = self.attempt(&["daemon", "stop", "--force"]);
        }
        // What is left after that is a failure that has been reported; the host stays clean.
        for (pid, _) in host::processes_of(self.root())? {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        for line in HostState::of_sandboxes(self.root())?.since(&self.before) {
            if let Some(target) = line.strip_prefix("mount ") {
                let _ = Command::new("umount").args(["--lazy", target]).status();
            } else if let Some(device) = line.strip_prefix("network device ") {
                let _ = Command::new("ip")
                    .args(["link", "delete", device])
                    .stderr(Stdio::null())
                    .status();
            }
        }
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            println!("cleaning up after the test: {error:#}");
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started or does not end in time; it is then killed.
pub fn run(mut command: Command) -> Result<Output> {
    // Files and not pipes: a daemon that the command starts would hold a pipe open.
    let directory = tempfile::tempdir()?;
    let (stdout, stderr) = (
        directory.path().join("stdout"),
        directory.path().join("stderr"),
    );
    let mut child = command
        .stdout(File::create(&stdout)?)
        .stderr(File::create(&stderr)?)
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let status = wait(&mut child, COMMAND_TIMEOUT)?;
    let output =
        |path| -> Result<String> { Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned()) };
    let (stdout, stderr) = (output(stdout)?, output(stderr)?);
    let Some(status) = status else {
        bail!("{command:?} did not end within {COMMAND_TIMEOUT:?}: {stdout}{stderr}");
    };
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn succeeded(what: &str, output: Output) -> Result<String> {
    ensure!(
        output.status.success(),
        "{what}: {}: {}{}",
        output.status,
        output.stderr.trim(),
        output.stdout.trim()
    );
    Ok(output.stdout)
}

/// Asks again until the answer is yes.
///
/// # Errors
/// It was not within two minutes; the last reason is in the message.
pub fn eventually(what: &str, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match ask() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{what}: not within two minutes")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// The top of the repository.
pub fn repository() -> PathBuf {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_directory
        .ancestors()
        .nth(2)
        .unwrap_or(crate_directory)
        .to_owned()
}

/// From `BULKHEAD_BIN`, or beside this test's program: the release build before the other.
///
/// # Errors
/// `BULKHEAD_BIN` names nothing.
pub fn binary() -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os("BULKHEAD_BIN") {
        let path = PathBuf::from(path);
        ensure!(
            path.exists(),
            "BULKHEAD_BIN: {} does not exist",
            path.display()
        );
        return Ok(Some(path));
    }
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("the target directory")?;
    Ok(["release/bulkhead", "debug/bulkhead"]
        .map(|name| target.join(name))
        .into_iter()
        .find(|path| path.exists()))
}

fn cache() -> Result<PathBuf> {
    let cache = match std::env::var_os("BULKHEAD_CACHE") {
        Some(path) => std::path::absolute(PathBuf::from(path))?,
        None => repository().join("target/e2e-cache"),
    };
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    // The guest kernel is built once for all.
    let kernel = cache.join("kernel");
    if !kernel.exists() && Path::new("/var/cache/bulkhead/kernel").exists() {
        std::os::unix::fs::symlink("/var/cache/bulkhead/kernel", kernel)?;
    }
    Ok(cache)
}

/// An address on loopback where nothing listens.
///
/// # Errors
/// There is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
