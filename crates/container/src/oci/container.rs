//! The container's directory below the root: `state.json` (runtime.md, "State"), and the socket on
//! which its init waits.
//!
//! ```text
//! <root>/<id>/state.json   written whole and renamed; pid 0 while it is created
//! <root>/<id>/start.sock   there until it is started
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cgroup::Cgroup;
use crate::failure::Context;
use crate::time;

use super::config::{Config, Namespace};
use super::plan::Plan;
use super::rdt::Rdt;

const STATE: &str = "state.json";
const TEMPORARY: &str = ".state.json";
/// Where a root is mounted for CRIU alone: for all others it is an empty directory.
const RESTORED_ROOT: &str = "criu-root";
const SOCKET: &str = "start.sock";

/// The status of a container; runtime.md, "State", and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// What is kept of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) pid: u32,
    /// In clock ticks since boot: tells the process from a later one of that number.
    pub(super) start_time: u64,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) cgroup: Cgroup,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rdt: Option<Rdt>,
    /// `CLONE_*` flags of the namespaces that are not the host's.
    pub(super) namespaces: i32,
    /// The configuration as it was at create.
    pub(super) config: Box<RawValue>,
}

impl Record {
    /// The record of a container that has no process yet.
    pub(super) fn new(
        id: &str,
        bundle: &Path,
        (config, text): (&Config, Box<RawValue>),
        plan: &Plan,
        (cgroup, rdt): (&Cgroup, Option<&Rdt>),
    ) -> Self {
        let joined = plan.joined.iter().fold(0, |flags, (flag, _)| flags | flag);
        Self {
            oci_version: config.oci_version.clone(),
            id: id.into(),
            pid: 0,
            start_time: 0,
            bundle: bundle.to_owned(),
            rootfs: plan.rootfs.clone(),
            created: time::now(),
            annotations: config.annotations.clone(),
            cgroup: cgroup.clone(),
            rdt: rdt.cloned(),
            namespaces: plan.new | joined,
            config: text,
        }
    }
}

/// What `state`, `list` and hooks are told, in runc's order.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State<'a> {
    pub(super) oci_version: &'a str,
    id: &'a str,
    pid: u32,
    status: &'static str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    pub(super) owner: &'static str,
}

impl State<'_> {
    /// On one line.
    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::host("write the state").with_source(error))
    }
}

/// A container on disk.
#[derive(Debug)]
pub(super) struct Container {
    directory: PathBuf,
    pub(super) record: Record,
}

impl Container {
    /// Makes the directory of a new container.
    ///
    /// # Errors
    /// `Conflict` if there is one of that name.
    pub(super) fn make(root: &Path, record: Record) -> Result<Self> {
        let directory = root.join(&record.id);
        fs::create_dir_all(root).host(|| format!("make {}", root.display()))?;
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(exists(&record.id));
            }
            result => result.host(|| format!("make {}", directory.display()))?,
        }
        let container = Self { directory, record };
        container.save().inspect_err(|_| {
            // The failure itself is the one to tell about.
            let _ = container.remove();
        })?;
        Ok(container)
    }

    /// # Errors
    /// `NotFound` if there is no container of that name.
    pub(super) fn load(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let directory = root.join(id);
        let path = directory.join(STATE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::not_found(format!("container does not exist: {id}")));
            }
            result => result.host(|| format!("read {}", path.display()))?,
        };
        let record = serde_json::from_str(&text)
            .map_err(|error| Error::host(format!("read {}", path.display())).with_source(error))?;
        Ok(Self { directory, record })
    }

    pub(super) fn save(&self) -> Result<()> {
        let path = self.directory.join(STATE);
        let temporary = self.directory.join(TEMPORARY);
        let doing = || format!("write {}", path.display());
        let text = serde_json::to_vec(&self.record)
            .map_err(|error| Error::host(doing()).with_source(error))?;
        fs::write(&temporary, text).host(doing)?;
        fs::rename(&temporary, &path).host(doing)
    }

    /// Removes the directory; what fails is found again by the next delete.
    pub(super) fn remove(&self) -> Result<()> {
        remove(&self.directory)
    }

    /// The configuration in a form of it: typed ([`Config`]) or as it is.
    pub(super) fn config<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.record.config.get())
            .map_err(|error| Error::host("read the container's configuration").with_source(error))
    }

    /// Whether the container has a PID namespace that was made for it.
    pub(super) fn has_own_pids(&self) -> Result<bool> {
        let own = |namespace: &Namespace| {
            namespace.kind == "pid" && namespace.path.as_deref().is_none_or(str::is_empty)
        };
        Ok(self.config::<Config>()?.linux.namespaces.iter().any(own))
    }

    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.record.cgroup
    }

    pub(super) fn status(&self) -> Status {
        if self.record.pid == 0 {
            return Status::Creating;
        }
        if start_time(self.record.pid) != Some(self.record.start_time) {
            return Status::Stopped;
        }
        if self.directory.join(SOCKET).exists() {
            return Status::Created;
        }
        if self.cgroup().is_frozen() {
            Status::Paused
        } else {
            Status::Running
        }
    }

    /// The state as the specification has it (runtime.md, "State").
    pub(super) fn state(&self, status: Status) -> State<'_> {
        let record = &self.record;
        State {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: match status {
                Status::Stopped => 0,
                _ => record.pid,
            },
            status: status.name(),
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner: "",
        }
    }

    /// Makes the mount point for the root of a container that CRIU restores.
    pub(super) fn make_restored_root(&self) -> Result<PathBuf> {
        let directory = self.directory.join(RESTORED_ROOT);
        let doing = || format!("make {}", directory.display());
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .host(doing)?;
        directory.canonicalize().host(doing)
    }

    /// Makes the socket on which `start` connects.
    pub(super) fn listen(&self) -> Result<UnixListener> {
        let (_directory, path) = self.socket()?;
        UnixListener::bind(path).host(|| "make the socket for the container's start".into())
    }

    /// The path of the socket, short enough for `sun_path` whatever the root is: valid while the
    /// descriptor beside it is open.
    pub(super) fn socket(&self) -> Result<(OwnedFd, PathBuf)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&self.directory, flags, Mode::empty())
            .host(|| format!("open {}", self.directory.display()))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
        Ok((directory, path))
    }

    /// Takes away what a create that came to no end has mounted on the host, as happens where the
    /// container has no mount namespace.
    pub(super) fn unmount_unfinished(&self) {
        if self.record.namespaces & libc::CLONE_NEWNS == 0 {
            super::root::unmount_from_host(&self.record.rootfs);
        }
    }

    pub(super) fn remove_socket(&self) {
        let _ = fs::remove_file(self.directory.join(SOCKET));
    }
}

/// Removes a container's directory, needing no descriptor for it: there may be none left. The state
/// goes last, so that it tells of what is there until nothing is.
pub(super) fn remove(directory: &Path) -> Result<()> {
    let doing = || format!("remove {}", directory.display());
    for name in [TEMPORARY, SOCKET, STATE] {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.host(doing)?,
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            fs::remove_dir_all(directory).host(doing)
        }
        result => result.host(doing),
    }
}

/// Keeps others from deleting a container as long as the descriptor is open; `None` if there is
/// none of that name.
pub(super) fn lock(root: &Path, id: &str) -> Result<Option<OwnedFd>> {
    check_id(id)?;
    let path = root.join(id);
    let doing = || format!("lock {}", path.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        result => result.host(doing)?,
    };
    rustix::io::retry_on_intr(|| flock(&directory, FlockOperation::LockExclusive)).host(doing)?;
    // While we waited it may have been removed, and one of that name been made anew.
    let ours = fstat(&directory).host(doing)?;
    match rustix::fs::lstat(&path) {
        Ok(now) if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino) => Ok(Some(directory)),
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error).host(doing),
    }
}

fn exists(id: &str) -> Error {
    Error::conflict(format!("container with given ID already exists: {id}"))
}

/// # Errors
/// `Conflict` if there is a container of that name, told before anything else of a new one is
/// looked at; that none comes meanwhile is [`Container::make`]'s concern.
pub(super) fn check_new(root: &Path, id: &str) -> Result<()> {
    if root.join(id).exists() {
        return Err(exists(id));
    }
    Ok(())
}

/// When a process was started, in clock ticks; `None` if it has ended (proc(5), `stat`).
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The names below the root that are containers.
pub(super) fn identifiers(root: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.host(|| format!("read {}", root.display()))?,
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join(STATE).exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// # Errors
/// `InvalidInput` for a name that could leave the root.
pub(super) fn check_id(id: &str) -> Result<()> {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id == "." || id == ".." || !id.bytes().all(letters) {
        return Err(Error::invalid(format!(
            "invalid container ID format: '{id}': use letters, digits and _ + - ."
        )));
    }
    Ok(())
}
