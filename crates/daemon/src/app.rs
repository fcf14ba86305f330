//! What all handlers share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bulkhead_engine::Engine;
use bulkhead_model::ProcessSpec;
use tokio::sync::Notify;

use crate::dataplane::DataPlane;
use crate::launcher::SupervisorLauncher;
use crate::paths::Paths;

pub(crate) type App = Arc<AppState>;

pub(crate) struct AppState {
    pub engine: Engine,
    pub launcher: Arc<SupervisorLauncher>,
    pub data_plane: DataPlane,
    pub paths: Paths,
    pub root: String,
    pub execs: Mutex<BTreeMap<String, ExecRecord>>,
    /// One build at a time per daemon would be too few, and without limit too many.
    pub builds: tokio::sync::Semaphore,
    pub shutdown: Notify,
}

/// A process run in a sandbox, kept until its sandbox is gone.
#[derive(Debug, Clone)]
pub(crate) struct ExecRecord {
    pub sandbox: String,
    pub process: ProcessSpec,
    pub state: ExecState,
    pub pid: u32,
    pub input: Option<tokio::sync::mpsc::Sender<bulkhead_engine::Input>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecState {
    Created,
    Running,
    Exited(i32),
}

impl AppState {
    /// Changes an exec's record, if it is still there.
    pub(crate) fn with_exec<T>(
        &self,
        id: &str,
        change: impl FnOnce(&mut ExecRecord) -> T,
    ) -> Option<T> {
        let mut execs = self
            .execs
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        execs.get_mut(id).map(change)
    }
}
