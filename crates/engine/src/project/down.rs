use std::collections::BTreeSet;

use bulkhead_model::{Error, ErrorKind, Result};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::plan::{DownOptions, Progress, Stage};
use crate::engine::Engine;
use crate::lifecycle::StopOptions;
use crate::networks::DEFAULT_NETWORK;
use crate::record::Record;

impl Engine {
    /// Removes a project's sandboxes, its networks and, if asked for, its volumes.
    ///
    /// # Errors
    /// `NotFound` if there is nothing of the project.
    pub async fn down(
        &self,
        project: &str,
        options: DownOptions,
        progress: mpsc::Sender<Progress>,
    ) -> Result<()> {
        let guard = self.inner.project_guard(project);
        let _one_at_a_time = guard.lock().await;
        let known = self.project(project);
        let mut records = self.list();
        records.retain(|record| {
            record.config.replica.as_ref().is_some_and(|replica| {
                replica.project == project
                    && (options.services.is_empty() || options.services.contains(&replica.service))
            })
        });
        if known.is_none() && records.is_empty() {
            return Err(Error::not_found(format!("there is no project {project}")));
        }
        let known = known.unwrap_or_default();
        while !records.is_empty() {
            // Whoever still needs something goes before it.
            let needed: BTreeSet<&String> = records
                .iter()
                .filter_map(|record| known.services.get(service_of(record)))
                .flat_map(|service| &service.depends_on)
                .collect();
            let (mut now, mut later): (Vec<Record>, Vec<Record>) = records
                .iter()
                .cloned()
                .partition(|record| !needed.contains(&service_of(record).to_owned()));
            if now.is_empty() {
                now = std::mem::take(&mut later);
            }
            // All are carried through, also when one fails: none is left half-removed.
            join_all(
                now.iter()
                    .map(|record| self.take_down(record, &options, &progress)),
            )
            .await
            .into_iter()
            .collect::<Result<Vec<()>>>()?;
            records = later;
        }
        if !options.services.is_empty() {
            return Ok(());
        }
        for name in &known.networks {
            if self.network(name).is_ok() {
                self.remove_network(name).await?;
                say(&progress, None, None, Some(name), Stage::Removed).await;
            }
        }
        self.remove_default_network().await?;
        if options.volumes {
            for name in &known.volumes {
                if self.volume(name).is_ok() {
                    self.remove_volume(name).await?;
                    say(&progress, None, None, Some(name), Stage::Removed).await;
                }
            }
        }
        // Volumes that are kept stay known by name, so that a later `down -v` finds them.
        if options.volumes || known.volumes.is_empty() {
            self.inner.forget_project(project)?;
        } else {
            let mut rest = known;
            rest.services.clear();
            rest.networks.clear();
            self.inner.keep_project(rest)?;
        }
        Ok(())
    }

    /// Builds and sandboxes outside of projects make it when they need it; it goes when nobody does.
    async fn remove_default_network(&self) -> Result<()> {
        match self.remove_network(DEFAULT_NETWORK).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => {
                Ok(())
            }
            removed => removed,
        }
    }

    async fn take_down(
        &self,
        record: &Record,
        options: &DownOptions,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<()> {
        let (service, name) = (Some(service_of(record)), Some(record.config.name.as_str()));
        say(progress, service, name, None, Stage::Stopping).await;
        let stop = StopOptions {
            timeout: options.stop_timeout,
            signal: None,
        };
        // One that removes itself may be quicker.
        match self.stop(&record.id, stop).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            stopped => drop(stopped?),
        }
        say(progress, service, name, None, Stage::Removing).await;
        match self.remove(&record.id, true, true).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed?,
        }
        say(progress, service, name, None, Stage::Removed).await;
        Ok(())
    }
}

fn service_of(record: &Record) -> &str {
    record
        .config
        .replica
        .as_ref()
        .map_or("", |replica| &replica.service)
}

async fn say(
    progress: &mpsc::Sender<Progress>,
    service: Option<&str>,
    sandbox: Option<&str>,
    object: Option<&str>,
    stage: Stage,
) {
    let event = Progress {
        service: service.map(str::to_owned),
        sandbox: sandbox.map(str::to_owned),
        object: object.map(str::to_owned),
        stage,
        message: None,
    };
    if progress.send(event).await.is_err() {
        tracing::debug!("nobody follows the progress");
    }
}
