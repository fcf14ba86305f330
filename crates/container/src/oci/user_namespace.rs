//! User namespaces: the mappings of a container's (config-linux.md, "User namespace mappings"),
//! and namespaces that exist for an id-mapped mount (config.md, "Mounts": `uidMappings`).
//!
//! ```text
//! runtime                             helper
//!    │◀───────────────── Unmapped ─────┤ has made the namespace, where it is nobody
//!    │ uid_map, gid_map, setgroups     │
//!    ├── Go ──────────────────────────▶│ becomes its root, makes the other namespaces in it
//! ```
//! Invariant: mappings are written by the runtime, from outside; where it may not, by
//! `newuidmap(1)` and `newgidmap(1)`, which know what the host's administrator allows.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Command;

use bulkhead_model::{Error, ErrorKind, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::failure::Context;
use crate::{spawn, sys};

use super::config::IdMapping;

/// What the ids in a namespace are outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mappings<'a> {
    pub(super) users: &'a [IdMapping],
    pub(super) groups: &'a [IdMapping],
}

impl Mappings<'_> {
    /// Writes the mappings of the new user namespace in which the child process `pid` waits.
    ///
    /// # Errors
    /// Names the field; `Unsupported` where this user may not have such mappings.
    pub(super) fn write(&self, pid: u32) -> Result<()> {
        let egid = rustix::process::getegid().as_raw();
        let only_own_group = matches!(
            self.groups,
            [IdMapping { host_id, size: 1, .. }] if *host_id == egid
        );
        if only_own_group && !rustix::process::geteuid().is_root() {
            // Otherwise the kernel does not let an ordinary user write the groups' mapping
            // (user_namespaces(7), "Defining user and group ID mappings").
            write_file(pid, "setgroups", "deny")
                .host(|| "linux.gidMappings: deny setgroups".into())?;
        }
        write_map(pid, "uid", self.users)?;
        write_map(pid, "gid", self.groups)
    }
}

/// Joins nothing: a new user namespace with these mappings, as a descriptor. Legal in a process
/// with one thread and with `CAP_SETUID` and `CAP_SETGID`.
pub(super) fn make(mappings: Mappings<'_>) -> Result<OwnedFd> {
    let doing = || "make a user namespace for an id-mapped mount".to_owned();
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).host(doing)?;
    let Some(pid) = sys::clone_process(libc::CLONE_NEWUSER).host(doing)? else {
        // Holds the namespace until the runtime has opened it, or has died.
        drop(write);
        let _ = File::from(read).read(&mut [0]);
        sys::exit_now(0)
    };
    drop(read);
    let opened = mappings
        .write(pid)
        .and_then(|()| File::open(format!("/proc/{pid}/ns/user")).host(doing));
    drop(write);
    spawn::end(pid);
    opened.map(OwnedFd::from)
}

/// Becomes root of the user namespace that this process has made or joined: until then what it
/// makes has no owner there. The supplementary groups stay.
pub(super) fn become_root() -> Result<()> {
    sys::set_user(0, 0).host(|| {
        "become root of the user namespace: linux.uidMappings and linux.gidMappings must map the \
         container's id 0"
            .into()
    })
}

fn write_map(pid: u32, kind: &str, mappings: &[IdMapping]) -> Result<()> {
    let field = format!("linux.{kind}Mappings");
    let lines: String = mappings
        .iter()
        .map(|mapping| {
            let IdMapping {
                container_id,
                host_id,
                size,
            } = mapping;
            format!("{container_id} {host_id} {size}\n")
        })
        .collect();
    match write_file(pid, &format!("{kind}_map"), &lines) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            by_tool(pid, kind, mappings, &field)
        }
        result => {
            result.host(|| format!("{field}: set them to {}", lines.trim().replace('\n', ", ")))
        }
    }
}

/// In one write, as the kernel asks.
fn write_file(pid: u32, name: &str, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/{name}"))
        .and_then(|mut file| file.write_all(text.as_bytes()))
}

fn by_tool(pid: u32, kind: &str, mappings: &[IdMapping], field: &str) -> Result<()> {
    let tool = format!("new{kind}map");
    let numbers = mappings
        .iter()
        .flat_map(|mapping| [mapping.container_id, mapping.host_id, mapping.size]);
    let output = Command::new(&tool)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .output()
        .kind(ErrorKind::Unsupported, || {
            format!(
                "{field}: an ordinary user may map nobody but himself without {tool}: install \
                 Debian's package uidmap, or map one id"
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(Error::unsupported(format!(
        "{field}: {tool}: {}: does /etc/sub{kind} give this user these ids?",
        reason.trim()
    )))
}
