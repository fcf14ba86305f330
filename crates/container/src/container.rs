//! A container: the life cycle and the capabilities of one.
//!
//! ```text
//!                    ┌─pause──▶ paused ──┐
//! created ──start──▶ running ◀──resume────┘ ──exit, kill──▶ stopped ──delete──▶ deleted
//!    └───────────────────delete (also from running and paused)────────────────────▲
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_model::{
    Error, Exec, ExitStatus, Kind, Pause, Process, ProcessIo, ProcessSpec, Resources, Result,
    Sandbox, Security, Stats, StatsSource, TerminalSize, Update,
};

use crate::backend::{Helper, remove_etc_files};
use crate::cgroup::Cgroup;
use crate::config::{Task, Workload};
use crate::failure::Context;
use crate::process::{self, Ending, ExecProcess};
use crate::spawn::{self, Pending, Spawned};

/// What an exec'd process shares with the workload.
#[derive(Debug)]
pub(crate) struct Privileges {
    pub(crate) security: Security,
    pub(crate) resources: Resources,
}

#[derive(Debug)]
enum State {
    Created(Pending),
    /// Running, or ended: `ending` knows.
    Started,
    Paused,
    Deleted,
}

#[derive(Debug)]
pub(crate) struct Container {
    helper: Helper,
    state_dir: PathBuf,
    group: Arc<Cgroup>,
    privileges: Privileges,
    ending: Arc<Ending>,
    pid: u32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    io: Mutex<Option<ProcessIo>>,
    state: Mutex<State>,
}

impl Container {
    pub(crate) fn new(
        helper: Helper,
        state_dir: PathBuf,
        group: Arc<Cgroup>,
        privileges: Privileges,
        ending: Arc<Ending>,
        spawned: Spawned,
    ) -> Self {
        Self {
            helper,
            state_dir,
            group,
            privileges,
            ending,
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            terminal: spawned.terminal,
            io: Mutex::new(Some(spawned.io)),
            state: Mutex::new(State::Created(spawned.pending)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, held so that nobody deletes the container meanwhile.
    fn running(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        match (&*state, self.ending.get()) {
            (State::Started | State::Paused, None) => Ok(state),
            (State::Created(_), _) => Err(Error::conflict("the container has not been started")),
            _ => Err(Error::conflict("the container is not running")),
        }
    }
}

impl Sandbox for Container {
    fn kind(&self) -> Kind {
        Kind::Container
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    fn start(&self) -> Result<()> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Started) {
            State::Created(pending) => pending.start(),
            other => {
                *state = other;
                Err(Error::conflict("the container has been started already"))
            }
        }
    }

    fn take_io(&self) -> Option<ProcessIo> {
        self.io
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let _running = self.running()?;
        spawn::signal(&self.pidfd, signal)
    }

    fn resize(&self, size: TerminalSize) -> Result<()> {
        process::resize(self.terminal.as_ref(), size)
    }

    fn wait(&self) -> Result<ExitStatus> {
        Ok(self.ending.wait())
    }

    fn delete(&self) -> Result<()> {
        let mut state = self.state();
        if let State::Deleted = *state {
            return Ok(());
        }
        if self.ending.get().is_none() {
            // It may end by itself at this moment.
            let _ = spawn::signal(&self.pidfd, libc::SIGKILL);
            let _ = self.group.thaw();
            self.ending.wait();
        }
        // With its init all of a container's processes have ended; what a privileged one may
        // have put into the group from elsewhere has not.
        self.group.kill()?;
        self.group.remove()?;
        remove_etc_files(&self.state_dir);
        *state = State::Deleted;
        Ok(())
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }

    fn stats(&self) -> Option<&dyn StatsSource> {
        Some(self)
    }

    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }

    fn update(&self) -> Option<&dyn Update> {
        Some(self)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What fails here is seen by whoever removes leftovers.
        let _ = self.delete();
    }
}

impl Exec for Container {
    fn exec(&self, process: &ProcessSpec) -> Result<(Box<dyn Process>, ProcessIo)> {
        if let State::Paused = *self.running()? {
            // Its processes would join the ones that stand still.
            return Err(Error::conflict("the container is paused: resume it first"));
        }
        let Privileges {
            security,
            resources,
        } = &self.privileges;
        let task = Task::Exec(Box::new(Workload::new(
            process, security, resources, false,
        )?));
        let before = self.group.oom_kills();
        let (sender, receiver) = std::sync::mpsc::channel();
        let ending = Arc::new(Ending::default());
        let keeper = {
            let (helper, process) = (self.helper.clone(), process.clone());
            let (group, ending) = (Arc::clone(&self.group), Arc::clone(&ending));
            let init = self.pidfd.try_clone().host(|| "copy a descriptor".into())?;
            move || {
                let admit = |pid| group.add_process(pid);
                let spawned = spawn::spawn(&helper, &task, &process, Some(init.as_fd()), admit);
                let pid = spawned.as_ref().map(|spawned| spawned.pid).ok();
                if sender.send(spawned).is_ok()
                    && let Some(pid) = pid
                {
                    ending.set(process::reap(pid, before, || group.oom_kills()));
                }
            }
        };
        // A thread of its own, as the process dies with the thread that is its parent.
        std::thread::Builder::new()
            .name("exec".into())
            .stack_size(128 << 10)
            .spawn(keeper)
            .host(|| "start a thread".into())?;
        let spawned = receiver
            .recv()
            .map_err(|error| Error::host("the thread of the exec ended").with_source(error))?
            .map_err(|error| match self.ending.get() {
                Some(_) => Error::conflict("the container is not running").with_source(error),
                None => error,
            })?;
        spawned.pending.start()?;
        let process = ExecProcess {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            terminal: spawned.terminal,
            ending,
        };
        Ok((Box::new(process), spawned.io))
    }
}

impl StatsSource for Container {
    fn read(&self) -> Result<Stats> {
        self.group.stats()
    }
}

impl Pause for Container {
    fn pause(&self) -> Result<()> {
        let mut state = self.running()?;
        if let State::Paused = *state {
            return Err(Error::conflict("the container is paused already"));
        }
        self.group.freeze().inspect_err(|_| {
            // Half of it may stand still.
            let _ = self.group.thaw();
        })?;
        *state = State::Paused;
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        let mut state = self.running()?;
        let State::Paused = *state else {
            return Err(Error::conflict("the container is not paused"));
        };
        self.group.thaw()?;
        *state = State::Started;
        Ok(())
    }
}

impl Update for Container {
    fn update(&self, resources: &Resources) -> Result<()> {
        self.group.update(resources)
    }
}
