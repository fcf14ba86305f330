//! Taking over what an earlier process of the daemon left: whatever runs goes on running.

use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_model::{ExitStatus, Result};

use crate::config::RestartPolicy;
use crate::engine::{Engine, Inner};
use crate::entry::Entry;
use crate::networks::blocking;
use crate::record::State;

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
        self.remove_orphans(&entries).await?;
        self.inner.topology_changed();
        Ok(())
    }

    /// Directories, bridges and tables of this instance that no record knows.
    async fn remove_orphans(&self, entries: &[Arc<Entry>]) -> Result<()> {
        let known: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let runs = self.inner.settings.run_dir.join("sandboxes");
        for name in names_in(&runs) {
            if !known.iter().any(|id| id.starts_with(&name)) {
                self.inner.launcher.clean(&name).await?;
            }
        }
        for name in names_in(&self.inner.settings.state_dir.join("sandboxes")) {
            if !known.contains(&name) {
                let directory = self.inner.settings.state_dir.join("sandboxes").join(&name);
                crate::lifecycle::remove_tree(&directory).await?;
            }
        }
        let bridges: Vec<String> =
            self.networks().into_iter().map(|network| network.spec.bridge).collect();
        let root = self.inner.settings.root.clone();
        blocking(move || {
            let instance = bulkhead_network::Instance::new(&root);
            for owned in bulkhead_network::list_owned(&instance)? {
                if !bridges.contains(&owned.bridge) {
                    bulkhead_network::remove(&owned.bridge)?;
                }
            }
            Ok(())
        })
        .await
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
                return self.remove_locked(entry, record.config.auto_remove).await;
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
        match self.launcher.adopt(&entry.id).await? {
            Some(remote) => {
                if record.state == State::Starting {
                    // The end of the earlier process came between the workload's start and its
                    // note of it, or before the start. Only the supervisor knows.
                    match self.launcher.started_at(&entry.id)? {
                        Some(started_at) => entry.change(&*self.store, |record| {
                            record.state = State::Running;
                            record.pid = Some(remote.pid());
                            record.started_at = Some(started_at);
                        })?,
                        None => {
                            remote.discard().await?;
                            self.release(entry).await;
                            self.launcher.clean(&entry.id).await?;
                            return entry
                                .change(&*self.store, |record| record.state = State::Created);
                        }
                    }
                }
                entry.set_remote(Some(Arc::clone(&remote)));
                self.watch_over(entry, remote);
                Ok(())
            }
            None => {
                let (finished_at, exit) = match self.launcher.last_exit(&entry.id)? {
                    Some((at, exit)) if record.started_at.is_none_or(|start| at >= start) => (at, exit),
                    _ => (SystemTime::now(), ExitStatus { code: 137, oom_killed: false }),
                };
                self.ended(entry, exit, finished_at).await;
                Ok(())
            }
        }
    }
}

fn names_in(directory: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
