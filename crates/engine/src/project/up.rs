use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_model::{Error, ErrorKind, Result};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::{mpsc, watch};

use super::plan::{
    Condition, DependsOn, Progress, ProjectPlan, ProjectRecord, ProjectService, ServicePlan, Stage,
    UpOptions,
};
use super::undo::{Journal, Step};
use crate::config::{Replica, SandboxConfig};
use crate::engine::Engine;
use crate::entry::lock;
use crate::lifecycle::StopOptions;
use crate::record::{HealthStatus, Record, State};

/// How many lines of a failed sandbox's log an error shows.
const LOG_LINES_SHOWN: usize = 10;
/// How long a replica without a health check runs until it counts as up.
const STEADY: Duration = Duration::from_millis(250);
/// The same for one that has ended before.
const STEADY_AGAIN: Duration = Duration::from_secs(2);
/// How many restarts an `up` waits through.
const RESTARTS_TOLERATED: u32 = 3;

impl Engine {
    /// Brings a project to its plan.
    ///
    /// # Errors
    /// Whatever failed first; everything that ran before runs again and nothing new is left.
    pub async fn up(
        &self,
        plan: ProjectPlan,
        options: UpOptions,
        progress: mpsc::Sender<Progress>,
    ) -> Result<()> {
        let guard = self.inner.project_guard(&plan.name);
        let _one_at_a_time = guard.lock().await;
        let journal = Arc::new(Journal::default());
        let before = self.project(&plan.name);
        let run = Up {
            engine: self.clone(),
            plan,
            options,
            progress,
            journal: Arc::clone(&journal),
            replaced: Mutex::default(),
        };
        match run.run().await {
            // Nothing that ran before is taken away until everything new stands.
            Ok(chosen) => {
                journal.commit(self).await?;
                run.remove_superfluous(&chosen).await
            }
            Err(error) => {
                journal.undo(self).await;
                match before {
                    Some(before) => self.inner.keep_project(before)?,
                    None => self.inner.forget_project(&run.plan.name)?,
                }
                Err(error)
            }
        }
    }

    pub fn projects(&self) -> Vec<ProjectRecord> {
        lock(&self.inner.projects).values().cloned().collect()
    }

    pub fn project(&self, name: &str) -> Option<ProjectRecord> {
        lock(&self.inner.projects).get(name).cloned()
    }

    /// The last lines of a sandbox's log, as text.
    fn log_tail(&self, id: &str) -> String {
        let Ok(text) = std::fs::read_to_string(self.log_file(id)) else {
            return String::new();
        };
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        shown
            .iter()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|entry| Some(format!("\n  | {}", entry["log"].as_str()?.trim_end())))
            .collect()
    }
}

impl crate::engine::Inner {
    pub(super) fn keep_project(&self, record: ProjectRecord) -> Result<()> {
        self.store.save_project(&record)?;
        lock(&self.projects).insert(record.name.clone(), record);
        Ok(())
    }

    pub(super) fn forget_project(&self, name: &str) -> Result<()> {
        self.store.delete_project(name)?;
        lock(&self.projects).remove(name);
        Ok(())
    }
}

struct Up {
    engine: Engine,
    plan: ProjectPlan,
    options: UpOptions,
    progress: mpsc::Sender<Progress>,
    journal: Arc<Journal>,
    /// The services of which a replica was replaced.
    replaced: Mutex<BTreeSet<String>>,
}

/// Whether a replica can be sent requests and seems to stay. Without a health check, running for a
/// while is all that can be asked for, and for longer after it has ended once.
fn stands(record: &Record) -> bool {
    let steady = if record.restart_count == 0 {
        STEADY
    } else {
        STEADY_AGAIN
    };
    let ran = record.started_at.and_then(|start| start.elapsed().ok());
    record.is_ready() && (record.config.health.is_some() || ran.is_none_or(|ran| ran >= steady))
}

/// Whether a replica ends and is restarted again and again.
fn keeps_ending(before: &Record, now: &Record) -> bool {
    now.restart_count.saturating_sub(before.restart_count) >= RESTARTS_TOLERATED
}

fn number_of(record: &Record) -> Option<u32> {
    record.config.replica.as_ref().map(|replica| replica.number)
}

/// How far a service has come, for those that depend on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    Nothing,
    Started,
    Failed,
}

impl Up {
    async fn run(&self) -> Result<BTreeSet<&str>> {
        let chosen = self.chosen()?;
        self.keep_record()?;
        self.make_networks().await?;
        self.make_volumes().await?;
        self.check_ports(&chosen).await?;
        let reached: BTreeMap<&str, watch::Sender<Reached>> = chosen
            .iter()
            .map(|name| (*name, watch::Sender::new(Reached::Nothing)))
            .collect();
        let services = self
            .plan
            .services
            .iter()
            .filter(|s| chosen.contains(s.name.as_str()));
        let bringing = services.map(|service| async {
            let done = self.bring(service, &reached).await;
            let report = if done.is_ok() {
                Reached::Started
            } else {
                Reached::Failed
            };
            reached[service.name.as_str()].send_replace(report);
            done
        });
        // All are heard out: an undo must not race with a start that is under way.
        join_all(bringing)
            .await
            .into_iter()
            .collect::<Result<Vec<()>>>()?;
        if self.options.wait && !self.options.no_start {
            let waiting = async {
                let services = self
                    .plan
                    .services
                    .iter()
                    .filter(|s| chosen.contains(s.name.as_str()));
                try_join_all(services.clone().map(|service| self.wait_ready(service))).await?;
                // What was the first to stand may have fallen while the last one was waited for.
                try_join_all(services.map(|service| self.wait_ready_again(service))).await
            };
            match self.options.wait_timeout {
                None => waiting.await.map(drop)?,
                Some(limit) => match tokio::time::timeout(limit, waiting).await {
                    Ok(done) => done.map(drop)?,
                    Err(_) => return Err(self.not_ready_in(limit)),
                },
            }
        }
        Ok(chosen)
    }

    /// The services asked for and, unless told otherwise, what they depend on.
    fn chosen(&self) -> Result<BTreeSet<&str>> {
        let all: BTreeMap<&str, &ServicePlan> = self
            .plan
            .services
            .iter()
            .map(|service| (service.name.as_str(), service))
            .collect();
        if self.options.services.is_empty() {
            return Ok(all.into_keys().collect());
        }
        let mut chosen = BTreeSet::new();
        let mut open: Vec<&str> = self.options.services.iter().map(String::as_str).collect();
        while let Some(name) = open.pop() {
            let Some(service) = all.get(name) else {
                return Err(Error::not_found(format!("no such service: {name}")));
            };
            if chosen.insert(service.name.as_str()) && !self.options.without_dependencies {
                open.extend(service.depends_on.iter().map(|d| d.service.as_str()));
            }
        }
        Ok(chosen)
    }

    fn keep_record(&self) -> Result<()> {
        let services = self.plan.services.iter().map(|service| {
            let depends_on = service
                .depends_on
                .iter()
                .map(|d| d.service.clone())
                .collect();
            (
                service.name.clone(),
                ProjectService {
                    replicas: service.replicas,
                    depends_on,
                },
            )
        });
        let own_networks = self
            .plan
            .networks
            .iter()
            .filter(|network| !network.external);
        let own_volumes = self.plan.volumes.iter().filter(|volume| !volume.external);
        self.engine.inner.keep_project(ProjectRecord {
            name: self.plan.name.clone(),
            services: services.collect(),
            networks: own_networks
                .map(|network| network.request.name.clone())
                .collect(),
            volumes: own_volumes.map(|volume| volume.name.clone()).collect(),
            form: self.plan.form.clone(),
        })
    }

    async fn make_networks(&self) -> Result<()> {
        for network in &self.plan.networks {
            let name = &network.request.name;
            if self.engine.network(name).is_ok() {
                continue;
            }
            if network.external {
                return Err(Error::not_found(format!(
                    "network {name} is declared as external, but there is none of this name"
                )));
            }
            self.say_object(name, Stage::Creating).await;
            let made = self.engine.create_network(network.request.clone()).await?;
            self.journal.note(Step::Network {
                id: made.id().to_owned(),
            });
            self.say_object(name, Stage::Created).await;
        }
        Ok(())
    }

    async fn make_volumes(&self) -> Result<()> {
        for volume in &self.plan.volumes {
            if self.engine.volume(&volume.name).is_ok() {
                continue;
            }
            if volume.external {
                return Err(Error::not_found(format!(
                    "volume {} is declared as external, but there is none of this name",
                    volume.name
                )));
            }
            self.engine
                .create_volume(&volume.name, volume.labels.clone())
                .await?;
            self.journal.note(Step::Volume {
                name: volume.name.clone(),
            });
            self.say_object(&volume.name, Stage::Created).await;
        }
        Ok(())
    }

    /// Finds a taken port before anything is stopped for it.
    async fn check_ports(&self, chosen: &BTreeSet<&str>) -> Result<()> {
        for service in self
            .plan
            .services
            .iter()
            .filter(|s| chosen.contains(s.name.as_str()))
        {
            for port in service
                .template
                .ports
                .iter()
                .filter(|port| port.host_port != 0)
            {
                let (address, number, protocol) =
                    (port.host_address, port.host_port, port.protocol);
                if service.replicas > 1 {
                    return Err(Error::conflict(format!(
                        "service {}: port {number} cannot be published by {} replicas: leave the host's port out, or let the gateway balance",
                        service.name, service.replicas
                    )));
                }
                // What the service has already is its own to give up.
                let own = self.replicas_of(&service.name).iter().any(|record| {
                    record
                        .ports
                        .iter()
                        .any(|p| p.host_port == number && p.protocol == protocol)
                });
                if own {
                    continue;
                }
                crate::networks::blocking(move || {
                    bulkhead_network::check_port_free(address, number, protocol)
                })
                .await?;
            }
        }
        Ok(())
    }

    async fn bring(
        &self,
        service: &ServicePlan,
        reached: &BTreeMap<&str, watch::Sender<Reached>>,
    ) -> Result<()> {
        let existing = self.replicas_of(&service.name);
        for number in 1..=service.replicas {
            let present = self.present(service, &existing, number);
            if !present.is_some_and(|record| self.is_current(service, record)) {
                self.say(service, None, Stage::Creating, None).await;
            }
        }
        for dependency in &service.depends_on {
            self.wait_for(service, dependency, reached).await?;
        }
        let replicas = (1..=service.replicas).map(|number| {
            let present = self.present(service, &existing, number);
            self.bring_replica(service, number, present)
        });
        join_all(replicas)
            .await
            .into_iter()
            .collect::<Result<Vec<()>>>()
            .map(drop)
    }

    /// The replica of a number. There may be a second one, which an `up` whose daemon was killed
    /// had set aside: it has another name.
    fn present<'a>(
        &self,
        service: &ServicePlan,
        existing: &'a [Record],
        number: u32,
    ) -> Option<&'a Record> {
        let name = self.replica_name(service, number);
        let mut fitting = existing
            .iter()
            .filter(|record| number_of(record) == Some(number));
        let first = fitting.next();
        first
            .filter(|record| record.config.name == name)
            .or_else(|| fitting.find(|record| record.config.name == name))
            .or(first)
    }

    fn is_current(&self, service: &ServicePlan, record: &Record) -> bool {
        let same = record.config.image_id == service.template.image_id
            && record
                .config
                .replica
                .as_ref()
                .is_some_and(|replica| replica.config_hash == service.config_hash);
        !self.options.force_recreate && (same || self.options.no_recreate)
    }

    async fn bring_replica(
        &self,
        service: &ServicePlan,
        number: u32,
        present: Option<&Record>,
    ) -> Result<()> {
        let config = self.replica_config(service, number);
        let name = config.name.clone();
        let id = match present {
            Some(record) if self.is_current(service, record) => {
                if record.config.name != name {
                    self.engine.rename(&record.id, &name)?;
                }
                if record.state == State::Running && self.follows_replaced(service) {
                    let options = StopOptions {
                        timeout: self.options.stop_timeout,
                        signal: None,
                    };
                    self.engine.restart(&record.id, options).await?;
                    self.say(service, Some(&name), Stage::Started, None).await;
                    return Ok(());
                }
                if record.state == State::Running {
                    self.say(service, Some(&name), Stage::Running, None).await;
                    return Ok(());
                }
                self.journal.note(Step::Started {
                    id: record.id.clone(),
                });
                record.id.clone()
            }
            Some(record) => {
                self.set_aside(service, record).await?;
                self.create(config)?
            }
            None => self.create(config)?,
        };
        self.say(service, Some(&name), Stage::Created, None).await;
        if self.options.no_start {
            return Ok(());
        }
        self.say(service, Some(&name), Stage::Starting, None).await;
        if let Err(error) = self.engine.start(&id).await {
            let error = Error::new(error.kind(), format!("service {}: {error}", service.name));
            self.say(service, Some(&name), Stage::Failed, Some(error.to_string()))
                .await;
            return Err(error);
        }
        self.say(service, Some(&name), Stage::Started, None).await;
        Ok(())
    }

    fn create(&self, config: SandboxConfig) -> Result<String> {
        let id = self.engine.create(config)?;
        self.journal.note(Step::Created { id: id.clone() });
        Ok(id)
    }

    async fn set_aside(&self, service: &ServicePlan, record: &Record) -> Result<()> {
        let name = &record.config.name;
        lock(&self.replaced).insert(service.name.clone());
        self.say(service, Some(name), Stage::Stopping, None).await;
        self.engine
            .rename(&record.id, &format!("{}_{name}", record.short_id()))?;
        self.journal.note(Step::SetAside {
            id: record.id.clone(),
            name: name.clone(),
            ran: record.state.is_active(),
        });
        let options = StopOptions {
            timeout: self.options.stop_timeout,
            signal: None,
        };
        self.engine.stop(&record.id, options).await.map(drop)
    }

    /// Whether a service was replaced that this one is to be restarted with.
    fn follows_replaced(&self, service: &ServicePlan) -> bool {
        let replaced = lock(&self.replaced);
        service
            .depends_on
            .iter()
            .any(|other| other.restart && replaced.contains(&other.service))
    }

    fn replica_name(&self, service: &ServicePlan, number: u32) -> String {
        service
            .sandbox_name
            .clone()
            .unwrap_or_else(|| format!("{}-{}-{number}", self.plan.name, service.name))
    }

    fn replica_config(&self, service: &ServicePlan, number: u32) -> SandboxConfig {
        let mut config = service.template.clone();
        config.name = self.replica_name(service, number);
        config.replica = Some(Replica {
            project: self.plan.name.clone(),
            service: service.name.clone(),
            number,
            config_hash: service.config_hash.clone(),
            one_off: false,
        });
        config
    }

    fn replicas_of(&self, service: &str) -> Vec<Record> {
        let mut records = self.engine.list();
        records.retain(|record| {
            record.is_replica_of(&self.plan.name, service)
                && record.state != State::Dead
                && !self.journal.is_set_aside(&record.id)
        });
        records
    }

    async fn wait_for(
        &self,
        service: &ServicePlan,
        dependency: &DependsOn,
        reached: &BTreeMap<&str, watch::Sender<Reached>>,
    ) -> Result<()> {
        let name = &dependency.service;
        // A service that is not part of this up is taken as it is.
        if let Some(report) = reached.get(name.as_str()) {
            self.say(service, None, Stage::Waiting, Some(format!("for {name}")))
                .await;
            let mut report = report.subscribe();
            let reached = report
                .wait_for(|reached| *reached != Reached::Nothing)
                .await;
            let failed =
                reached.is_err() || reached.is_ok_and(|reached| *reached == Reached::Failed);
            if failed && dependency.required {
                return Err(Error::conflict(format!(
                    "service {}: it depends on {name}, which did not start",
                    service.name
                )));
            }
        }
        if self.options.no_start {
            return Ok(());
        }
        let waited = match dependency.condition {
            Condition::Started => Ok(()),
            Condition::Healthy => self.wait_healthy(name).await,
            Condition::CompletedSuccessfully => self.wait_completed(name).await,
        };
        match waited {
            Err(error) if dependency.required => Err(Error::conflict(format!(
                "service {}: dependency {error}",
                service.name
            ))),
            _ => Ok(()),
        }
    }

    /// Whether another service waits for this one's end.
    fn is_to_end(&self, service: &ServicePlan) -> bool {
        self.plan.services.iter().any(|other| {
            other.depends_on.iter().any(|dependency| {
                dependency.service == service.name
                    && dependency.condition == Condition::CompletedSuccessfully
            })
        })
    }

    async fn wait_ready_again(&self, service: &ServicePlan) -> Result<()> {
        if self.is_to_end(service) {
            Ok(())
        } else {
            self.wait_healthy(&service.name).await
        }
    }

    async fn wait_ready(&self, service: &ServicePlan) -> Result<()> {
        if self.is_to_end(service) {
            return self.wait_completed(&service.name).await;
        }
        self.wait_healthy(&service.name).await?;
        if service.template.health.is_some() {
            for record in self.replicas_of(&service.name) {
                self.say(service, Some(&record.config.name), Stage::Healthy, None)
                    .await;
            }
        }
        Ok(())
    }

    async fn wait_healthy(&self, service: &str) -> Result<()> {
        for record in self.replicas_of(service) {
            let settled = self
                .engine
                .wait_until(&record.id, |now| {
                    stands(now)
                        || now.state == State::Running
                            && now.health.status == HealthStatus::Unhealthy
                        || !now.state.is_active()
                        || keeps_ending(&record, now)
                })
                .await;
            let Some(settled) = settled else {
                return Err(Error::conflict(format!("{service} was removed meanwhile")));
            };
            if stands(&settled) {
                continue;
            }
            let tail = self.engine.log_tail(&settled.id);
            let why = match settled.state {
                _ if keeps_ending(&record, &settled) => {
                    format!(
                        "ends again and again, the last time with code {}",
                        settled.exit_code()
                    )
                }
                State::Running | State::Paused => {
                    let last = settled.health.probes.back();
                    let output = last.map(|probe| probe.output.trim()).unwrap_or_default();
                    format!("is unhealthy: {output}")
                }
                _ => format!("exited with code {}", settled.exit_code()),
            };
            return Err(Error::conflict(format!("{service} {why}{tail}")));
        }
        Ok(())
    }

    async fn wait_completed(&self, service: &str) -> Result<()> {
        for before in self.replicas_of(service) {
            let ended = self
                .engine
                .wait_until(&before.id, |record| {
                    !record.state.is_active() && record.state != State::Created
                        || keeps_ending(&before, record)
                })
                .await;
            if let Some(ended) = ended
                && (ended.exit_code() != 0 || ended.state.is_active())
            {
                let tail = self.engine.log_tail(&ended.id);
                return Err(Error::conflict(format!(
                    "{service} did not complete successfully: exit code {}{tail}",
                    ended.exit_code()
                )));
            }
        }
        Ok(())
    }

    fn not_ready_in(&self, limit: Duration) -> Error {
        let late: Vec<String> = self
            .plan
            .services
            .iter()
            .flat_map(|service| self.replicas_of(&service.name))
            .filter(|record| !record.is_ready())
            .map(|record| record.config.name)
            .collect();
        Error::conflict(format!("not healthy within {limit:?}: {}", late.join(", ")))
    }

    /// Replicas beyond the wanted number and, if asked for, services that are no more.
    async fn remove_superfluous(&self, chosen: &BTreeSet<&str>) -> Result<()> {
        for record in self.engine.list() {
            let Some(replica) = &record.config.replica else {
                continue;
            };
            if replica.project != self.plan.name
                || replica.one_off
                || self.journal.is_set_aside(&record.id)
            {
                continue;
            }
            let service = self
                .plan
                .services
                .iter()
                .find(|s| s.name == replica.service);
            let superfluous = match service {
                Some(service) => {
                    let name = self.replica_name(service, replica.number);
                    chosen.contains(service.name.as_str())
                        && (replica.number > service.replicas || record.config.name != name)
                }
                None => self.options.remove_orphans,
            };
            if superfluous {
                let options = StopOptions {
                    timeout: self.options.stop_timeout,
                    signal: None,
                };
                let stopped = self.engine.stop(&record.id, options).await.map(drop);
                let removed = match stopped {
                    Ok(()) => self.engine.remove(&record.id, true, true).await,
                    failed => failed,
                };
                match removed {
                    // One that removes itself was quicker.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    removed => removed?,
                }
                let removed = Progress {
                    service: Some(replica.service.clone()),
                    sandbox: Some(record.config.name.clone()),
                    object: None,
                    stage: Stage::Removed,
                    message: None,
                };
                self.send(removed).await;
            }
        }
        Ok(())
    }

    async fn say(
        &self,
        service: &ServicePlan,
        sandbox: Option<&str>,
        stage: Stage,
        message: Option<String>,
    ) {
        let sandbox = sandbox.map(str::to_owned);
        let service = Some(service.name.clone());
        self.send(Progress {
            service,
            sandbox,
            object: None,
            stage,
            message,
        })
        .await;
    }

    async fn say_object(&self, name: &str, stage: Stage) {
        let object = Some(name.to_owned());
        self.send(Progress {
            service: None,
            sandbox: None,
            object,
            stage,
            message: None,
        })
        .await;
    }

    async fn send(&self, progress: Progress) {
        if self.progress.send(progress).await.is_err() {
            tracing::debug!("nobody follows the progress");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::config::RestartPolicy;
    use crate::testing::record;

    #[test]
    fn what_runs_for_a_while_stands() {
        let mut running = record(RestartPolicy::Always);
        running.state = State::Running;
        running.started_at = Some(SystemTime::now());
        assert!(!stands(&running));
        running.started_at = Some(SystemTime::now() - STEADY);
        assert!(stands(&running));
        running.restart_count = 1;
        assert!(!stands(&running));
        running.started_at = Some(SystemTime::now() - STEADY_AGAIN);
        assert!(stands(&running));
        // The clock was put back: it is not waited for until then.
        running.started_at = Some(SystemTime::now() + Duration::from_secs(3600));
        assert!(stands(&running));
        running.state = State::Restarting;
        assert!(!stands(&running));
    }

    #[test]
    fn restarts_count_from_the_beginning_of_the_wait() {
        let mut before = record(RestartPolicy::Always);
        before.restart_count = 7;
        let mut now = before.clone();
        assert!(!keeps_ending(&before, &now));
        now.restart_count += RESTARTS_TOLERATED;
        assert!(keeps_ending(&before, &now));
        // A start by hand begins anew.
        now.restart_count = 0;
        assert!(!keeps_ending(&before, &now));
    }
}
