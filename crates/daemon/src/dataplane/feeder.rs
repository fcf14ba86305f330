//! The daemon's side: starts the data plane if it is not there and keeps it told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_engine::Engine;
use bulkhead_model::{Error, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::process::{SNAPSHOT_FILE, SOCKET_FILE};
use super::snapshot::{Applied, snapshot};
use crate::paths::Paths;

/// How long a new data plane may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A handle on the data plane; clones are one.
#[derive(Clone)]
pub(crate) struct DataPlane {
    inner: Arc<Inner>,
}

struct Inner {
    /// Held while the process is told something; true once it was told to end.
    ended: tokio::sync::Mutex<bool>,
    directory: PathBuf,
    gateway: Option<SocketAddr>,
    applied: watch::Sender<Applied>,
}

impl DataPlane {
    pub(crate) fn new(paths: &Paths, gateway: Option<SocketAddr>) -> Self {
        Self {
            inner: Arc::new(Inner {
                ended: tokio::sync::Mutex::default(),
                directory: paths.data_plane(),
                gateway,
                applied: watch::Sender::new(Applied::default()),
            }),
        }
    }

    /// Feeds the data plane for as long as the daemon lives.
    pub(crate) async fn feed(self, engine: Engine) {
        let mut changes = engine.topology_changes();
        loop {
            let revision = *changes.borrow_and_update();
            match self.push(&engine, revision).await {
                Ok(None) => return,
                Ok(Some(applied)) => {
                    self.inner.applied.send_replace(applied);
                    tokio::select! {
                        changed = changes.changed() => if changed.is_err() { return },
                        // It was killed: the next push starts it again.
                        () = self.gone() => tracing::warn!("the data plane is gone"),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the data plane is not up to date");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Waits until everything that the engine knows now is in force.
    pub(crate) async fn settle(&self, engine: &Engine) -> Applied {
        let wanted = *engine.topology_changes().borrow();
        let mut applied = self.inner.applied.subscribe();
        let waited = applied.wait_for(|applied| applied.pid != 0 && applied.revision >= wanted);
        match tokio::time::timeout(START_PATIENCE, waited).await {
            Ok(Ok(applied)) => applied.clone(),
            _ => self.now(),
        }
    }

    pub(crate) fn now(&self) -> Applied {
        self.inner.applied.borrow().clone()
    }

    /// Where the gateway listens, or should.
    pub(crate) fn gateway(&self) -> Option<SocketAddr> {
        self.now().gateway.or(self.inner.gateway)
    }

    /// Waits until the process is gone: it never answers a connection without a request.
    async fn gone(&self) {
        let socket = self.inner.directory.join(SOCKET_FILE);
        if let Ok(stream) = UnixStream::connect(&socket).await {
            let mut line = String::new();
            if let Err(error) = BufReader::new(stream).read_line(&mut line).await {
                tracing::debug!(%error, "connection to the data plane");
            }
        }
    }

    /// Ends the data plane.
    pub(crate) async fn stop(&self) -> Result<()> {
        let mut ended = self.inner.ended.lock().await;
        *ended = true;
        if let Ok(applied) = self.ask("stop").await {
            let process = format!("/proc/{}", applied.pid);
            let gone = async {
                while std::path::Path::new(&process).exists() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(START_PATIENCE, gone)
                .await
                .map_err(|_| {
                    Error::host(format!(
                        "the data plane (process {}) does not end",
                        applied.pid
                    ))
                })?;
        }
        Ok(())
    }

    /// `None` once the data plane was told to end.
    async fn push(&self, engine: &Engine, revision: u64) -> Result<Option<Applied>> {
        let ended = self.inner.ended.lock().await;
        if *ended {
            return Ok(None);
        }
        let topology = engine.topology();
        let snapshot = snapshot(revision, self.inner.gateway, &topology);
        let path = self.inner.directory.join(SNAPSHOT_FILE);
        let text = serde_json::to_vec(&snapshot)
            .map_err(|error| Error::host("encode the snapshot").with_source(error))?;
        let temporary = path.with_extension("new");
        let written =
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path));
        written
            .map_err(|error| Error::host(format!("write {}", path.display())).with_source(error))?;
        match self.ask("reload").await {
            Ok(applied) => Ok(Some(applied)),
            Err(_) => {
                self.spawn().await?;
                self.ask("reload").await.map(Some)
            }
        }
    }

    async fn ask(&self, request: &str) -> Result<Applied> {
        let socket = self.inner.directory.join(SOCKET_FILE);
        let failed =
            |error: std::io::Error| Error::channel("talk to the data plane").with_source(error);
        let stream = UnixStream::connect(&socket).await.map_err(failed)?;
        let (reader, mut writer) = stream.into_split();
        writer
            .write_all(format!("{request}\n").as_bytes())
            .await
            .map_err(failed)?;
        let mut line = String::new();
        BufReader::new(reader)
            .read_line(&mut line)
            .await
            .map_err(failed)?;
        serde_json::from_str(&line)
            .map_err(|error| Error::channel("answer of the data plane").with_source(error))
    }

    async fn spawn(&self) -> Result<()> {
        let directory = &self.inner.directory;
        let failed = |error: std::io::Error| Error::host("start the data plane").with_source(error);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("dataplane.log"))
            .map_err(failed)?;
        let mut child = tokio::process::Command::new("/proc/self/exe")
            .arg("dataplane")
            .arg(directory)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) => tracing::info!(%status, "the data plane has ended"),
                Err(error) => tracing::warn!(%error, "the data plane was not reaped"),
            }
        });
        let socket = directory.join(SOCKET_FILE);
        let answers = async {
            while UnixStream::connect(&socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(START_PATIENCE, answers)
            .await
            .map_err(|_| {
                Error::host(format!(
                    "the data plane does not answer: see {}",
                    directory.join("dataplane.log").display()
                ))
            })
    }
}
