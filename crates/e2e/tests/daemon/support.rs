//! A daemon that a test may kill.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bulkhead_e2e::host::{self, HostState, Names};
use bulkhead_e2e::http::{Request, Response};
use bulkhead_e2e::instance::free_address;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The image that every daemon here has: busybox and nothing else.
pub const IMAGE: &str = "busybox:test";
const BUSYBOX: &str = "/bin/busybox";
const START_PATIENCE: Duration = Duration::from_secs(60);
const JSON: (&str, &str) = ("content-type", "application/json");

pub struct Daemon {
    binary: PathBuf,
    root: TempDir,
    pub gateway: SocketAddr,
    process: Option<Child>,
    before: HostState,
    names: Names,
}

impl Daemon {
    /// A running daemon with the image; `None`, said aloud, where this host cannot have one.
    pub fn new() -> Result<Option<Self>> {
        let Some(binary) = binary()? else {
            println!("skipped: the binary is not built; 'make test' builds it");
            return Ok(None);
        };
        if fs::metadata("/proc/self")?.uid() != 0 {
            println!("skipped: sandboxes need root; 'make test' runs the tests as root");
            return Ok(None);
        }
        if !Path::new(BUSYBOX).exists() {
            println!("skipped: no {BUSYBOX}: 'apt-get install busybox-static'");
            return Ok(None);
        }
        let root = tempfile::Builder::new()
            .prefix("bhd")
            .tempdir_in("/var/tmp")?;
        let before = HostState::of_everything(root.path())?;
        let gateway = free_address()?;
        let names = Names::of(root.path())?;
        let mut daemon = Self {
            binary,
            root,
            gateway,
            process: None,
            before,
            names,
        };
        daemon.start()?;
        daemon.import_image()?;
        Ok(Some(daemon))
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.root().join("run/bulkhead.sock")
    }

    fn import_image(&self) -> Result<()> {
        let tree = self.root().join("tree");
        fs::create_dir_all(tree.join("bin"))?;
        fs::create_dir_all(tree.join("filled"))?;
        fs::write(tree.join("filled/file"), "of the image\n")?;
        fs::copy(BUSYBOX, tree.join("bin/busybox"))?;
        let listed = Command::new(BUSYBOX).arg("--list").output()?;
        for name in String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter(|n| *n != "busybox")
        {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(name))?;
        }
        let archive = self.root().join("tree.tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status()?;
        ensure!(packed.success(), "tar: {packed}");
        let archive = archive.to_string_lossy().into_owned();
        let output = self.cli(&["import", &archive, IMAGE])?;
        ensure!(
            output.status.success(),
            "import: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::remove_dir_all(tree)?;
        Ok(fs::remove_file(archive)?)
    }

    /// `bulkhead daemon`, not waited for.
    pub fn spawn(&self) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.root().join("daemon.log"))?;
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(self.root()).arg("daemon");
        command.args(["--gateway", &self.gateway.to_string()]);
        command.arg("--cache").arg(self.root().join("cache"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command.spawn().context("start the daemon")
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let mut process = self.spawn()?;
        while self.get("/_ping").is_err() {
            if let Some(status) = process.try_wait()? {
                bail!("the daemon ended: {status}: {}", self.log());
            }
            if Instant::now() > deadline {
                process.kill()?;
                process.wait()?;
                bail!("the daemon does not answer: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.process = Some(process);
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// `kill -9` by who cannot wait for its end; [`Self::kill`] must follow.
    pub fn kill_now(&self) -> Result<()> {
        let pid = self.process.as_ref().context("no daemon runs")?.id();
        let killed = Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()?;
        ensure!(killed.success(), "kill: {killed}");
        Ok(())
    }

    /// Ends the daemon as `bulkhead daemon stop` does.
    pub fn stop(&mut self) -> Result<()> {
        self.post("/bulkhead/shutdown", &json!({ "force": true }))?
            .expect(204)?;
        if let Some(mut process) = self.process.take() {
            let status = process.wait()?;
            ensure!(status.success(), "the daemon: {status}: {}", self.log());
        }
        Ok(())
    }

    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.root().join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The command line, on this instance.
    pub fn cli(&self, arguments: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(self.root()).args(arguments);
        command
            .env("NO_COLOR", "1")
            .env_remove("BULKHEAD_HOST")
            .env_remove("DOCKER_HOST");
        command
            .stdin(Stdio::null())
            .output()
            .context("run the command line")
    }

    pub fn get(&self, path: &str) -> Result<Response> {
        Request::get(path).send_unix(&self.socket())
    }

    pub fn json(&self, path: &str) -> Result<Value> {
        self.get(path)?.expect(200)?.json()
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Response> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        Request::post(path, &body)
            .with_headers(&[JSON])
            .send_unix(&self.socket())
    }

    pub fn delete(&self, path: &str) -> Result<Response> {
        Request {
            method: "DELETE",
            ..Request::get(path)
        }
        .send_unix(&self.socket())
    }

    /// Creates a sandbox of the image and answers its id.
    pub fn create(&self, name: &str, command: &[&str], more: Value) -> Result<String> {
        let mut body = json!({ "Image": IMAGE, "Cmd": command });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        let made = self
            .post(&format!("/containers/create?name={name}"), &body)?
            .expect(201)?;
        Ok(made.json()?["Id"].as_str().context("no id")?.to_owned())
    }

    pub fn run(&self, name: &str, command: &[&str], more: Value) -> Result<String> {
        let id = self.create(name, command, more)?;
        self.post(&format!("/containers/{id}/start"), &Value::Null)?
            .expect(204)?;
        Ok(id)
    }

    pub fn state(&self, id: &str) -> Result<Value> {
        Ok(self.json(&format!("/containers/{id}/json"))?["State"].clone())
    }

    pub fn status(&self, id: &str) -> Result<String> {
        Ok(self.state(id)?["Status"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// The names of all sandboxes.
    pub fn names(&self) -> Result<Vec<String>> {
        let list = self.json("/containers/json?all=1")?;
        let mut names: Vec<String> = list
            .as_array()
            .context("no list")?
            .iter()
            .filter_map(|item| {
                Some(
                    item["Names"][0]
                        .as_str()?
                        .trim_start_matches('/')
                        .to_owned(),
                )
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// Brings a project up; why it failed is the error.
    pub fn up(&self, project: &str, services: &[Value], options: Value) -> Result<()> {
        let network = json!({ "key": "default", "name": format!("{project}_default") });
        let mut body =
            json!({ "spec": { "name": project, "networks": [network], "services": services } });
        if let (Some(body), Value::Object(options)) = (body.as_object_mut(), options) {
            body.extend(options);
        }
        outcome(self.post(&format!("/bulkhead/projects/{project}/up"), &body)?)
    }

    pub fn down(&self, project: &str) -> Result<()> {
        let options = json!({ "volumes": true, "timeout_seconds": 0 });
        outcome(self.post(&format!("/bulkhead/projects/{project}/down"), &options)?)
    }

    pub fn remove_all(&self) -> Result<()> {
        for name in self.names()? {
            let removed = self.delete(&format!("/containers/{name}?force=1&v=1"))?;
            ensure!(
                [204, 404].contains(&removed.status),
                "{name}: {}",
                removed.text()
            );
        }
        Ok(())
    }

    /// Ends the daemon as `bulkhead daemon stop` does and says what it has left.
    pub fn finish(mut self) -> Result<()> {
        self.stop()?;
        let mut left = HostState::of_everything(self.root())?.since(&self.before);
        for directory in ["run", "lib/sandboxes", "lib/volumes", "lib/builds"] {
            for entry in fs::read_dir(self.root().join(directory))
                .into_iter()
                .flatten()
                .flatten()
            {
                left.push(format!("file {}", entry.path().display()));
            }
        }
        ensure!(left.is_empty(), "left behind: {left:#?}\n{}", self.log());
        Ok(())
    }

    /// What sandboxes have left on the host, with the networks' own devices and tables left out.
    ///
    /// The kernel takes down the devices of a network namespace some time after its last process.
    pub fn left_of_sandboxes(&self) -> Result<Vec<String>> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.left_of_sandboxes_now()?;
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn left_of_sandboxes_now(&self) -> Result<Vec<String>> {
        let mut left = HostState::of_sandboxes(self.root())?.since(&self.before);
        left.retain(|line| !self.names.is_of_network(line));
        for directory in ["run/sandboxes", "lib/sandboxes"] {
            for entry in fs::read_dir(self.root().join(directory))
                .into_iter()
                .flatten()
                .flatten()
            {
                left.push(format!("file {}", entry.path().display()));
            }
        }
        Ok(left)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            let stopped = self.remove_all().and_then(|()| {
                self.post("/bulkhead/shutdown", &json!({ "force": true }))
                    .map(drop)
            });
            if stopped.is_err() {
                println!("the daemon did not stop: {}", self.log());
            }
        }
        if let Err(error) = self.kill() {
            println!("the daemon was not killed: {error:#}");
        }
        // Only after a failure, which is reported: the host stays clean.
        for (pid, _) in host::processes_of(self.root()).unwrap_or_default() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let left = HostState::of_sandboxes(self.root())
            .unwrap_or_default()
            .since(&self.before);
        for line in &left {
            let mut command = match line.split_once(' ') {
                Some(("network", device)) => {
                    let mut command = Command::new("ip");
                    command.args(["link", "delete", device.trim_start_matches("device ")]);
                    command
                }
                Some(("nftables", table)) => {
                    let mut command = Command::new("nft");
                    command.arg("delete").args(table.split(' '));
                    command
                }
                Some(("cgroup", directory)) => {
                    let mut command = Command::new("rmdir");
                    command.args(["-p", directory]);
                    command
                }
                _ => continue,
            };
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// The last line of an operation on a project says how it went.
fn outcome(answer: Response) -> Result<()> {
    let text = answer.expect(200)?.text();
    let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    let error = &last["done"]["error"];
    ensure!(
        error.is_null(),
        "{}",
        error["message"].as_str().unwrap_or_default()
    );
    Ok(())
}

/// A service of the image.
pub fn service(name: &str, command: &[&str], replicas: u32) -> Value {
    json!({
        "name": name,
        "replicas": replicas,
        "config_hash": format!("{command:?}"),
        "container": { "Image": IMAGE, "Cmd": command },
        "networks": [{ "key": "default" }],
        "stop_grace_period_seconds": 1,
    })
}

/// Asks again until the answer is yes.
pub fn eventually(what: &str, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match ask() {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() > deadline => bail!("{what}: not within a minute"),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{what}: not within a minute")));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn binary() -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os("BULKHEAD_BIN") {
        return Ok(Some(PathBuf::from(path)));
    }
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("the target directory")?;
    Ok(["release/bulkhead", "debug/bulkhead"]
        .map(|name| target.join(name))
        .into_iter()
        .find(|path| path.exists()))
}
