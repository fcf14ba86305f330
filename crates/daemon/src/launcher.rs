//! Starts supervisors and finds them again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bulkhead_container::cgroup::Cgroup;
use bulkhead_engine::{Launcher, RemoteSandbox, StartRequest};
use bulkhead_microvm::accelerator::AcceleratorChoice;
use bulkhead_microvm::monitor::find_program;
use bulkhead_microvm::template;
use bulkhead_model::{ByteSize, Ending, Error, Kind, Resources, Result};
use bulkhead_supervisor::protocol::CreateReport;
use bulkhead_supervisor::{LAUNCH_FILE, Launch, MicrovmSettings, SOCKET_FILE, Status, read_status};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::OnceCell;

use crate::accelerator;
use crate::paths::Paths;
use crate::remote::SupervisedSandbox;

/// How long a supervisor whose workload is gone may take to clean up.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// How long one that an earlier daemon has started may take until it listens.
const LISTEN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a killed process may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Enough to come after everything that is asked for, and to end on a busy host all the same.
const TEMPLATE_NICENESS: i32 = 10;

pub(crate) struct SupervisorLauncher {
    paths: Paths,
    microvm: OnceCell<MicrovmSettings>,
    /// What this daemon has seen to a template for.
    templates: Mutex<BTreeSet<TemplateKey>>,
}

/// The accelerator, the memory in bytes, and thousandths of a processor.
type TemplateKey = (String, Option<u64>, Option<u64>);

impl SupervisorLauncher {
    pub(crate) fn new(paths: Paths) -> Self {
        Self {
            paths,
            microvm: OnceCell::new(),
            templates: Mutex::default(),
        }
    }

    /// What micro VMs need on this host.
    ///
    /// # Errors
    /// `Unsupported` naming what is missing and how to get it.
    pub(crate) async fn microvm_settings(&self) -> Result<&MicrovmSettings> {
        let paths = self.paths.clone();
        self.microvm
            .get_or_try_init(|| async {
                tokio::task::spawn_blocking(move || microvm_settings(&paths))
                    .await
                    .map_err(|error| Error::host("look for QEMU").with_source(error))?
            })
            .await
    }

    /// What a micro VM of these labels needs on this host.
    ///
    /// # Errors
    /// As [`Self::microvm_settings`]; `InvalidInput` for a label that means nothing.
    pub(crate) async fn microvm_settings_for(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<MicrovmSettings> {
        let settings = self.microvm_settings().await?.clone();
        let proven = AcceleratorChoice {
            accelerator: settings.accelerator.parse()?,
            reason: settings.accelerator_reason,
        };
        let choice = accelerator::choose(labels, proven)?;
        Ok(MicrovmSettings {
            accelerator: choice.accelerator.to_string(),
            accelerator_reason: choice.reason,
            ..settings
        })
    }

    /// What a micro VM runs with; `None` if it does not run.
    pub(crate) fn settings_of_running(&self, id: &str) -> Option<MicrovmSettings> {
        read_launch(&self.paths.sandbox_run(id))?.microvm
    }

    /// Lets a thread make the template from which the next micro VM of this size starts. It has a
    /// low priority, and the daemon does not wait for it: without a template a guest boots.
    fn make_template(&self, settings: &MicrovmSettings, resources: &Resources) {
        let key = (
            settings.accelerator.clone(),
            resources.memory.map(ByteSize::bytes),
            resources.cpu_millis,
        );
        let mut templates = self
            .templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !templates.insert(key) {
            return;
        }
        let (settings, resources) = (settings.clone(), resources.clone());
        let make = move || {
            rustix::process::setpriority_process(None, TEMPLATE_NICENESS)
                .map_err(|errno| Error::host("lower a thread's priority").with_source(errno))?;
            template::prepare(&settings.config(Vec::new())?, &resources)
        };
        let thread = std::thread::Builder::new()
            .name("template".to_owned())
            .spawn(move || {
                if let Err(error) = make() {
                    tracing::warn!(%error, "micro VMs boot, as they have no template");
                }
            });
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread makes a template");
        }
    }

    async fn spawn(&self, launch: &Launch) -> Result<CreateReport> {
        let run_dir = &launch.spec.run_dir;
        write_launch(&run_dir.join(LAUNCH_FILE), launch)?;
        let log = launch.status_file.with_file_name("supervisor.log");
        use std::os::unix::fs::OpenOptionsExt;
        let stderr = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log)
            .map_err(|error| Error::host(format!("open {}", log.display())).with_source(error))?;
        // The session of its own comes from `setsid(1)`-like behaviour of the supervisor's own
        // process group: a terminal's Ctrl-C goes to the daemon's group only.
        let mut child = tokio::process::Command::new("/proc/self/exe")
            .arg("supervisor")
            .arg(run_dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .map_err(|error| Error::host("start a supervisor").with_source(error))?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| Error::host("no pipe to the supervisor"))?;
        // Whoever started it reaps it; its end is heard of through its socket.
        tokio::spawn(async move {
            if let Err(error) = child.wait().await {
                tracing::warn!(%error, "a supervisor was not reaped");
            }
        });
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .await
            .map_err(|error| Error::channel("hear of the supervisor").with_source(error))?;
        if line.is_empty() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let last = said.lines().last().unwrap_or("it said nothing").to_owned();
            return Err(Error::host(format!(
                "the supervisor died while it made the sandbox: {last}"
            )));
        }
        serde_json::from_str(&line)
            .map_err(|error| Error::channel("report of the supervisor").with_source(error))
    }

    /// Kills a supervisor by the process id it has left, unless that is another process by now.
    fn kill_supervisor(&self, run_dir: &Path) {
        for pid in supervisors_of(run_dir) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid)
                && let Err(error) =
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL)
            {
                tracing::debug!(%error, "a supervisor was gone already");
            }
        }
    }
}

/// The supervisors that run for a run directory, as their command lines say.
fn supervisors_of(run_dir: &Path) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
                return false;
            };
            let mut words = line.split(|byte| *byte == 0).skip(1);
            words.next() == Some(b"supervisor")
                && words.next() == Some(run_dir.as_os_str().as_encoded_bytes())
        })
        .collect()
}

/// The id in the launch file: the run directory's own name is only its beginning.
fn full_id(run_dir: &Path) -> Option<String> {
    read_launch(run_dir).map(|launch| launch.spec.id)
}

fn read_launch(run_dir: &Path) -> Option<Launch> {
    let text = std::fs::read(run_dir.join(LAUNCH_FILE)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn write_launch(path: &Path, launch: &Launch) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed =
        |error: std::io::Error| Error::host(format!("write {}", path.display())).with_source(error);
    let text = serde_json::to_vec(launch)
        .map_err(|error| Error::host("encode the launch file").with_source(error))?;
    // It holds the workload's environment, where people keep passwords.
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(&text).map_err(failed)
}

fn microvm_settings(paths: &Paths) -> Result<MicrovmSettings> {
    let qemu = find_qemu().ok_or_else(|| {
        Error::unsupported(
            "micro VMs need QEMU, which is not installed: run 'apt-get install qemu-system-x86'",
        )
    })?;
    let kernel = paths.guest_kernel().ok_or_else(|| {
        Error::unsupported(format!(
            "micro VMs need the guest kernel, and there is none in {}: run 'make kernel'",
            paths.kernels().display()
        ))
    })?;
    let choice = bulkhead_microvm::accelerator::probe(&paths.run);
    Ok(MicrovmSettings {
        qemu,
        kernel,
        cache_dir: paths.cache.clone(),
        accelerator: choice.accelerator.to_string(),
        accelerator_reason: choice.reason,
    })
}

pub(crate) fn find_qemu() -> Option<PathBuf> {
    find_program(Path::new("qemu-system-x86_64")).ok()
}

#[async_trait]
impl Launcher for SupervisorLauncher {
    async fn launch(&self, request: StartRequest) -> Result<Arc<dyn RemoteSandbox>> {
        let microvm = match request.spec.kind {
            Kind::Container => None,
            Kind::Microvm => {
                accelerator::require(&request.labels)?;
                Some(self.microvm_settings_for(&request.labels).await?)
            }
        };
        // The status of an earlier run must not be taken for this one's.
        match std::fs::remove_file(&request.status_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::host("remove the last run's status").with_source(error));
            }
            _ => {}
        }
        let launch = Launch {
            spec: request.spec,
            log_file: request.log_file,
            status_file: request.status_file,
            cgroup_parent: self.paths.cgroup_parent(),
            microvm,
        };
        match self.spawn(&launch).await? {
            CreateReport::Created { pid } => {
                if let Some(settings) = &launch.microvm {
                    self.make_template(settings, &launch.spec.resources);
                }
                let socket = launch.spec.run_dir.join(SOCKET_FILE);
                Ok(Arc::new(SupervisedSandbox::new(socket, pid)))
            }
            CreateReport::Failed(failure) => Err(failure.into()),
        }
    }

    async fn adopt(&self, id: &str) -> Result<Option<Arc<dyn RemoteSandbox>>> {
        let run_dir = self.paths.sandbox_run(id);
        let socket = run_dir.join(SOCKET_FILE);
        let deadline = tokio::time::Instant::now() + LISTEN_PATIENCE;
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            // The earlier daemon may have been killed just after it started this one.
            let starting = run_dir.exists()
                && !socket.exists()
                && !supervisors_of(&run_dir).is_empty()
                && tokio::time::Instant::now() < deadline;
            if !starting {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let pid = match read_status(&self.paths.status_file(id))? {
            Some(Status::Running { pid, .. }) => pid,
            _ => 0,
        };
        Ok(Some(Arc::new(SupervisedSandbox::new(socket, pid))))
    }

    fn last_exit(&self, id: &str) -> Result<Option<(SystemTime, Ending)>> {
        Ok(match read_status(&self.paths.status_file(id))? {
            Some(Status::Exited {
                finished_at,
                exit,
                error,
                ..
            }) => Some((finished_at, Ending { exit, error })),
            _ => None,
        })
    }

    fn started_at(&self, id: &str) -> Result<Option<SystemTime>> {
        Ok(match read_status(&self.paths.status_file(id))? {
            Some(Status::Running { started_at, .. }) => Some(started_at),
            _ => None,
        })
    }

    async fn clean(&self, id: &str) -> Result<()> {
        let run_dir = self.paths.sandbox_run(id);
        if !run_dir.exists() {
            return Ok(());
        }
        // A supervisor that is alive cleans up by itself and better.
        let deadline = tokio::time::Instant::now() + END_PATIENCE;
        while run_dir.exists() && !supervisors_of(&run_dir).is_empty() {
            if tokio::time::Instant::now() >= deadline {
                self.kill_supervisor(&run_dir);
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.remove_leftovers(id).await
    }

    async fn destroy(&self, id: &str) -> Result<()> {
        let run_dir = self.paths.sandbox_run(id);
        self.kill_supervisor(&run_dir);
        let deadline = tokio::time::Instant::now() + KILL_PATIENCE;
        while !supervisors_of(&run_dir).is_empty() {
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::host(format!(
                    "the supervisor in {} does not end although it was killed",
                    run_dir.display()
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.remove_leftovers(id).await
    }
}

impl SupervisorLauncher {
    /// With the supervisor gone: its processes, cgroup and run directory.
    async fn remove_leftovers(&self, id: &str) -> Result<()> {
        let run_dir = self.paths.sandbox_run(id);
        let parent = self.paths.cgroup_parent();
        let id = full_id(&run_dir).unwrap_or_else(|| id.to_owned());
        tokio::task::spawn_blocking(move || {
            let cgroup = Cgroup::open(&parent, &id)?;
            cgroup.kill()?;
            cgroup.remove()?;
            match std::fs::remove_dir_all(&run_dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::host(format!("remove {}", run_dir.display())).with_source(error))
                }
                _ => Ok(()),
            }
        })
        .await
        .map_err(|error| Error::host("a thread of the daemon died").with_source(error))?
    }
}
