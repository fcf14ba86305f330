//! Finds every process that a command leaves behind, by a group of cgroup v2 in which it runs.
//!
//! The runtime itself uses the hierarchies of v1 on a hybrid host, so that what it makes stays in
//! the group; on a host with v2 alone it leaves the group only for the container's own.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_container::cgroup::{Layout, probe};

use crate::bundle::Bundle;

/// How long what is dying may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A group that is gone with the value, with all processes in it.
pub struct Watch {
    group: PathBuf,
}

impl Watch {
    /// `None` where no cgroup v2 is mounted, said aloud.
    pub fn new() -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mount_point = match probe().expect("cgroups") {
            Layout::Unified(hierarchy) => hierarchy.mount_point,
            Layout::Legacy {
                unified: Some(hierarchy),
                ..
            } => hierarchy.mount_point,
            Layout::Legacy { unified: None, .. } => {
                eprintln!("skipped: no cgroup v2 is mounted, by which processes are found again");
                return None;
            }
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let group = mount_point.join(format!("watched-{}-{number}", std::process::id()));
        fs::create_dir(&group).expect("group");
        Some(Self { group })
    }

    /// `oci` with these arguments, in the group.
    pub fn command(&self, bundle: &Bundle, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("program"));
        self.arguments(&mut command, bundle, arguments);
        command
    }

    /// The same under a tracer, whose options come first.
    pub fn traced(&self, options: &[&str], bundle: &Bundle, arguments: &[&str]) -> Command {
        let mut command = Command::new("strace");
        command
            .args(options)
            .arg(std::env::current_exe().expect("program"));
        self.arguments(&mut command, bundle, arguments);
        command
    }

    fn arguments(&self, command: &mut Command, bundle: &Bundle, arguments: &[&str]) {
        command
            .arg("watched")
            .arg(&self.group)
            .args(["oci", "--root"])
            .arg(&bundle.root)
            .args(arguments)
            .current_dir(&bundle.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
    }

    pub fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Fails if anything that ran in the group is left, on the host or of the container.
    pub fn assert_gone(&self, bundle: &Bundle, after: &str) {
        assert!(self.group.exists(), "somebody has removed the group");
        let deadline = Instant::now() + PATIENCE;
        while !self.processes().is_empty() {
            assert!(
                Instant::now() < deadline,
                "after {after} processes are left: {:?}",
                self.describe()
            );
            std::thread::sleep(Duration::from_micros(500));
        }
        let gone = std::panic::AssertUnwindSafe(|| bundle.assert_gone());
        assert!(
            std::panic::catch_unwind(gone).is_ok(),
            "after {after} the above is left"
        );
        let left: Vec<_> = fs::read_dir(&bundle.directory)
            .expect("bundle")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with('.'))
            .collect();
        assert!(left.is_empty(), "after {after} these are left: {left:?}");
    }

    fn describe(&self) -> Vec<String> {
        let text = |pid: u32, name: &str| {
            fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
        };
        self.processes()
            .into_iter()
            .map(|pid| {
                format!(
                    "{pid}: {} {}",
                    text(pid, "cmdline").replace('\0', " "),
                    text(pid, "wchan")
                )
            })
            .collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for pid in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
                // One that has ended meanwhile is what is wanted.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for _ in 0..2000 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Entry of the process that [`Watch::command`] runs: joins the group and becomes the runtime.
pub fn watched(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(group), Some(_)) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    if let Err(error) = fs::write(Path::new(&group).join("cgroup.procs"), "0") {
        eprintln!("join the group: {error}");
        return ExitCode::from(3);
    }
    bulkhead_container::oci_main(arguments)
}
