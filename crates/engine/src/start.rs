//! Starting: from the configuration to a running workload.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bulkhead_model::Error;
use bulkhead_model::{
    Endpoint, EtcFiles, Mount, MountSource, NetworkMode, Result, RootFilesystem, SandboxSpec,
};
use bulkhead_network::PublishedPort;

use crate::config::{MountRequestSource, NetworkRequest};
use crate::engine::{Engine, Inner};
use crate::entry::{Entry, lock};
use crate::events::Action;
use crate::ports::{RemoteSandbox, StartRequest};
use crate::record::{Health, Record, Resolved, State};
use crate::restart::restart_pause;

impl Engine {
    /// Starts a sandbox; false if it ran already.
    ///
    /// # Errors
    /// `NotFound`; `CommandNotFound` and `CommandNotExecutable` if the program cannot be run;
    /// `Conflict` if a port is taken. The sandbox is then as it was before; one that removes
    /// itself at its end is removed.
    pub async fn start(&self, reference: &str) -> Result<bool> {
        let entry = self.inner.find(reference)?;
        let _operation = entry.operation.lock().await;
        entry.change(&*self.inner.store, |record| {
            record.stopped_by_user = false;
            record.restart_count = 0;
        })?;
        let started = self.inner.start_locked(&entry).await;
        if started.is_err() {
            self.inner.remove_if_asked(&entry).await;
        }
        started
    }
}

impl Inner {
    /// Starts with the operation lock held.
    pub(crate) async fn start_locked(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<bool> {
        let before = entry.look(|record| record.state);
        match before {
            State::Running => return Ok(false),
            State::Paused => {
                return Err(Error::conflict("the sandbox is paused: unpause it instead"));
            }
            State::Dead => return Err(Error::conflict("the sandbox is being removed")),
            State::Created | State::Starting | State::Restarting | State::Exited => {}
        }
        let begun = Instant::now();
        entry.change(&*self.store, |record| {
            record.state = State::Starting;
            record.error = None;
        })?;
        match self.launch_and_start(entry, begun).await {
            Ok(remote) => {
                self.emit_sandbox(&entry.record(), Action::Start, []);
                self.topology_changed();
                self.watch_over(entry, remote);
                Ok(true)
            }
            Err(error) => {
                self.release(entry).await;
                if let Err(left) = self.launcher.clean(&entry.id).await {
                    tracing::error!(error = %left, sandbox = entry.id, "something is left of a failed start");
                }
                self.note_failed_start(entry, before, &error);
                Err(error)
            }
        }
    }

    fn note_failed_start(self: &Arc<Self>, entry: &Arc<Entry>, before: State, error: &Error) {
        let code = match error.kind() {
            bulkhead_model::ErrorKind::CommandNotFound => 127,
            bulkhead_model::ErrorKind::CommandNotExecutable => 126,
            _ => 128,
        };
        let exit = bulkhead_model::ExitStatus {
            code,
            oom_killed: false,
        };
        // A restart that fails is tried again, as the policy says.
        let pause = match before {
            State::Restarting => restart_pause(&entry.record(), exit, SystemTime::now()),
            _ => None,
        };
        let noted = entry.note(&*self.store, |record| {
            record.state = match before {
                State::Created => State::Created,
                _ if pause.is_some() => State::Restarting,
                _ => State::Exited,
            };
            record.pid = None;
            record.error = Some(error.to_string());
            record.exit = Some(exit);
            if before == State::Restarting {
                record.finished_at = Some(SystemTime::now());
            }
            if pause.is_some() {
                record.restart_count += 1;
            }
        });
        if let Err(error) = noted {
            tracing::error!(%error, sandbox = entry.id, "a failed start is not kept");
        }
        lock(&entry.early_attachers).clear();
        self.topology_changed();
        if let Some(pause) = pause {
            self.restart_later(entry, pause);
        }
    }

    async fn launch_and_start(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        begun: Instant,
    ) -> Result<Arc<dyn RemoteSandbox>> {
        let resolved = self.resolve(entry).await?;
        let Resolved {
            spec,
            attachments,
            ports,
        } = resolved;
        let networks: Vec<_> = attachments.iter().map(|a| a.network_id.clone()).collect();
        entry.change(&*self.store, |record| {
            record.attachments = attachments;
            record.ports = ports;
        })?;
        let state_dir = self.state_dir(&entry.id);
        let request = StartRequest {
            spec,
            labels: entry.look(|record| record.config.labels.clone()),
            log_file: state_dir.join("log.jsonl"),
            status_file: state_dir.join("status.json"),
        };
        let remote = self.launcher.launch(request).await?;
        if let Err(error) = self.start_launched(entry, &remote, &networks).await {
            // If it cannot be discarded, its workload was started.
            if remote.discard().await.is_err()
                && let Err(error) = remote.signal(crate::lifecycle::SIGKILL).await
            {
                tracing::debug!(%error, "the supervisor is ending already");
            }
            return Err(error);
        }
        let started = begun.elapsed();
        // It runs: that must be known even if it cannot be kept. Adoption finds out by itself.
        let noted = entry.note(&*self.store, |record| {
            record.state = State::Running;
            record.pid = Some(remote.pid());
            record.started_at = Some(SystemTime::now());
            record.finished_at = None;
            record.exit = None;
            record.start_duration = Some(started);
            record.ready_duration = None;
            record.health = Health::of_new_run(&record.config);
        });
        if let Err(error) = noted {
            tracing::error!(%error, sandbox = entry.id, "a start is not kept");
        }
        Ok(remote)
    }

    async fn start_launched(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        remote: &Arc<dyn RemoteSandbox>,
        networks: &[String],
    ) -> Result<()> {
        if entry.look(|record| !record.ports.is_empty()) {
            self.sync_ports(networks).await?;
        }
        // From here on nobody attaches early any more: whoever did is among these.
        entry.set_remote(Some(Arc::clone(remote)));
        let early = std::mem::take(&mut *lock(&entry.early_attachers));
        for (stdin, attacher) in early {
            let session = remote.attach(stdin).await?;
            if attacher.send(session).is_err() {
                tracing::debug!("a client went away before the start");
            }
        }
        remote.start().await
    }

    /// Decides everything that the configuration leaves open.
    async fn resolve(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<Resolved> {
        let record = entry.record();
        let state_dir = self.state_dir(&entry.id);
        let run_dir = self.run_dir(&entry.id);
        for directory in [&state_dir, &run_dir, &state_dir.join("root")] {
            make_private(directory)?;
        }
        let mounts = self.resolve_mounts(entry, &record).await?;
        let attachments = self.join_networks(&record).await?;
        // From here on the addresses are promised; `release` gives them back.
        entry.change(&*self.store, |record| {
            record.attachments.clone_from(&attachments)
        })?;
        let ports = self.choose_ports(&record, &attachments).await?;
        let endpoints: Vec<Endpoint> = attachments.iter().map(|a| a.endpoint.clone()).collect();
        let network = match record.config.network {
            NetworkRequest::None => NetworkMode::None,
            NetworkRequest::Host => NetworkMode::Host,
            NetworkRequest::Join(_) => NetworkMode::Bridge(endpoints),
        };
        let hostname = record
            .config
            .hostname
            .clone()
            .unwrap_or_else(|| record.short_id().to_owned());
        let config = &record.config;
        let spec = SandboxSpec {
            id: record.id.clone(),
            name: config.name.clone(),
            kind: config.kind,
            etc: etc_files(&record, &hostname, &network),
            hostname,
            process: config.process.clone(),
            root: RootFilesystem {
                layers: config.layers.clone(),
                chain_id: config.chain_id.clone(),
                writable: state_dir.join("root"),
                size: config.root_size,
                read_only: config.read_only_root,
            },
            mounts,
            network,
            resources: config.resources.clone(),
            security: config.security.clone(),
            sysctls: config.sysctls.clone(),
            shm_size: config.shm_size,
            state_dir,
            run_dir,
        };
        Ok(Resolved {
            spec,
            attachments,
            ports,
        })
    }

    /// In the record before the first is made: none is ever without an owner.
    fn name_anonymous_volumes(&self, entry: &Entry, record: &Record) -> Result<Vec<String>> {
        let mut names = record.anonymous_volumes.clone();
        let wanted = record
            .config
            .mounts
            .iter()
            .filter(|mount| mount.source == MountRequestSource::AnonymousVolume)
            .count();
        while names.len() < wanted {
            names.push(crate::engine::random_id()?);
        }
        if names != record.anonymous_volumes {
            entry.change(&*self.store, |record| {
                record.anonymous_volumes.clone_from(&names)
            })?;
        }
        Ok(names)
    }

    async fn resolve_mounts(
        self: &Arc<Self>,
        entry: &Entry,
        record: &Record,
    ) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        let mut anonymous = self.name_anonymous_volumes(entry, record)?.into_iter();
        for request in &record.config.mounts {
            let source = match &request.source {
                MountRequestSource::Volume { name, copy_up } => {
                    let image = copy_up.then_some((&record.config.layers[..], &request.target[..]));
                    MountSource::Bind(self.use_volume(name, BTreeMap::new(), image).await?)
                }
                MountRequestSource::AnonymousVolume => {
                    let name = anonymous
                        .next()
                        .ok_or_else(|| Error::host("a volume of the sandbox has no name"))?;
                    let image = Some((&record.config.layers[..], &request.target[..]));
                    let path = self.use_volume(&name, BTreeMap::new(), image).await?;
                    MountSource::Bind(path)
                }
                MountRequestSource::Bind { path, create } => {
                    bind_source(path, *create)?;
                    MountSource::Bind(path.clone())
                }
                MountRequestSource::Tmpfs { size, mode } => MountSource::Tmpfs {
                    size: *size,
                    mode: *mode,
                },
            };
            mounts.push(Mount {
                target: request.target.clone(),
                source,
                read_only: request.read_only,
            });
        }
        // A parent is mounted before what lies below it; requests of one depth keep their order.
        mounts.sort_by_key(|mount| Path::new(&mount.target).components().count());
        Ok(mounts)
    }

    /// Gives back what a run has used of the networks.
    pub(crate) async fn release(self: &Arc<Self>, entry: &Arc<Entry>) {
        entry.set_remote(None);
        let (attachments, had_ports) =
            entry.look(|record| (record.attachments.clone(), !record.ports.is_empty()));
        let released = entry.note(&*self.store, |record| {
            record.attachments.clear();
            record.ports.clear();
        });
        if let Err(error) = released {
            tracing::error!(%error, sandbox = entry.id, "the release of addresses is not kept");
        }
        if had_ports {
            let networks: Vec<_> = attachments.iter().map(|a| a.network_id.clone()).collect();
            if let Err(error) = self.sync_ports(&networks).await {
                tracing::error!(%error, "published ports are left behind");
            }
        }
        self.give_back(&attachments);
    }

    /// The ports of all running sandboxes on a network.
    pub(crate) fn ports_on(&self, network_id: &str) -> Vec<PublishedPort> {
        self.entries()
            .iter()
            .flat_map(|entry| {
                entry.look(|record| match record.attachments.first() {
                    Some(first) if first.network_id == network_id => record.ports.clone(),
                    _ => Vec::new(),
                })
            })
            .collect()
    }
}

fn make_private(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    // Others may pass through (a workload's user reaches its own root), but not list.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(directory)
        .map_err(|error| {
            Error::host(format!("make directory {}", directory.display())).with_source(error)
        })
}

fn bind_source(path: &Path, create: bool) -> Result<()> {
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) if create => std::fs::create_dir_all(path).map_err(|error| {
            Error::host(format!("make directory {}", path.display())).with_source(error)
        }),
        Ok(false) => Err(Error::invalid(format!(
            "bind source path does not exist: {}: make it first",
            path.display()
        ))),
        Err(error) => Err(Error::host(format!("look at {}", path.display())).with_source(error)),
    }
}

fn etc_files(record: &Record, hostname: &str, network: &NetworkMode) -> EtcFiles {
    let mut hosts = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let gateway = network
        .endpoints()
        .first()
        .map(|endpoint| endpoint.gateway.to_string());
    for (name, address) in &record.config.extra_hosts {
        let address = match (address.as_str(), &gateway) {
            ("host-gateway", Some(gateway)) => gateway,
            ("host-gateway", None) => "127.0.0.1",
            (address, _) => address,
        };
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    for endpoint in network.endpoints() {
        hosts.push_str(&format!("{}\t{hostname}\n", endpoint.address));
    }
    let resolv_conf = match network {
        NetworkMode::Host => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        _ if !record.config.dns.is_empty() => record
            .config
            .dns
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect(),
        NetworkMode::Bridge(endpoints) => endpoints
            .first()
            .map(|endpoint| format!("nameserver {}\noptions ndots:0\n", endpoint.gateway))
            .unwrap_or_default(),
        NetworkMode::None => String::new(),
    };
    EtcFiles {
        hosts,
        resolv_conf,
        hostname: format!("{hostname}\n"),
    }
}
