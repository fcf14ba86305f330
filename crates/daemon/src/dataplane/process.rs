//! The process itself: `bulkhead dataplane DIRECTORY`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bulkhead_gateway::{AccessLog, AccessLogSettings, Gateway, RouteTable};
use bulkhead_model::{Error, Result};
use bulkhead_network::dns::{self, DnsConfig};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Notify, watch};

use super::snapshot::{Applied, Snapshot};

pub(super) const SNAPSHOT_FILE: &str = "snapshot.json";
pub(super) const SOCKET_FILE: &str = "control.sock";

/// Entry point of `bulkhead dataplane DIRECTORY`.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(crate::log_filter())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let Some(directory) = arguments.first().map(PathBuf::from) else {
        tracing::error!("the data plane is started by the daemon, with a directory");
        return ExitCode::from(125);
    };
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let served = runtime
        .map_err(|error| Error::host("start the data plane's threads").with_source(error))
        .and_then(|runtime| runtime.block_on(serve(&directory)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the data plane ends");
            ExitCode::from(125)
        }
    }
}

/// A proxy needs two descriptors a connection: the soft limit is often 1024.
fn raise_descriptor_limit() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(())
}

struct Plane {
    directory: PathBuf,
    routes: watch::Sender<Arc<RouteTable>>,
    zones: watch::Sender<Arc<DnsConfig>>,
    gateway: Mutex<Option<SocketAddr>>,
    stop: Arc<Notify>,
    dns: dns::Server,
}

async fn serve(directory: &Path) -> Result<()> {
    let socket = directory.join(SOCKET_FILE);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::host(format!("remove {}", socket.display())).with_source(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&socket).map_err(|error| {
        Error::host(format!("listen on {}", socket.display())).with_source(error)
    })?;
    let zones = watch::Sender::new(Arc::new(DnsConfig::default()));
    let stop = Arc::new(Notify::new());
    let plane = Arc::new(Plane {
        directory: directory.to_owned(),
        routes: watch::Sender::new(Arc::new(RouteTable::default())),
        dns: dns::Server::start(zones.subscribe()),
        zones,
        gateway: Mutex::default(),
        stop: Arc::clone(&stop),
    });
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let plane = Arc::clone(&plane);
                    tokio::spawn(async move {
                        if let Err(error) = plane.answer(stream).await {
                            tracing::warn!(%error, "a request of the daemon failed");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            () = stop.notified() => return Ok(()),
        }
    }
}

impl Plane {
    async fn answer(self: &Arc<Self>, stream: UnixStream) -> Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        let failed = |error: std::io::Error| Error::channel("answer the daemon").with_source(error);
        BufReader::new(reader)
            .read_line(&mut line)
            .await
            .map_err(failed)?;
        let applied = match line.trim() {
            "reload" => self.reload().await?,
            "stop" => {
                self.stop.notify_waiters();
                self.stop.notify_one();
                Applied {
                    pid: std::process::id(),
                    ..Applied::default()
                }
            }
            // The daemon holds a connection to notice our end.
            "" => return Ok(()),
            other => return Err(Error::channel(format!("unknown request '{other}'"))),
        };
        let mut text = serde_json::to_vec(&applied)
            .map_err(|error| Error::channel("answer the daemon").with_source(error))?;
        text.push(b'\n');
        writer.write_all(&text).await.map_err(failed)
    }

    async fn reload(self: &Arc<Self>) -> Result<Applied> {
        let path = self.directory.join(SNAPSHOT_FILE);
        let text = tokio::fs::read(&path)
            .await
            .map_err(|error| Error::host(format!("read {}", path.display())).with_source(error))?;
        let snapshot: Snapshot = serde_json::from_slice(&text)
            .map_err(|error| Error::host(format!("read {}", path.display())).with_source(error))?;
        self.routes.send_replace(Arc::new(snapshot.routes));
        self.zones.send_replace(Arc::new(snapshot.dns));
        self.dns.wait_for(snapshot.revision).await;
        let (gateway, gateway_error) = match snapshot.gateway {
            None => (None, None),
            Some(address) => match self.listen(address).await {
                Ok(address) => (Some(address), None),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        Ok(Applied {
            revision: snapshot.revision,
            pid: std::process::id(),
            gateway,
            gateway_error,
        })
    }

    /// Starts the gateway, unless it runs. Each reload tries again what failed before.
    async fn listen(self: &Arc<Self>, address: SocketAddr) -> Result<SocketAddr> {
        let mut running = self.gateway.lock().await;
        if let Some(address) = *running {
            return Ok(address);
        }
        let log = AccessLog::open(AccessLogSettings::new(self.directory.join("access.log")))?;
        let gateway = Gateway::bind(address, self.routes.subscribe(), log)
            .map_err(|error| name_owner(error, address))?;
        let bound = gateway.local_address();
        *running = Some(bound);
        let stop = Arc::clone(&self.stop);
        tokio::spawn(async move {
            gateway.run(async move { stop.notified().await }).await;
        });
        Ok(bound)
    }
}

/// Says who has the gateway's address, if it is taken.
fn name_owner(error: Error, address: SocketAddr) -> Error {
    let SocketAddr::V4(v4) = address else {
        return error;
    };
    let owner = bulkhead_network::port_owner(*v4.ip(), v4.port(), bulkhead_network::Protocol::Tcp);
    match owner {
        Some((pid, name)) => Error::conflict(format!(
            "port {address} of the gateway is in use by {name} (process {pid}): end it, or start the daemon with --gateway ADDRESS"
        )),
        None => error,
    }
}
