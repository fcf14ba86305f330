//! One run of the program: its settings, the daemon it talks to and the project it is in.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_api::Client;
use bulkhead_compose::Project;
use tokio::sync::{Mutex, OnceCell};

use crate::arguments::{Globals, LateGlobals};
use crate::failure::{Failure, Result};
use crate::output;
use crate::paths::Paths;

/// How long a daemon that was just started may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of the daemon's log is shown when it does not start, in bytes.
const LOG_TAIL: u64 = 2000;

pub struct Session {
    pub globals: Globals,
    pub paths: Paths,
    client: OnceCell<Client>,
    /// Held while a daemon is started, so that one is started, not many.
    starting: Mutex<()>,
}

impl Session {
    pub fn new(globals: Globals) -> Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let environment = variable("BULKHEAD_HOST").or_else(|| variable("DOCKER_HOST"));
        let mut paths = Paths::resolve(
            globals.root.clone(),
            globals.host.as_deref(),
            environment.as_deref(),
        )?;
        paths.cache = variable("BULKHEAD_CACHE").map(Into::into);
        Ok(Self {
            globals,
            paths,
            client: OnceCell::new(),
            starting: Mutex::new(()),
        })
    }

    /// Takes over what was given after the verb.
    pub fn merge(&mut self, late: &LateGlobals) {
        self.globals.files.extend_from_slice(&late.late_files);
        if let Some(name) = &late.late_project_name {
            self.globals.project_name = Some(name.clone());
        }
    }

    /// The daemon, started if it does not run and may be started.
    pub async fn client(&self) -> Result<&Client> {
        self.client
            .get_or_try_init(|| async {
                self.ensure_daemon().await?;
                Ok(Client::connect(&self.paths.socket).await?)
            })
            .await
    }

    /// The daemon, if it runs.
    pub async fn running_client(&self) -> Option<Client> {
        Client::connect(&self.paths.socket).await.ok()
    }

    /// Sees to it that a daemon answers.
    pub async fn ensure_daemon(&self) -> Result<()> {
        let _only_one = self.starting.lock().await;
        let error = match Client::connect(&self.paths.socket).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if let bulkhead_api::Error::Unreachable { source, .. } = &error
            && source.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Err(Failure::new(format!(
                "{error}; run the command as root, or as a member of the group 'bulkhead'"
            )));
        }
        if !self.paths.socket_is_ours {
            return Err(error.into());
        }
        self.start_daemon().await
    }

    async fn start_daemon(&self) -> Result<()> {
        let log_path = self.paths.daemon_log();
        let mut child = self.spawn_daemon(&log_path)?;
        let log_start = fs::metadata(&log_path).map_or(0, |metadata| metadata.len());
        let begin = Instant::now();
        let mut exited: Option<Instant> = None;
        loop {
            if let Ok(client) = Client::connect(&self.paths.socket).await
                && client.ping().await.is_ok()
            {
                return Ok(());
            }
            // It forks itself off: that it has ended well means nothing. If it failed, another
            // daemon may have been quicker, and is given a moment to answer.
            if exited.is_none()
                && let Ok(Some(status)) = child.try_wait()
                && !status.success()
            {
                exited = Some(Instant::now());
            }
            let failed = exited.is_some_and(|at| at.elapsed() > Duration::from_millis(500));
            if failed || begin.elapsed() > START_TIMEOUT {
                let what = if failed {
                    "the daemon did not start".to_owned()
                } else {
                    format!(
                        "the daemon did not answer within {} s",
                        START_TIMEOUT.as_secs()
                    )
                };
                let mut message = format!("{what}; its log is {}", log_path.display());
                for line in tail(&log_path, log_start).lines() {
                    message.push_str("\n  ");
                    message.push_str(line);
                }
                return Err(Failure::new(message));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn spawn_daemon(&self, log_path: &Path) -> Result<Child> {
        let cannot = |error: std::io::Error| {
            Failure::new(format!(
                "cannot start the daemon: {}: {error}{}",
                log_path.display(),
                match error.kind() {
                    std::io::ErrorKind::PermissionDenied => "; run the command as root",
                    _ => "",
                }
            ))
        };
        fs::create_dir_all(&self.paths.state).map_err(cannot)?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_path)
            .map_err(cannot)?;
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(format!("find this program's own file: {error}")))?;
        let mut command = Command::new(program);
        command.arg("daemon").arg("--detach");
        if let Some(root) = &self.paths.root {
            command.arg("--root").arg(root);
        }
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(cannot)?)
            .stderr(log)
            .spawn()
            .map_err(cannot)
    }

    /// The project of the Compose file here or named; `None` if there is no such file and none
    /// was named.
    pub fn project(&self) -> Result<Option<Project>> {
        crate::project::load(&self.globals)
    }

    /// As [`Session::project`], for verbs that make no sense without.
    pub fn require_project(&self) -> Result<Project> {
        self.project()?.ok_or_else(|| {
            Failure::new(
                "no Compose file here: make a compose.yaml, or name one with -f before the verb",
            )
        })
    }

    /// The name of the project, also of one whose Compose file is not here but is named by `-p`.
    pub fn project_name(&self) -> Result<Option<String>> {
        if let Some(name) = &self.globals.project_name {
            return Ok(Some(name.clone()));
        }
        Ok(self.project()?.map(|project| project.name))
    }
}

/// The last lines of the log, but not those from before `start`.
fn tail(path: &Path, start: u64) -> String {
    let read = || {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_TAIL))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            output::note(format!("bulkhead: {}: {error}", path.display()));
            String::new()
        }
    }
}
