//! What the engine needs of the outside; the daemon fills it in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_model::{
    Ending, ExitStatus, ProcessSpec, Resources, Result, SandboxSpec, Stats, TerminalSize,
};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::project::ProjectRecord;
use crate::record::{NetworkRecord, Record, VolumeRecord};

/// Keeps records. A call that has returned survives the end of this process.
pub trait Store: Send + Sync {
    fn sandboxes(&self) -> Result<Vec<Record>>;
    fn save_sandbox(&self, record: &Record) -> Result<()>;
    fn delete_sandbox(&self, id: &str) -> Result<()>;
    fn networks(&self) -> Result<Vec<NetworkRecord>>;
    fn save_network(&self, record: &NetworkRecord) -> Result<()>;
    fn delete_network(&self, id: &str) -> Result<()>;
    fn volumes(&self) -> Result<Vec<VolumeRecord>>;
    fn save_volume(&self, record: &VolumeRecord) -> Result<()>;
    fn delete_volume(&self, name: &str) -> Result<()>;
    fn projects(&self) -> Result<Vec<ProjectRecord>>;
    fn save_project(&self, record: &ProjectRecord) -> Result<()>;
    fn delete_project(&self, name: &str) -> Result<()>;
}

/// What is started.
#[derive(Debug)]
pub struct StartRequest {
    pub spec: SandboxSpec,
    /// The sandbox's, among which are the wishes that only the launcher understands.
    pub labels: BTreeMap<String, String>,
    pub log_file: PathBuf,
    pub status_file: PathBuf,
}

/// Makes sandboxes that outlive this process, and finds them again.
#[async_trait]
pub trait Launcher: Send + Sync {
    /// Makes the sandbox; its workload does not run yet. Nothing is left of it on failure.
    async fn launch(&self, request: StartRequest) -> Result<Arc<dyn RemoteSandbox>>;

    /// Finds a sandbox that an earlier process launched; `None` if it is gone.
    async fn adopt(&self, id: &str) -> Result<Option<Arc<dyn RemoteSandbox>>>;

    /// How the last run ended, if nobody was there to hear of it; `None` if it never ran.
    fn last_exit(&self, id: &str) -> Result<Option<(std::time::SystemTime, Ending)>>;

    /// When the workload of a sandbox was started; `None` if it was not.
    fn started_at(&self, id: &str) -> Result<Option<std::time::SystemTime>>;

    /// Removes whatever is left of a sandbox that does not run. One that is ending is given the
    /// time to do so by itself.
    async fn clean(&self, id: &str) -> Result<()>;

    /// Ends a sandbox that nobody knows, whatever it does, and removes what is left of it. The id
    /// may be its beginning.
    async fn destroy(&self, id: &str) -> Result<()>;
}

/// A sandbox in another process.
#[async_trait]
pub trait RemoteSandbox: Send + Sync {
    fn pid(&self) -> u32;
    async fn start(&self) -> Result<()>;
    /// Ends a sandbox that was not started.
    async fn discard(&self) -> Result<()>;
    async fn signal(&self, signal: i32) -> Result<()>;
    async fn resize(&self, size: TerminalSize) -> Result<()>;
    /// Answers when the workload has ended and the sandbox is gone.
    async fn wait(&self) -> Result<Ending>;
    async fn attach(&self, stdin: bool) -> Result<Session>;
    async fn exec(&self, process: ProcessSpec) -> Result<(u32, Session)>;
    async fn stats(&self) -> Result<Stats>;
    async fn pause(&self) -> Result<()>;
    async fn resume(&self) -> Result<()>;
    async fn update(&self, resources: Resources) -> Result<()>;
}

/// The streams of a process.
#[derive(Debug)]
pub struct Session {
    pub input: mpsc::Sender<Input>,
    /// Ends after [`Output::Exited`], or without it if the process was lost.
    pub output: mpsc::Receiver<Output>,
}

#[derive(Debug)]
pub enum Input {
    Data(Bytes),
    /// End of file.
    Close,
    Resize(TerminalSize),
    Signal(i32),
}

#[derive(Debug)]
pub enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    Exited(ExitStatus),
}
