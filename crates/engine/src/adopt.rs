//! Taking over what an earlier process of the daemon left: whatever runs goes on running.

use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_model::{ExitStatus, Result};

use crate::config::RestartPolicy;
use crate::engine::{Engine, Inner};
use crate::entry::Entry;
use crate::networks::blocking;
use crate::record::{Health, Record, State};

impl Engine {
    /// Adopts every sandbox that runs, notes the end of those that do not any more, finishes
    /// removals that were begun, and removes what belongs to nobody.
    ///
    /// # Errors
    /// `Host` if the store cannot be written. A single sandbox that cannot be adopted is logged
    /// and counts as ended.
    pub async fn adopt_all(&self) -> Result<()> {
        let entries = self.inner.entries();
        // All addresses first: a restart must not be given one that is in use.
        for entry in &entries {
            let attachments = entry.look(|record| record.attachments.clone());
            self.inner.note_addresses(&attachments);
        }
        for entry in &entries {
            if let Err(error) = self.inner.adopt(entry).await {
                tracing::error!(%error, sandbox = entry.id, "it could not be adopted");
            }
        }
        self.remove_orphans(&entries).await;
        self.withdraw_ports().await;
        self.inner.topology_changed();
        Ok(())
    }

    /// The end may have come between a record's change and the kernel's.
    async fn withdraw_ports(&self) {
        for network in self.networks() {
            match self.inner.sync_ports(&[network.id().to_owned()]).await {
                Ok(()) => {}
                // After a reboot; it is made again when it is needed.
                Err(error) if error.kind() == bulkhead_model::ErrorKind::NotFound => {}
                Err(error) => tracing::error!(%error, "published ports may be wrong"),
            }
        }
    }

    /// Directories, bridges and tables of this instance that no record knows.
    async fn remove_orphans(&self, entries: &[Arc<Entry>]) {
        let known: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let runs = self.inner.settings.run_dir.join("sandboxes");
        for name in names_in(&runs) {
            if !known.iter().any(|id| id.starts_with(&name)) {
                log_failure(self.inner.launcher.destroy(&name).await, &name);
            }
        }
        for name in names_in(&self.inner.settings.state_dir.join("sandboxes")) {
            if !known.contains(&name) {
                let directory = self.inner.settings.state_dir.join("sandboxes").join(&name);
                log_failure(crate::lifecycle::remove_tree(&directory).await, &name);
            }
        }
        for name in names_in(&self.inner.settings.state_dir.join("volumes")) {
            if name.starts_with(crate::volumes::DOOMED) {
                let directory = self.inner.settings.state_dir.join("volumes").join(&name);
                log_failure(crate::lifecycle::remove_tree(&directory).await, &name);
            }
        }
        let bridges: Vec<String> = self
            .networks()
            .into_iter()
            .map(|network| network.spec.bridge)
            .collect();
        let root = self.inner.settings.root.clone();
        let removed = blocking(move || {
            let instance = bulkhead_network::Instance::new(&root);
            for owned in bulkhead_network::list_owned(&instance)? {
                if !bridges.contains(&owned.bridge) {
                    bulkhead_network::remove(&owned.bridge)?;
                }
            }
            Ok(())
        })
        .await;
        log_failure(removed, "a bridge");
    }
}

/// What cannot be removed now must not keep the daemon from serving.
fn log_failure(done: Result<()>, what: &str) {
    if let Err(error) = done {
        tracing::error!(%error, what, "something is left behind that nobody knows");
    }
}

impl Inner {
    async fn adopt(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<()> {
        let record = entry.record();
        match record.state {
            State::Running | State::Paused | State::Starting => {}
            State::Restarting => {
                self.launcher.clean(&entry.id).await?;
                self.restart_later(entry, std::time::Duration::ZERO);
                return Ok(());
            }
            State::Dead => {
                let _operation = entry.operation.lock().await;
                return self.remove_locked(entry, record.remove_volumes).await;
            }
            State::Exited if record.config.auto_remove => {
                let _operation = entry.operation.lock().await;
                self.remove_if_asked(entry).await;
                return Ok(());
            }
            State::Created | State::Exited => {
                let boot = record.config.restart == RestartPolicy::Always;
                if boot && record.state == State::Exited && !record.stopped_by_user {
                    entry.change(&*self.store, |record| record.state = State::Restarting)?;
                    self.restart_later(entry, std::time::Duration::ZERO);
                }
                return Ok(());
            }
        }
        let last_exit = self.launcher.last_exit(&entry.id).unwrap_or_else(|error| {
            tracing::error!(%error, sandbox = entry.id, "how it ended is not known");
            None
        });
        match self.launcher.adopt(&entry.id).await? {
            Some(remote) => {
                if record.state == State::Starting {
                    // The end of the earlier process came between the workload's start and its
                    // note of it, or before the start. Only the supervisor knows.
                    match self.launcher.started_at(&entry.id)? {
                        Some(started_at) => entry.note(&*self.store, |record| {
                            record.state = State::Running;
                            record.pid = Some(remote.pid());
                            record.started_at = Some(started_at);
                            record.finished_at = None;
                            record.exit = None;
                            record.health = Health::of_new_run(&record.config);
                        })?,
                        None => {
                            if let Err(error) = remote.discard().await {
                                tracing::debug!(%error, sandbox = entry.id, "it ends by itself");
                            }
                            return self.take_back_start(entry, &record).await;
                        }
                    }
                }
                entry.set_remote(Some(Arc::clone(&remote)));
                self.watch_over(entry, remote);
                Ok(())
            }
            None => {
                // A launch removes the last run's status first: what is there is of this run.
                let ended = last_exit.or_else(|| self.launcher.last_exit(&entry.id).ok().flatten());
                match ended {
                    Some((finished_at, ending)) => self.ended(entry, ending, finished_at).await,
                    None if record.state == State::Starting => {
                        return self.take_back_start(entry, &record).await;
                    }
                    None => {
                        let killed = ExitStatus::KILLED;
                        self.ended(entry, killed.into(), SystemTime::now()).await;
                    }
                }
                Ok(())
            }
        }
    }

    /// A start that an earlier process did not finish, and nobody was told of: as if it had not
    /// begun.
    async fn take_back_start(self: &Arc<Self>, entry: &Arc<Entry>, record: &Record) -> Result<()> {
        let _operation = entry.operation.lock().await;
        self.release(entry).await;
        self.launcher.clean(&entry.id).await?;
        let again = record.restart_count > 0
            && record.config.restart != RestartPolicy::No
            && !record.stopped_by_user;
        entry.note(&*self.store, |record| {
            record.state = match record.started_at {
                _ if again => State::Restarting,
                Some(_) => State::Exited,
                None => State::Created,
            };
            record.pid = None;
        })?;
        if again {
            self.restart_later(entry, std::time::Duration::ZERO);
        } else {
            self.remove_if_asked(entry).await;
        }
        Ok(())
    }
}

fn names_in(directory: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
