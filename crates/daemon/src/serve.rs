use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_engine::{Engine, Settings};
use bulkhead_image::ImageStore;
use bulkhead_model::{Error, Result};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore};
use tower_service::Service;

use crate::app::{App, AppState};
use crate::dataplane::DataPlane;
use crate::launcher::SupervisorLauncher;
use crate::paths::Paths;
use crate::router::{router, strip_version};
use crate::store::SqliteStore;

/// Builds at one time.
const CONCURRENT_BUILDS: usize = 4;
/// How long another daemon may take to let go of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// The group whose members may use the socket, if the host has it.
const SOCKET_GROUP: &str = "bulkhead";

/// How a daemon is to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub paths: Paths,
    /// What was given with `--root`; empty for the system's own places.
    pub root: String,
    /// Where the gateway listens; `None` for no gateway.
    pub gateway: Option<SocketAddr>,
    /// Leave the caller's session, as a daemon that a command has started does.
    pub detach: bool,
}

/// Entry point of `bulkhead daemon`. Logs go to stderr.
pub fn main(options: Options) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(crate::log_filter())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    if options.detach
        && let Err(error) = rustix::process::setsid()
    {
        tracing::warn!(%error, "the daemon stays in its caller's session");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let served = runtime
        .map_err(|error| Error::host("start the daemon's threads").with_source(error))
        .and_then(|runtime| runtime.block_on(serve(options)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the daemon ends");
            ExitCode::from(1)
        }
    }
}

async fn serve(options: Options) -> Result<()> {
    let paths = options.paths;
    let lock = lock(&paths)?;
    let store = Arc::new(SqliteStore::open(&paths.database())?);
    let images = Arc::new(ImageStore::open(paths.images())?);
    let launcher = Arc::new(SupervisorLauncher::new(paths.clone()));
    let settings = Settings {
        state_dir: paths.state.clone(),
        run_dir: paths.run.clone(),
        root: paths.state.clone(),
    };
    let engine = Engine::new(settings, store, Arc::clone(&launcher) as _, images)?;
    let data_plane = DataPlane::new(&paths, options.gateway);
    engine.adopt_all().await?;
    // After the adoption, which ends the steps of builds that an earlier daemon ran.
    match std::fs::remove_dir_all(paths.builds()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::error!(%error, "something is left of an interrupted build");
        }
        _ => {}
    }
    tokio::spawn(data_plane.clone().feed(engine.clone()));
    let app: App = Arc::new(AppState {
        engine,
        launcher,
        data_plane,
        paths,
        root: options.root,
        execs: Mutex::default(),
        builds: Semaphore::new(CONCURRENT_BUILDS),
        shutdown: Notify::new(),
    });
    let listener = listen(&app.paths.socket())?;
    tracing::info!(socket = %app.paths.socket().display(), "the daemon serves");
    let asked = accept(&listener, &app).await?;
    if asked {
        crate::shutdown::remove_if_empty(&app)?;
    }
    // Whoever connects meanwhile waits and hears of the end, when nothing is left any more.
    drop(listener);
    drop(lock);
    Ok(())
}

/// One daemon a root: the second is refused.
fn lock(paths: &Paths) -> Result<File> {
    use std::os::unix::fs::MetadataExt;
    let path = paths.lock();
    let failed =
        |error: std::io::Error| Error::host(format!("open {}", path.display())).with_source(error);
    let deadline = std::time::Instant::now() + LOCK_PATIENCE;
    loop {
        paths.make()?;
        let file = match File::create(&path) {
            // A daemon at its end has just removed the directory.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed)?,
        };
        let taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        if taken.is_err() && std::time::Instant::now() < deadline {
            // The one that has it may be at its end.
            std::thread::sleep(LOCK_PAUSE);
            continue;
        }
        taken.map_err(|error| {
            Error::conflict(format!(
                "another daemon runs for {}: use it, stop it, or give another --root",
                paths.run.display()
            ))
            .with_source(std::io::Error::from(error))
        })?;
        // The file may have been removed between the two: then it locks nothing any more.
        let held = file.metadata().map_err(failed)?.ino();
        if std::fs::metadata(&path).is_ok_and(|found| found.ino() == held) {
            paths.make()?;
            return Ok(file);
        }
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    let failed = |error: std::io::Error| {
        Error::host(format!("listen on {}", path.display())).with_source(error)
    };
    // Bound under another name, so that nobody connects before its mode is right.
    let temporary = path.with_extension("new");
    for old in [path, &temporary] {
        match std::fs::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
    }
    let listener = UnixListener::bind(&temporary).map_err(failed)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    if let Some(group) = group_id(SOCKET_GROUP) {
        std::os::unix::fs::chown(&temporary, None, Some(group)).map_err(failed)?;
    }
    std::fs::rename(&temporary, path).map_err(failed)?;
    Ok(listener)
}

fn group_id(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Serves until a signal or a request ends it; true for a request.
async fn accept(listener: &UnixListener, app: &App) -> Result<bool> {
    let failed = |error: std::io::Error| Error::host("listen to signals").with_source(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let router = router(Arc::clone(app));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // EMFILE and friends pass; a busy loop would not help.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = terminate.recv() => return Ok(false),
            _ = interrupt.recv() => return Ok(false),
            () = app.shutdown.notified() => {
                // The answer to the request that asked for it is still on its way.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Ok(true);
            }
        };
        let router = router.clone();
        let service = service_fn(move |request| {
            let answer = router.clone().call(strip_version(request));
            // In a task of its own: a client that goes away must not break off a start or a
            // removal in the middle, and a panic becomes an answer.
            let answer = tokio::spawn(answer);
            async move {
                Ok::<_, std::convert::Infallible>(match answer.await {
                    Ok(Ok(response)) => response,
                    Err(error) => crate::error::died(&error),
                })
            }
        });
        tokio::spawn(async move {
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
}
