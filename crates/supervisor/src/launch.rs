use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_container::ContainerBackend;
use bulkhead_container::cgroup::Cgroup;
use bulkhead_microvm::{MicroVmBackend, MicroVmConfig};
use bulkhead_model::{
    Backend, ByteSize, Error, Kind, NetworkMode, Resources, Result, Sandbox, SandboxSpec,
};
use serde::{Deserialize, Serialize};

/// What a monitor may use beyond its guest's memory: its own code, page tables, device queues and,
/// with the accelerator `tcg`, the translated code.
const MONITOR_OVERHEAD: ByteSize = ByteSize::from_mib(192);

/// The launch file: everything that a supervisor must know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    pub spec: SandboxSpec,
    pub log_file: PathBuf,
    pub status_file: PathBuf,
    /// The cgroup under which this instance's sandboxes are.
    pub cgroup_parent: String,
    /// Given for micro VMs.
    pub microvm: Option<MicrovmSettings>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MicrovmSettings {
    pub qemu: PathBuf,
    pub kernel: PathBuf,
    pub cache_dir: PathBuf,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// How that was chosen, in words for the user. An earlier version's launch file has none.
    #[serde(default)]
    pub accelerator_reason: String,
}

impl MicrovmSettings {
    /// The backend's configuration; the monitor writes itself into the control groups.
    ///
    /// # Errors
    /// `InvalidInput` for an accelerator that is none.
    pub fn config(&self, control_groups: Vec<PathBuf>) -> Result<MicroVmConfig> {
        Ok(MicroVmConfig {
            qemu: self.qemu.clone(),
            kernel: self.kernel.clone(),
            cache_dir: self.cache_dir.clone(),
            accelerator: self.accelerator.parse()?,
            launcher: bulkhead_microvm::Launcher {
                program: PathBuf::from("/proc/self/exe"),
                arguments: vec!["microvm-launch".into()],
            },
            control_groups,
        })
    }
}

impl Launch {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::host(format!("read {}", path.display())).with_source(error)
        };
        let text = std::fs::read(path).map_err(|error| failed(error.into()))?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    }
}

/// Makes the sandbox and attaches its network; the workload does not run yet.
///
/// Also answers the cgroup of a micro VM's monitor (a container's is its backend's own affair).
pub(crate) fn create(launch: &Launch) -> Result<(Arc<dyn Sandbox>, Option<Cgroup>)> {
    match launch.spec.kind {
        Kind::Container => create_container(launch).map(|sandbox| (sandbox, None)),
        Kind::Microvm => create_microvm(launch),
    }
}

fn create_container(launch: &Launch) -> Result<Arc<dyn Sandbox>> {
    let helper = bulkhead_container::Helper {
        program: PathBuf::from("/proc/self/exe"),
        arguments: vec!["container-init".into()],
    };
    let backend = ContainerBackend::new(helper).with_cgroup_parent(&launch.cgroup_parent);
    let sandbox: Arc<dyn Sandbox> = backend.create(&launch.spec, Vec::new())?.into();
    for (index, endpoint) in launch.spec.network.endpoints().iter().enumerate() {
        let attached = bulkhead_network::attach_container(sandbox.pid(), endpoint, index == 0);
        if let Err(error) = attached {
            return Err(undo(&*sandbox, error));
        }
    }
    Ok(sandbox)
}

fn create_microvm(launch: &Launch) -> Result<(Arc<dyn Sandbox>, Option<Cgroup>)> {
    let settings = launch
        .microvm
        .as_ref()
        .ok_or_else(|| Error::invalid("the launch file has no settings for micro VMs"))?;
    if launch.spec.network == NetworkMode::Host {
        return Err(Error::unsupported(
            "a micro VM cannot use the host's network: publish its ports, or run it as a container",
        ));
    }
    let cgroup = Cgroup::create(
        &launch.cgroup_parent,
        &launch.spec.id,
        &monitor_resources(&launch.spec),
    )?;
    let made = open_taps(&launch.spec).and_then(|taps| {
        let backend = MicroVmBackend::new(settings.config(cgroup.procs_files())?);
        backend.create(&launch.spec, taps)
    });
    match made {
        Ok(sandbox) => Ok((sandbox.into(), Some(cgroup))),
        Err(error) => {
            if let Err(left) = cgroup.kill().and_then(|()| cgroup.remove()) {
                tracing::error!(%left, "a cgroup is left behind");
            }
            Err(error)
        }
    }
}

fn open_taps(spec: &SandboxSpec) -> Result<Vec<OwnedFd>> {
    spec.network
        .endpoints()
        .iter()
        .map(bulkhead_network::open_tap)
        .collect()
}

/// The limits of the monitor: the guest enforces its own memory and process limits inside.
fn monitor_resources(spec: &SandboxSpec) -> Resources {
    let guest_memory = spec
        .resources
        .memory
        .unwrap_or(bulkhead_microvm::DEFAULT_MEMORY);
    Resources {
        memory: Some(ByteSize(guest_memory.bytes() + MONITOR_OVERHEAD.bytes())),
        cpu_millis: spec.resources.cpu_millis,
        cpu_shares: spec.resources.cpu_shares,
        cpuset_cpus: spec.resources.cpuset_cpus.clone(),
        ..Resources::default()
    }
}

fn undo(sandbox: &dyn Sandbox, error: Error) -> Error {
    if let Err(left) = sandbox.delete() {
        tracing::error!(%left, "the sandbox could not be deleted");
    }
    error
}
