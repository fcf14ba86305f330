//! Makes containers.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use bulkhead_model::{Backend, Error, Kind, NetworkMode, Result, Sandbox, SandboxSpec};

use crate::cgroup::Cgroup;
use crate::config::{CreateTask, Task, Workload};
use crate::container::{Container, Privileges};
use crate::failure::Context;
use crate::namespaces;
use crate::process::{self, Ending};
use crate::spawn::{self, Spawned};

/// The files below `/etc` that lie in the sandbox's state directory.
const ETC_FILES: [&str; 3] = ["hosts", "resolv.conf", "hostname"];

/// How to run the helper: a program whose `main` calls [`crate::init_main`] for these arguments.
#[derive(Debug, Clone)]
pub struct Helper {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// Makes sandboxes that share the host's kernel.
#[derive(Debug, Clone)]
pub struct ContainerBackend {
    helper: Helper,
    cgroup_parent: String,
}

impl ContainerBackend {
    pub fn new(helper: Helper) -> Self {
        Self {
            helper,
            cgroup_parent: "bulkhead".into(),
        }
    }

    /// Names the cgroup that holds the sandboxes' own; each instance on a machine has one.
    #[must_use]
    pub fn with_cgroup_parent(mut self, name: impl Into<String>) -> Self {
        self.cgroup_parent = name.into();
        self
    }

    /// Removes what a container leaves behind whose supervisor was killed: its cgroup. Everything
    /// else ends with its processes. Legal also if there is nothing to remove.
    pub fn remove_leftovers(&self, spec: &SandboxSpec) -> Result<()> {
        let group = Cgroup::open(&self.cgroup_parent, &spec.id)?;
        group.kill()?;
        group.remove()?;
        remove_etc_files(&spec.state_dir);
        Ok(())
    }
}

impl Backend for ContainerBackend {
    fn kind(&self) -> Kind {
        Kind::Container
    }

    fn create(&self, spec: &SandboxSpec, taps: Vec<OwnedFd>) -> Result<Box<dyn Sandbox>> {
        if !taps.is_empty() {
            return Err(Error::invalid("a container takes no TAP devices"));
        }
        check_identifier(&spec.id)?;
        namespaces::check_sysctls(&spec.sysctls, spec.network != NetworkMode::Host)?;
        let workload = Workload::new(
            &spec.process,
            &spec.security,
            &spec.resources,
            spec.security.init,
        )?;
        let made = make_files(spec).and_then(|()| {
            let group = Cgroup::create(&self.cgroup_parent, &spec.id, &spec.resources)?;
            let made = self.create_in(spec, workload, group);
            made.inspect_err(|_| {
                // The first failure is the one to tell about.
                let _ =
                    Cgroup::open(&self.cgroup_parent, &spec.id).and_then(|group| group.remove());
            })
        });
        match made {
            Ok(container) => Ok(Box::new(container)),
            Err(error) => {
                remove_etc_files(&spec.state_dir);
                Err(error)
            }
        }
    }
}

impl ContainerBackend {
    fn create_in(
        &self,
        spec: &SandboxSpec,
        workload: Workload,
        group: Cgroup,
    ) -> Result<Container> {
        if !spec.security.privileged {
            group.restrict_devices()?;
        }
        let task = Task::Create(Box::new(CreateTask {
            spec: spec.clone(),
            workload,
            cgroup_mounts: group.views(),
        }));
        let group = Arc::new(group);
        let ending = Arc::new(Ending::default());
        let spawned = keep(&self.helper, spec, task, &group, &ending)?;
        let privileges = Privileges {
            security: spec.security.clone(),
            resources: spec.resources.clone(),
        };
        Ok(Container::new(
            self.helper.clone(),
            spec.state_dir.clone(),
            group,
            privileges,
            ending,
            spawned,
        ))
    }
}

/// Spawns the container's init from a thread that stays until it has ended: the death signal
/// that ties it to this process is tied to the *thread* that is its parent (prctl(2)).
fn keep(
    helper: &Helper,
    spec: &SandboxSpec,
    task: Task,
    group: &Arc<Cgroup>,
    ending: &Arc<Ending>,
) -> Result<Spawned> {
    let (sender, receiver) = mpsc::channel();
    let (helper, process) = (helper.clone(), spec.process.clone());
    let (group, ending) = (Arc::clone(group), Arc::clone(ending));
    let keeper = move || {
        let spawned = spawn::spawn(&helper, &task, &process, None, |pid| group.add_process(pid));
        let pid = spawned.as_ref().map(|spawned| spawned.pid);
        let pid = pid.ok();
        if sender.send(spawned).is_err() {
            return;
        }
        if let Some(pid) = pid {
            ending.set(process::reap(pid, 0, || group.oom_kills()));
        }
    };
    std::thread::Builder::new()
        .name("container".into())
        .stack_size(128 << 10)
        .spawn(keeper)
        .host(|| "start a thread".into())?;
    receiver
        .recv()
        .map_err(|error| Error::host("the thread of the container ended").with_source(error))?
}

fn make_files(spec: &SandboxSpec) -> Result<()> {
    let texts = [&spec.etc.hosts, &spec.etc.resolv_conf, &spec.etc.hostname];
    for (name, text) in ETC_FILES.iter().zip(texts) {
        let path = spec.state_dir.join(name);
        fs::write(&path, text).host(|| format!("write {}", path.display()))?;
    }
    for name in ["upper", "work"] {
        let path = spec.root.writable.join(name);
        fs::create_dir_all(&path).host(|| format!("make {}", path.display()))?;
    }
    Ok(())
}

pub(crate) fn remove_etc_files(state_dir: &Path) {
    for name in ETC_FILES {
        // Not there is what is wanted; anything else goes with the directory.
        let _ = fs::remove_file(state_dir.join(name));
    }
}

/// The identifier names a cgroup.
fn check_identifier(id: &str) -> Result<()> {
    let well_formed = !id.is_empty()
        && id.len() <= 64
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if well_formed {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "'{id}' is no sandbox id: it has other than hexadecimal digits"
    )))
}
