//! Tells at once of kills for want of memory, and of the end of a group.
//!
//! v1 writes to an eventfd that `cgroup.event_control` has been told of; v2 changes
//! `memory.events` and `cgroup.events`, which inotify(7) sees.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bulkhead_model::{Error, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;

use crate::failure::Context;

use super::{Cgroup, files};

/// What has happened to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The group is out of memory.
    OutOfMemory,
    /// The group has no processes any more, or is gone.
    Ended,
    /// Nothing until the moment that was waited for.
    TimedOut,
}

/// A watch over a group.
#[derive(Debug)]
pub(crate) struct Notifications {
    descriptor: OwnedFd,
    source: Source,
    /// Readable when the process ends, whatever its group does.
    init: OwnedFd,
}

#[derive(Debug)]
enum Source {
    /// The file is watched while it is open.
    Legacy {
        directory: PathBuf,
        _file: File,
    },
    Unified {
        directory: PathBuf,
        kills: u64,
    },
    /// There is nothing that could tell.
    Nothing,
}

impl Cgroup {
    /// Watches the group of a container with this init. Without the memory controller only the
    /// end is told of.
    pub(crate) fn notifications(&self, init: OwnedFd) -> Result<Notifications> {
        let directory = if self.is_v2() {
            self.unified()
                .filter(|path| path.join("memory.events").exists())
        } else {
            self.v1("memory")
        };
        let doing = || "watch the container's control group".to_owned();
        let Some(directory) = directory.map(Path::to_owned) else {
            let descriptor = eventfd(0, EventfdFlags::CLOEXEC).host(doing)?;
            return Ok(Notifications {
                descriptor,
                source: Source::Nothing,
                init,
            });
        };
        let (descriptor, source) = if self.is_v2() {
            let watch = inotify::init(inotify::CreateFlags::CLOEXEC).host(doing)?;
            for name in ["memory.events", "cgroup.events"] {
                let file = directory.join(name);
                inotify::add_watch(&watch, &file, inotify::WatchFlags::MODIFY).host(doing)?;
            }
            let kills = self.oom_kills();
            (watch, Source::Unified { directory, kills })
        } else {
            let event = eventfd(0, EventfdFlags::CLOEXEC).host(doing)?;
            let file = File::open(directory.join("memory.oom_control")).host(doing)?;
            let order = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
            files::write(&directory.join("cgroup.event_control"), &order)?;
            let source = Source::Legacy {
                directory,
                _file: file,
            };
            (event, source)
        };
        Ok(Notifications {
            descriptor,
            source,
            init,
        })
    }
}

impl Notifications {
    /// Waits for what happens next, until `deadline` at most.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Notice> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left)
                .map_err(|error| Error::host("wait for events").with_source(error))?;
            let mut polled = [
                PollFd::new(&self.descriptor, PollFlags::IN),
                PollFd::new(&self.init, PollFlags::IN),
            ];
            let ready = match poll(&mut polled, Some(&left)) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.host(|| "wait for events".into())?,
            };
            let [event, init] = polled.map(|polled| !polled.revents().is_empty());
            if ready == 0 {
                return Ok(Notice::TimedOut);
            }
            if event && let Some(notice) = self.read()? {
                return Ok(notice);
            }
            if init {
                return Ok(Notice::Ended);
            }
        }
    }

    /// Takes what the descriptor has told.
    fn read(&mut self) -> Result<Option<Notice>> {
        let mut buffer = [0; 4096];
        rustix::io::read(self.descriptor.as_fd(), &mut buffer)
            .host(|| "read the events of a control group".into())?;
        Ok(match &mut self.source {
            // The end of a group is told of by an event too.
            Source::Legacy { directory, .. } => {
                Some(match fs::exists(directory.join("cgroup.event_control")) {
                    Ok(true) => Notice::OutOfMemory,
                    _ => Notice::Ended,
                })
            }
            Source::Unified { directory, kills } => {
                let read = |file: &str, key| files::keyed(&directory.join(file), key);
                let Ok(now) = read("memory.events", "oom_kill") else {
                    return Ok(Some(Notice::Ended));
                };
                let now = now.unwrap_or(0);
                let killed = now > *kills;
                *kills = now;
                let populated = read("cgroup.events", "populated").ok().flatten();
                match (killed, populated) {
                    (true, _) => Some(Notice::OutOfMemory),
                    (false, Some(1)) => None,
                    (false, _) => Some(Notice::Ended),
                }
            }
            Source::Nothing => None,
        })
    }
}
