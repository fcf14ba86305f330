use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::SystemTime;

use bulkhead_image::ImageStore;
use bulkhead_model::{Error, Result};
use tokio::sync::{broadcast, watch};

use crate::config::SandboxConfig;
use crate::entry::{Entry, lock};
use crate::events::{Action, Event, Subject};
use crate::ports::{Launcher, Store};
use crate::project::ProjectRecord;
use crate::record::{NetworkRecord, Record, VolumeRecord};

/// How many events a slow listener may be behind before it misses some.
const EVENT_QUEUE: usize = 1024;

/// Where an engine keeps things.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For what must survive a reboot.
    pub state_dir: PathBuf,
    /// For what must not.
    pub run_dir: PathBuf,
    /// Tells the bridges of this instance from another's.
    pub root: PathBuf,
}

/// Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub settings: Settings,
    pub store: Arc<dyn Store>,
    pub launcher: Arc<dyn Launcher>,
    pub images: Arc<ImageStore>,
    pub sandboxes: RwLock<BTreeMap<String, Arc<Entry>>>,
    pub networks: Mutex<BTreeMap<String, NetworkRecord>>,
    /// Networks that this process has seen to be in the kernel.
    pub ensured: tokio::sync::Mutex<std::collections::BTreeSet<String>>,
    /// Addresses in use or promised, by network id.
    pub addresses: Mutex<BTreeMap<String, std::collections::BTreeSet<Ipv4Addr>>>,
    pub ports_guard: tokio::sync::Mutex<()>,
    pub volumes: Mutex<BTreeMap<String, VolumeRecord>>,
    pub volume_guard: tokio::sync::Mutex<()>,
    pub projects: Mutex<BTreeMap<String, ProjectRecord>>,
    pub project_guards: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    pub events: broadcast::Sender<Event>,
    /// Counts the changes of who can be reached where.
    pub topology: watch::Sender<u64>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads the records. Call [`Engine::adopt_all`] next.
    ///
    /// # Errors
    /// `Host` if the store cannot be read.
    pub fn new(
        settings: Settings,
        store: Arc<dyn Store>,
        launcher: Arc<dyn Launcher>,
        images: Arc<ImageStore>,
    ) -> Result<Self> {
        let sandboxes = store.sandboxes()?.into_iter();
        let sandboxes = sandboxes.map(|record| (record.id.clone(), Arc::new(Entry::new(record))));
        let networks = store.networks()?.into_iter();
        let networks = networks
            .map(|record| (record.id().to_owned(), record))
            .collect();
        let volumes = store.volumes()?.into_iter();
        let volumes = volumes
            .map(|record| (record.name.clone(), record))
            .collect();
        let projects = store.projects()?.into_iter();
        let projects = projects
            .map(|record| (record.name.clone(), record))
            .collect();
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                sandboxes: RwLock::new(sandboxes.collect()),
                networks: Mutex::new(networks),
                ensured: tokio::sync::Mutex::default(),
                addresses: Mutex::default(),
                ports_guard: tokio::sync::Mutex::default(),
                volumes: Mutex::new(volumes),
                volume_guard: tokio::sync::Mutex::default(),
                projects: Mutex::new(projects),
                project_guards: Mutex::default(),
                events: broadcast::Sender::new(EVENT_QUEUE),
                topology: watch::Sender::new(0),
                store,
                launcher,
                images,
            }),
        })
    }

    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Wakes whenever [`Engine::topology`] may have changed.
    pub fn topology_changes(&self) -> watch::Receiver<u64> {
        self.inner.topology.subscribe()
    }

    pub fn images(&self) -> &Arc<ImageStore> {
        &self.inner.images
    }

    /// All sandboxes, the newest first.
    pub fn list(&self) -> Vec<Record> {
        let mut records: Vec<_> = self
            .inner
            .entries()
            .iter()
            .map(|entry| entry.record())
            .collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.created_at));
        records
    }

    /// The record of a sandbox, by id, by name or by the beginning of an id.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` if the beginning fits several.
    pub fn get(&self, reference: &str) -> Result<Record> {
        self.inner.find(reference).map(|entry| entry.record())
    }

    /// Makes the record of a sandbox; nothing runs yet.
    ///
    /// # Errors
    /// `Conflict` if the name is taken.
    pub fn create(&self, config: SandboxConfig) -> Result<String> {
        let id = random_id()?;
        let record = Record::new(id.clone(), config);
        {
            let mut sandboxes = self
                .inner
                .sandboxes
                .write()
                .unwrap_or_else(|p| p.into_inner());
            let name = &record.config.name;
            let taken = sandboxes
                .values()
                .find(|entry| entry.look(|other| other.config.name == *name));
            if let Some(other) = taken {
                return Err(Error::conflict(format!(
                    "the name \"{name}\" is taken by sandbox {}: remove or rename it, or choose another name",
                    &other.id[..12],
                )));
            }
            self.inner.store.save_sandbox(&record)?;
            sandboxes.insert(id.clone(), Arc::new(Entry::new(record.clone())));
        }
        self.inner.emit_sandbox(&record, Action::Create, []);
        Ok(id)
    }

    /// Gives a sandbox another name.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if the name is taken.
    pub fn rename(&self, reference: &str, name: &str) -> Result<()> {
        let entry = self.inner.find(reference)?;
        {
            // Held until the new name is in the record: no other takes it meanwhile.
            let sandboxes = self
                .inner
                .sandboxes
                .write()
                .unwrap_or_else(|p| p.into_inner());
            let taken = sandboxes.values().find(|other| {
                other.id != entry.id && other.look(|record| record.config.name == name)
            });
            if let Some(other) = taken {
                return Err(Error::conflict(format!(
                    "the name \"{name}\" is taken by sandbox {}: choose another name",
                    &other.id[..12]
                )));
            }
            entry.change(&*self.inner.store, |record| {
                name.clone_into(&mut record.config.name)
            })?;
        }
        self.inner.emit_sandbox(&entry.record(), Action::Rename, []);
        self.inner.topology_changed();
        Ok(())
    }

    pub fn log_file(&self, id: &str) -> PathBuf {
        self.inner.state_dir(id).join("log.jsonl")
    }

    /// The directories that hold what a sandbox has written to its root.
    pub fn writable_dir(&self, id: &str) -> PathBuf {
        self.inner.state_dir(id).join("root")
    }
}

impl Inner {
    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        self.sandboxes
            .read()
            .unwrap_or_else(|p| p.into_inner())
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Entry>> {
        let reference = reference.strip_prefix('/').unwrap_or(reference);
        let sandboxes = self.sandboxes.read().unwrap_or_else(|p| p.into_inner());
        if let Some(entry) = sandboxes.get(reference) {
            return Ok(Arc::clone(entry));
        }
        if let Some(entry) = sandboxes
            .values()
            .find(|entry| entry.look(|r| r.config.name == reference))
        {
            return Ok(Arc::clone(entry));
        }
        let hexadecimal = !reference.is_empty() && reference.bytes().all(|b| b.is_ascii_hexdigit());
        let mut fitting = sandboxes
            .values()
            .filter(|entry| hexadecimal && entry.id.starts_with(reference));
        match (fitting.next(), fitting.next()) {
            (Some(entry), None) => Ok(Arc::clone(entry)),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "several sandboxes have an id that begins with {reference}: give more digits"
            ))),
            (None, _) => Err(Error::not_found(format!("No such container: {reference}"))),
        }
    }

    pub(crate) fn state_dir(&self, id: &str) -> PathBuf {
        self.settings.state_dir.join("sandboxes").join(id)
    }

    pub(crate) fn run_dir(&self, id: &str) -> PathBuf {
        run_dir(&self.settings.run_dir, id)
    }

    pub(crate) fn topology_changed(&self) {
        self.topology.send_modify(|count| *count += 1);
    }

    pub(crate) fn emit_sandbox<const N: usize>(
        &self,
        record: &Record,
        action: Action,
        more: [(&str, String); N],
    ) {
        let mut attributes = record.config.labels.clone();
        attributes.insert("name".to_owned(), record.config.name.clone());
        attributes.insert("image".to_owned(), record.config.image.clone());
        attributes.insert("kind".to_owned(), record.config.kind.to_string());
        for (key, value) in more {
            attributes.insert(key.to_owned(), value);
        }
        self.emit(Subject::Sandbox, action, &record.id, attributes);
    }

    pub(crate) fn emit(
        &self,
        subject: Subject,
        action: Action,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let event = Event {
            time: SystemTime::now(),
            subject,
            action,
            id: id.to_owned(),
            attributes,
        };
        // Without a listener an event is nobody's loss.
        let _listeners = self.events.send(event);
    }

    pub(crate) fn project_guard(&self, project: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(
            lock(&self.project_guards)
                .entry(project.to_owned())
                .or_default(),
        )
    }

    pub(crate) fn forget(&self, entry: &Entry) -> Result<()> {
        entry.forget(&*self.store)?;
        self.sandboxes
            .write()
            .unwrap_or_else(|p| p.into_inner())
            .remove(&entry.id);
        Ok(())
    }

    /// Whether a sandbox is not removed yet; one whose removal failed half-way still is there.
    pub(crate) fn is_known(&self, id: &str) -> bool {
        let sandboxes = self.sandboxes.read().unwrap_or_else(|p| p.into_inner());
        sandboxes.contains_key(id)
    }
}

/// The run directory of a sandbox: short, because sockets are in it.
pub(crate) fn run_dir(run_dir: &Path, id: &str) -> PathBuf {
    run_dir.join("sandboxes").join(id.get(..12).unwrap_or(id))
}

/// 64 random hexadecimal digits.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::host(format!("draw a random id: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
