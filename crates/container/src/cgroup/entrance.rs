//! The way of a new process into a group, without the kernel's slow path.
//!
//! Whoever moves a process takes `cgroup_threadgroup_rwsem` for writing and waits until every CPU
//! has passed through a quiet state, which is 5 to 10 ms. It is spared to a thread that moves
//! itself on v1 (`cgroup_procs_write_start`), and to a process that is born in a group of v2
//! (`CLONE_INTO_CGROUP`, Linux 5.7).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bulkhead_model::Result;
use rustix::fs::{Mode, OFlags};

use crate::failure::Context;
use crate::sys;

use super::Cgroup;

/// The files and directories through which a process gets into its groups.
#[derive(Debug, Default)]
pub(crate) struct Entrance {
    /// The files `tasks` of v1.
    tasks: Vec<PathBuf>,
    /// The directory of v2; those after the first are taken where the kernel refuses those before.
    unified: Vec<PathBuf>,
}

/// What was opened while the host's hierarchies could be seen.
#[derive(Debug, Default)]
pub(crate) struct OpenEntrance {
    tasks: Vec<File>,
    unified: Vec<(OwnedFd, OwnedFd)>,
}

impl Cgroup {
    pub(crate) fn entrance(&self) -> Entrance {
        let tasks = self.directories.iter().filter(|group| !group.unified);
        Entrance {
            tasks: tasks.map(|group| group.path.join("tasks")).collect(),
            unified: self.unified().map(PathBuf::from).into_iter().collect(),
        }
    }
}

impl Entrance {
    /// Another directory of v2, for where the group itself takes no process.
    pub(crate) fn or_unified(mut self, directory: Option<PathBuf>) -> Self {
        let new = directory.filter(|directory| !self.unified.contains(directory));
        self.unified.extend(new);
        self
    }

    pub(crate) fn open(&self) -> Result<OpenEntrance> {
        let open = |path: &PathBuf| {
            let opened = File::options().write(true).open(path);
            opened.host(|| format!("open {}", path.display()))
        };
        let open_unified = |path: &PathBuf| -> Result<(OwnedFd, OwnedFd)> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let doing = || format!("open {}", path.display());
            let directory = rustix::fs::open(path, flags, Mode::empty()).host(doing)?;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let procs = rustix::fs::openat(&directory, "cgroup.procs", flags, Mode::empty());
            Ok((directory, procs.host(doing)?))
        };
        let mut unified = Vec::new();
        for (index, path) in self.unified.iter().enumerate() {
            match open_unified(path) {
                Ok(pair) => unified.push(pair),
                Err(error) if unified.is_empty() && index + 1 == self.unified.len() => {
                    return Err(error);
                }
                // Another one is tried.
                Err(_) => {}
            }
        }
        Ok(OpenEntrance {
            tasks: self.tasks.iter().map(open).collect::<Result<_>>()?,
            unified,
        })
    }
}

impl OpenEntrance {
    /// Forks into the group of v2, if there is one; `None` in the child.
    ///
    /// Legal only in a process with one thread.
    pub(crate) fn clone_process(&mut self, flags: libc::c_int) -> io::Result<Option<u32>> {
        for index in 0..self.unified.len() {
            match sys::clone_into_cgroup(flags, self.unified[index].0.as_fd()) {
                Ok(pid) => {
                    self.unified.clear();
                    return Ok(pid);
                }
                // A kernel or a filter without the call, or a group that takes no process.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(
                            libc::ENOSYS
                                | libc::EINVAL
                                | libc::E2BIG
                                | libc::EBUSY
                                | libc::EACCES
                                | libc::EPERM
                                | libc::ENODEV
                                | libc::EOPNOTSUPP
                        )
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        sys::clone_process(flags)
    }

    /// The new process's own steps into what it was not born in.
    pub(crate) fn join(self) -> Result<()> {
        let doing = || "join the container's control group".to_owned();
        for mut tasks in self.tasks {
            tasks.write_all(b"0").host(doing)?;
        }
        let mut joined = Ok(());
        for (_, procs) in self.unified {
            joined = File::from(procs).write_all(b"0");
            if joined.is_ok() {
                break;
            }
        }
        joined.host(doing)
    }
}
