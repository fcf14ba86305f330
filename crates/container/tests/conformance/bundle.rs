//! Bundles of busybox and the command line over them.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Host, cgroup_parent, layer};

/// How many bundles there are in this process.
static LIVING: AtomicUsize = AtomicUsize::new(0);

/// A bundle with one container, gone with the value.
pub struct Bundle {
    pub directory: PathBuf,
    pub root: PathBuf,
    pub id: String,
    pub config: Value,
}

impl Bundle {
    /// A container that runs these arguments.
    pub fn new(host: &Host, args: &[&str]) -> Self {
        LIVING.fetch_add(1, Ordering::Relaxed);
        let directory = host.fresh("bundle");
        let rootfs = directory.join("rootfs");
        fs::create_dir(&rootfs).expect("rootfs");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(format!("{}/.", layer().display()))
            .arg(&rootfs)
            .status();
        assert!(copied.expect("cp").success());
        let id = directory
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        let unique = directory
            .parent()
            .and_then(Path::file_name)
            .expect("name")
            .to_string_lossy();
        let mut config = Self::default_config(&directory);
        config["process"]["args"] = json!(args);
        config["process"]["terminal"] = json!(false);
        config["process"]["env"] = json!(["PATH=/bin"]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{}/oci{unique}{id}", cgroup_parent()));
        Self {
            root: directory.join("state"),
            directory,
            id,
            config,
        }
    }

    /// What `spec` writes.
    fn default_config(directory: &Path) -> Value {
        let path = directory.join("config.json");
        let status = program(Path::new("/nonexistent"))
            .args(["spec", "--bundle"])
            .arg(directory)
            .status();
        assert!(status.expect("spec").success());
        serde_json::from_str(&fs::read_to_string(path).expect("config")).expect("JSON")
    }

    pub fn write(&self) {
        fs::write(self.directory.join("config.json"), self.config.to_string()).expect("config");
    }

    /// The verb with arguments, not run yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.root);
        command
            .args(arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments).output().expect("run"))
    }

    /// A verb whose container keeps the streams: they must not be ours.
    pub fn detached(&self, arguments: &[&str]) -> Answer {
        let log = self.directory.join("stderr");
        let file = fs::File::create(&log).expect("file");
        let status = self
            .command(arguments)
            .stdout(Stdio::null())
            .stderr(file)
            .status()
            .expect("run");
        Answer {
            code: status.code().unwrap_or(-1),
            out: String::new(),
            err: fs::read_to_string(log).expect("stderr"),
        }
    }

    /// Writes the configuration and runs it in the foreground.
    pub fn play(&self) -> Answer {
        self.write();
        self.run(&["run", &self.id])
    }

    /// Writes the configuration and starts it without waiting for the end.
    pub fn start(&self) {
        self.write();
        let answer = self.detached(&["run", "--detach", &self.id]);
        assert_eq!(answer.code, 0, "{}", answer.err);
    }

    pub fn state(&self) -> Value {
        let answer = self.run(&["state", &self.id]);
        assert_eq!(answer.code, 0, "{}", answer.err);
        serde_json::from_str(&answer.out).expect("state")
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("status").into()
    }

    /// Waits for a status; the harness's own limit ends what never comes.
    pub fn await_status(&self, wanted: &str) {
        for _ in 0..2000 {
            if self.status() == wanted {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{} is not {wanted}, but {}", self.id, self.status());
    }

    /// Fails if anything of the container is left on the host.
    pub fn assert_gone(&self) {
        assert!(!self.root.join(&self.id).exists(), "the state is left");
        let below = self.config["linux"]["cgroupsPath"]
            .as_str()
            .expect("path")
            .trim_start_matches('/');
        for hierarchy in bundle_hierarchies() {
            assert!(
                !hierarchy.join(below).exists(),
                "{below} is left in {}",
                hierarchy.display()
            );
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(
            !mounts.contains(self.directory.to_str().expect("path")),
            "a mount is left: {mounts}"
        );
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id]).output();
        // Another's create may be about to use it.
        if LIVING.fetch_sub(1, Ordering::Relaxed) == 1 {
            remove_cgroup_parent();
        }
    }
}

/// Removes the group of all of this run's groups; while another test's is in there, it stays.
pub fn remove_cgroup_parent() {
    for hierarchy in bundle_hierarchies() {
        let _ = fs::remove_dir(hierarchy.join(cgroup_parent()));
    }
}

fn bundle_hierarchies() -> Vec<PathBuf> {
    let layout = bulkhead_container::cgroup::probe().expect("cgroups");
    layout
        .hierarchies()
        .chain(layout.others())
        .chain(layout.beside())
        .map(|hierarchy| hierarchy.mount_point.clone())
        .collect()
}

fn program(root: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["oci", "--root"]).arg(root);
    command
}

/// What a command said.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Answer {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The output of a success.
    pub fn output(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// Fails unless it failed with 1 and said this.
    pub fn refused(self, part: &str) {
        assert_eq!(self.code, 1, "{}{}", self.out, self.err);
        assert!(self.err.contains(part), "{}", self.err);
    }
}

/// A console socket and the terminal that was sent to it.
pub struct ConsoleSocket {
    listener: UnixListener,
    pub path: PathBuf,
}

impl ConsoleSocket {
    pub fn new(directory: &Path) -> Self {
        let path = directory.join("console.sock");
        Self {
            listener: UnixListener::bind(&path).expect("bind"),
            path,
        }
    }

    pub fn receive(&self) -> OwnedFd {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let (stream, _) = self.listener.accept().expect("accept");
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        let mut parts = [std::io::IoSliceMut::new(&mut name)];
        recvmsg(&stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).expect("receive");
        let message = ancillary.drain().next().expect("message");
        match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => {
                descriptors.next().expect("descriptor")
            }
            _ => panic!("no descriptor was sent"),
        }
    }
}
