//! What can be done to a sandbox that exists.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_model::{Error, ExitStatus, ProcessSpec, Resources, Result, Stats, TerminalSize};
use tokio::sync::oneshot;

use crate::engine::{Engine, Inner};
use crate::entry::{Entry, lock};
use crate::events::Action;
use crate::ports::{RemoteSandbox, Session};
use crate::record::{Record, State};

pub(crate) const SIGKILL: i32 = 9;
/// How long a killed sandbox may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(20);
/// How often somebody who waits looks at a record that does not change.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, Default)]
pub struct StopOptions {
    /// Instead of the configured grace period.
    pub timeout: Option<Duration>,
    /// Instead of the configured signal.
    pub signal: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// The workload does not run (which may be so already).
    NotRunning,
    /// The workload ends once more.
    NextExit,
    /// The sandbox is removed.
    Removed,
}

impl Engine {
    /// Stops a sandbox: its stop signal, then, after the grace period, SIGKILL; false if it did
    /// not run.
    pub async fn stop(&self, reference: &str, options: StopOptions) -> Result<bool> {
        let entry = self.inner.find(reference)?;
        self.inner.note_stopped(&entry);
        let _operation = entry.operation.lock().await;
        self.inner.stop_locked(&entry, options).await
    }

    pub async fn restart(&self, reference: &str, options: StopOptions) -> Result<()> {
        let entry = self.inner.find(reference)?;
        self.inner.note_stopped(&entry);
        let _operation = entry.operation.lock().await;
        self.inner.stop_locked(&entry, options).await?;
        entry.change(&*self.inner.store, |record| {
            record.stopped_by_user = false;
            record.restart_count = 0;
        })?;
        self.inner.start_locked(&entry).await?;
        self.inner
            .emit_sandbox(&entry.record(), Action::Restart, []);
        Ok(())
    }

    /// Sends a signal to the workload.
    ///
    /// # Errors
    /// `Conflict` if it does not run.
    pub async fn kill(&self, reference: &str, signal: i32) -> Result<()> {
        let entry = self.inner.find(reference)?;
        let name = entry.look(|record| record.config.name.clone());
        let remote = entry.remote().map_err(|_| {
            Error::conflict(format!("cannot kill container: {name} is not running"))
        })?;
        let ends = signal == SIGKILL || signal == entry.look(|record| record.config.stop_signal);
        if ends {
            self.inner.note_stopped(&entry);
        }
        remote.signal(signal).await?;
        self.inner.emit_sandbox(
            &entry.record(),
            Action::Kill,
            [("signal", signal.to_string())],
        );
        if ends && entry.look(|record| record.state) == State::Paused {
            // What is frozen does not hear a signal.
            let _operation = entry.operation.lock().await;
            self.inner.resume_locked(&entry, &*remote).await?;
        }
        if signal == SIGKILL {
            self.inner.wait_inactive(&entry, KILL_PATIENCE).await;
        }
        Ok(())
    }

    /// Removes a sandbox and what it has written; with `volumes` its anonymous volumes too.
    ///
    /// # Errors
    /// `Conflict` if it runs and `force` is not set.
    pub async fn remove(&self, reference: &str, force: bool, volumes: bool) -> Result<()> {
        let entry = self.inner.find(reference)?;
        if force {
            self.inner.note_stopped(&entry);
        }
        let _operation = entry.operation.lock().await;
        if entry.look(|record| record.state.is_active()) {
            if !force {
                let record = entry.record();
                return Err(Error::conflict(format!(
                    "cannot remove container {}: it is running: stop it first or use force",
                    record.config.name
                )));
            }
            let at_once = StopOptions {
                timeout: Some(Duration::ZERO),
                signal: Some(SIGKILL),
            };
            self.inner.stop_locked(&entry, at_once).await?;
        }
        self.inner.remove_locked(&entry, volumes).await
    }

    pub async fn pause(&self, reference: &str) -> Result<()> {
        let entry = self.inner.find(reference)?;
        let _operation = entry.operation.lock().await;
        if entry.look(|record| record.state) == State::Paused {
            return Err(Error::conflict("the sandbox is already paused"));
        }
        entry.remote()?.pause().await?;
        entry.note(&*self.inner.store, |record| {
            // It may have ended at this very moment.
            if record.state == State::Running {
                record.state = State::Paused;
            }
        })?;
        self.inner.emit_sandbox(&entry.record(), Action::Pause, []);
        self.inner.topology_changed();
        Ok(())
    }

    pub async fn resume(&self, reference: &str) -> Result<()> {
        let entry = self.inner.find(reference)?;
        let _operation = entry.operation.lock().await;
        if entry.look(|record| record.state) != State::Paused {
            return Err(Error::conflict("the sandbox is not paused"));
        }
        self.inner.resume_locked(&entry, &*entry.remote()?).await?;
        self.inner.emit_sandbox(&entry.record(), Action::Resume, []);
        self.inner.topology_changed();
        Ok(())
    }

    /// Changes limits, now if it runs and for the next start in any case.
    pub async fn update(
        &self,
        reference: &str,
        change: impl FnOnce(&mut crate::SandboxConfig) + Send,
    ) -> Result<()> {
        let entry = self.inner.find(reference)?;
        let _operation = entry.operation.lock().await;
        let mut config = entry.look(|record| record.config.clone());
        change(&mut config);
        if let Ok(remote) = entry.remote() {
            let resources: Resources = config.resources.clone();
            remote.update(resources).await?;
        }
        entry.note(&*self.inner.store, |record| {
            record.config.resources = config.resources;
            record.config.restart = config.restart;
        })?;
        self.inner.emit_sandbox(&entry.record(), Action::Update, []);
        Ok(())
    }

    pub async fn stats(&self, reference: &str) -> Result<Stats> {
        self.inner.find(reference)?.remote()?.stats().await
    }

    pub async fn resize(&self, reference: &str, size: TerminalSize) -> Result<()> {
        self.inner.find(reference)?.remote()?.resize(size).await
    }

    pub async fn exec(&self, reference: &str, process: ProcessSpec) -> Result<(u32, Session)> {
        let entry = self.inner.find(reference)?;
        if entry.look(|record| record.state) == State::Paused {
            return Err(Error::conflict("the sandbox is paused: unpause it first"));
        }
        entry.remote()?.exec(process).await
    }

    /// Joins the workload's streams: now if it runs, else with its next start.
    pub async fn attach(&self, reference: &str, stdin: bool) -> Result<Session> {
        match self.attach_soon(reference, stdin).await? {
            Attached::Now(session) => Ok(session),
            Attached::Later(pending) => pending
                .await
                .map_err(|_| Error::conflict("the sandbox could not be started")),
        }
    }

    /// Like [`Engine::attach`], but answers at once: a client may be told that it is attached
    /// before the sandbox starts.
    pub async fn attach_soon(&self, reference: &str, stdin: bool) -> Result<Attached> {
        let entry = self.inner.find(reference)?;
        let remote = {
            // Held over the look: a start publishes its sandbox before it takes the early ones.
            let mut early = lock(&entry.early_attachers);
            match entry.remote() {
                Ok(remote) => remote,
                Err(_) => {
                    let (sender, receiver) = oneshot::channel();
                    early.retain(|(_, waiting)| !waiting.is_closed());
                    early.push((stdin, sender));
                    return Ok(Attached::Later(receiver));
                }
            }
        };
        remote.attach(stdin).await.map(Attached::Now)
    }

    /// Waits for a sandbox to get into a state, and says how its last run ended.
    ///
    /// # Errors
    /// `NotFound` if there is no such sandbox.
    pub async fn wait(&self, reference: &str, until: WaitFor) -> Result<ExitStatus> {
        let entry = self.inner.find(reference)?;
        let mut changes = entry.watch();
        let first_finish = entry.look(|record| record.finished_at);
        loop {
            let record = entry.record();
            let gone = !self.inner.is_known(&entry.id);
            let met = match until {
                WaitFor::NotRunning => !record.state.is_active(),
                WaitFor::NextExit => {
                    record.finished_at.is_some() && record.finished_at != first_finish
                }
                WaitFor::Removed => gone,
            };
            if met || gone {
                return Ok(record.exit.unwrap_or(ExitStatus {
                    code: 0,
                    oom_killed: false,
                }));
            }
            if changes.changed().await.is_err() {
                return Err(Error::not_found(format!("No such container: {reference}")));
            }
        }
    }

    /// Waits until `met` holds of the record; `None` if the sandbox is removed meanwhile.
    pub(crate) async fn wait_until(
        &self,
        id: &str,
        met: impl Fn(&Record) -> bool + Send,
    ) -> Option<Record> {
        let entry = self.inner.find(id).ok()?;
        let mut changes = entry.watch();
        loop {
            if !self.inner.is_known(&entry.id) {
                return None;
            }
            let record = entry.record();
            if met(&record) {
                return Some(record);
            }
            // Also without a change: some of what is waited for is a matter of time.
            tokio::select! {
                changed = changes.changed() => changed.ok()?,
                () = tokio::time::sleep(LOOK_PAUSE) => {}
            }
        }
    }
}

/// How a client is attached.
#[derive(Debug)]
pub enum Attached {
    Now(Session),
    Later(oneshot::Receiver<Session>),
}

impl Inner {
    /// Before the operation lock is taken: a restart that waits for it must not happen any more.
    /// Stopping is possible with a full disk too.
    fn note_stopped(&self, entry: &Entry) {
        let noted = entry.note(&*self.store, |record| record.stopped_by_user = true);
        if let Err(error) = noted {
            tracing::warn!(%error, sandbox = entry.id, "a stop is begun without a note of it");
        }
    }

    /// Stops with the operation lock held.
    pub(crate) async fn stop_locked(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        options: StopOptions,
    ) -> Result<bool> {
        let record = entry.record();
        match record.state {
            State::Restarting => {
                // The task that would restart it looks at `stopped_by_user` under this lock.
                entry.note(&*self.store, |record| record.state = State::Exited)?;
                return Ok(true);
            }
            State::Running | State::Paused | State::Starting => {}
            State::Created | State::Exited | State::Dead => return Ok(false),
        }
        let Ok(remote) = entry.remote() else {
            // It has just ended, and what it used is being given back.
            self.wait_inactive(entry, KILL_PATIENCE).await;
            return Ok(false);
        };
        if record.state == State::Paused {
            self.resume_locked(entry, &*remote).await?;
        }
        let grace = options.timeout.unwrap_or(record.config.stop_timeout);
        let signal = options.signal.unwrap_or(record.config.stop_signal);
        if let Err(error) = remote.signal(signal).await {
            tracing::debug!(%error, "the workload is ending already");
        }
        if signal == SIGKILL || !self.wait_inactive(entry, grace).await {
            if let Err(error) = remote.signal(SIGKILL).await {
                tracing::debug!(%error, "the workload is ending already");
            }
            if !self.wait_inactive(entry, KILL_PATIENCE).await {
                return Err(Error::host(format!(
                    "sandbox {} does not end although it was killed: see the daemon's log",
                    record.config.name
                )));
            }
        }
        self.emit_sandbox(&entry.record(), Action::Stop, []);
        Ok(true)
    }

    /// Resumes with the operation lock held.
    async fn resume_locked(&self, entry: &Entry, remote: &dyn RemoteSandbox) -> Result<()> {
        if entry.look(|record| record.state) != State::Paused {
            return Ok(());
        }
        remote.resume().await?;
        entry.note(&*self.store, |record| {
            if record.state == State::Paused {
                record.state = State::Running;
            }
        })
    }

    /// Waits until no workload runs; false if that takes longer than `patience`.
    pub(crate) async fn wait_inactive(&self, entry: &Entry, patience: Duration) -> bool {
        let mut changes = entry.watch();
        let ended = async {
            while entry.look(|record| record.state.is_running() || record.state == State::Starting)
            {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, ended).await.is_ok()
    }

    pub(crate) async fn remove_locked(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        volumes: bool,
    ) -> Result<()> {
        if !self.is_known(&entry.id) {
            return Err(Error::not_found(format!("No such container: {}", entry.id)));
        }
        let noted = entry.note(&*self.store, |record| {
            record.state = State::Dead;
            record.remove_volumes |= volumes || record.config.auto_remove;
        });
        if let Err(error) = noted {
            // Removing is what helps where the disk is full.
            tracing::warn!(%error, sandbox = entry.id, "a removal is begun without a note of it");
        }
        self.release(entry).await;
        self.launcher.clean(&entry.id).await?;
        let directory = self.state_dir(&entry.id);
        remove_tree(&directory).await?;
        let record = entry.record();
        if record.remove_volumes {
            for name in &record.anonymous_volumes {
                self.drop_volume(name).await?;
            }
        }
        self.forget(entry)?;
        lock(&entry.early_attachers).clear();
        entry.wake();
        self.emit_sandbox(&record, Action::Remove, []);
        self.topology_changed();
        Ok(())
    }
}

/// Removes a directory with everything in it, if it is there.
pub(crate) async fn remove_tree(directory: &std::path::Path) -> Result<()> {
    match tokio::fs::remove_dir_all(directory).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(Error::host(format!("remove {}", directory.display())).with_source(error))
        }
    }
}
