use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bulkhead_model::{Error, ExitStatus, Result};
use serde::{Deserialize, Serialize};

/// What is known of a sandbox without asking its supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Status {
    /// The workload was started.
    Running { started_at: SystemTime, pid: u32 },
    /// The workload has ended and the sandbox is deleted.
    Exited {
        started_at: SystemTime,
        finished_at: SystemTime,
        exit: ExitStatus,
        /// Why the sandbox died under its workload. An earlier version's file has none.
        #[serde(default)]
        error: Option<String>,
    },
}

/// The file that outlives the supervisor; written whole and renamed. It is not synced: a power
/// failure ends every sandbox, which the next daemon finds out without it.
pub(crate) struct StatusFile {
    path: PathBuf,
}

impl StatusFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn write(&self, status: &Option<Status>) -> Result<()> {
        let Some(status) = status else { return Ok(()) };
        let failed = |error: std::io::Error| {
            Error::host(format!("write {}", self.path.display())).with_source(error)
        };
        let text = serde_json::to_vec(status)
            .map_err(|error| Error::host("encode the status").with_source(error))?;
        let temporary = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        fs::rename(&temporary, &self.path).map_err(failed)
    }
}

/// Reads a status file; `None` if there is none, that is, the workload never started.
///
/// # Errors
/// `Host` if the file cannot be read or is no status.
pub fn read_status(path: &Path) -> Result<Option<Status>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::host(format!("read {}", path.display())).with_source(error));
        }
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| Error::host(format!("read {}", path.display())).with_source(error))
}
