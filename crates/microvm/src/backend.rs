//! Makes micro VMs from specifications.

use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_guest::{Configuration, DISK_SERIAL, GuestMount, GuestMountSource, IMAGE_SERIAL};
use bulkhead_model::{
    Backend, ByteSize, Error, Kind, Mount, MountSource, NetworkMode, Resources, Result, Sandbox,
    SandboxSpec,
};
use rustix::rand::GetRandomFlags;

use crate::agent::Agent;
use crate::launch::{Launcher, StagedFile};
use crate::monitor::{Accelerator, Disk, Interface, Machine, Monitor, Origin, Qemu, Share};
use crate::sandbox::{MicroVm, make_streams};
use crate::template::{self, Identity};
use crate::{clock, console, disk, initramfs, rootfs};

/// A guest's memory where no limit is given.
pub const DEFAULT_MEMORY: ByteSize = ByteSize::from_mib(256);

/// What the guest's kernel takes of its memory, so that a limit means the workload's memory on
/// both kinds of sandbox.
pub const KERNEL_MEMORY: ByteSize = ByteSize::from_mib(48);

/// Where a micro VM's parts are found.
#[derive(Debug, Clone)]
pub struct MicroVmConfig {
    /// `qemu-system-x86_64`, by path or by name.
    pub qemu: PathBuf,
    /// The guest kernel: an uncompressed `vmlinux`.
    pub kernel: PathBuf,
    /// Images, the disk's template and the initial file system are kept here.
    pub cache_dir: PathBuf,
    pub accelerator: Accelerator,
    pub launcher: Launcher,
    /// `cgroup.procs` files that the monitor writes itself into before it runs.
    pub control_groups: Vec<PathBuf>,
}

/// The backend of kind `microvm`.
pub struct MicroVmBackend {
    config: MicroVmConfig,
    monitor: Arc<dyn Monitor>,
}

impl fmt::Debug for MicroVmBackend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MicroVmBackend")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl MicroVmConfig {
    pub(crate) fn monitor(&self) -> Arc<dyn Monitor> {
        Arc::new(Qemu {
            program: self.qemu.clone(),
            launcher: self.launcher.clone(),
        })
    }

    /// A machine with these limits and nothing attached.
    pub(crate) fn bare_machine(&self, resources: &Resources) -> Result<Machine> {
        if !self.kernel.is_file() {
            return Err(Error::unsupported(format!(
                "there is no guest kernel at {}: run 'make kernel'",
                self.kernel.display()
            )));
        }
        let memory = match resources.memory {
            Some(limit) => ByteSize(limit.bytes().saturating_add(KERNEL_MEMORY.bytes())),
            None => DEFAULT_MEMORY,
        };
        Ok(Machine {
            accelerator: self.accelerator,
            kernel: self.kernel.clone(),
            initramfs: initramfs::ensure(&self.cache_dir)?,
            disks: Vec::new(),
            memory_mib: memory.mib(),
            cpus: resources
                .cpu_millis
                .unwrap_or(1000)
                .div_ceil(1000)
                .clamp(1, 64),
            tsc_khz: (self.accelerator == Accelerator::Tcg)
                .then(|| clock::tsc_khz(&self.cache_dir))
                .flatten(),
            shares: Vec::new(),
            staged: Vec::new(),
            interfaces: Vec::new(),
            control_groups: self.control_groups.clone(),
            origin: Origin::Boot,
        })
    }
}

impl MicroVmBackend {
    pub fn new(config: MicroVmConfig) -> Self {
        let monitor = config.monitor();
        Self { config, monitor }
    }

    fn machine(&self, spec: &SandboxSpec, taps: Vec<OwnedFd>) -> Result<Machine> {
        let endpoints = spec.network.endpoints();
        if taps.len() != endpoints.len() {
            return Err(Error::invalid(format!(
                "{} network interfaces are asked for and {} devices given",
                endpoints.len(),
                taps.len()
            )));
        }
        let cache_dir = &self.config.cache_dir;
        let root = &spec.root;
        let mut machine = self.config.bare_machine(&spec.resources)?;
        let launcher = &self.config.launcher;
        machine.disks = vec![
            Disk {
                serial: IMAGE_SERIAL,
                path: rootfs::ensure(&root.layers, &root.chain_id, cache_dir, launcher)?,
                read_only: true,
            },
            Disk {
                serial: DISK_SERIAL,
                path: disk::ensure(&root.writable, root.size, cache_dir)?,
                read_only: false,
            },
        ];
        let interfaces = taps.into_iter().zip(endpoints);
        machine.interfaces = interfaces
            .map(|(tap, endpoint)| Interface {
                tap,
                mac: endpoint.mac,
            })
            .collect();
        Ok(machine)
    }

    /// Where a guest of this machine begins: a host on which that cannot be told boots it.
    fn origin(&self, machine: &Machine) -> Origin {
        match Identity::of(machine, &*self.monitor) {
            Ok(identity) => template::find(&identity, &self.config.cache_dir)
                .map_or(Origin::Boot, Origin::Template),
            Err(error) => {
                tracing::debug!(%error, "no template is looked for");
                Origin::Boot
            }
        }
    }
}

impl Backend for MicroVmBackend {
    fn kind(&self) -> Kind {
        Kind::Microvm
    }

    fn create(&self, spec: &SandboxSpec, taps: Vec<OwnedFd>) -> Result<Box<dyn Sandbox>> {
        if spec.network == NetworkMode::Host {
            return Err(Error::unsupported(
                "a micro VM cannot use the host's network: attach it to a network, or use the \
                 runtime 'container'",
            ));
        }
        let mut machine = self.machine(spec, taps)?;
        machine.origin = self.origin(&machine);
        let staging = spec.run_dir.join("shares");
        let console_log = console::log_file(&spec.root.writable);
        let result = share_mounts(spec, &staging, &mut machine).and_then(|mounts| {
            let (streams, io) = make_streams(&spec.process)?;
            let configuration = configuration(spec, mounts)?;
            let monitor = self.monitor.clone();
            let agent = Agent::boot(monitor, machine, configuration, streams, console_log)?;
            Ok((agent, io))
        });
        match result {
            Ok((agent, io)) => {
                let limit = spec.resources.memory.unwrap_or(DEFAULT_MEMORY);
                Ok(Box::new(MicroVm::new(agent, io, limit, staging)))
            }
            Err(error) => {
                let _ = fs::remove_dir_all(&staging);
                Err(error)
            }
        }
    }
}

/// Gives the machine a share for every bind mount, and says how the guest mounts it.
fn share_mounts(
    spec: &SandboxSpec,
    staging: &Path,
    machine: &mut Machine,
) -> Result<Vec<GuestMount>> {
    let mut mounts = Vec::new();
    for (index, mount) in spec.mounts.iter().enumerate() {
        let source = match &mount.source {
            MountSource::Bind(path) => share(index, mount, path, staging, machine)?,
            MountSource::Tmpfs { size, mode } => GuestMountSource::Tmpfs {
                size: size.map(ByteSize::bytes),
                mode: *mode,
            },
        };
        mounts.push(GuestMount {
            target: mount.target.clone(),
            source,
            read_only: mount.read_only,
        });
    }
    Ok(mounts)
}

fn share(
    index: usize,
    mount: &Mount,
    path: &Path,
    staging: &Path,
    machine: &mut Machine,
) -> Result<GuestMountSource> {
    let metadata = fs::metadata(path).map_err(|error| {
        Error::invalid(format!("mount {} of the host", path.display())).with_source(error)
    })?;
    let tag = format!("share{index}");
    let mut shared = Share {
        tag: tag.clone(),
        path: path.to_owned(),
        read_only: mount.read_only,
    };
    let mut file = None;
    if !metadata.is_dir() {
        // A share is a directory. A file gets one of its own, so that its siblings stay hidden.
        let directory = staging.join(index.to_string());
        fs::create_dir_all(&directory).map_err(|error| {
            Error::host(format!("make {}", directory.display())).with_source(error)
        })?;
        machine.staged.push(StagedFile {
            directory: directory.clone(),
            name: "file".to_owned(),
            source: path.to_owned(),
        });
        shared.path = directory;
        file = Some("file".to_owned());
    }
    machine.shares.push(shared);
    Ok(GuestMountSource::Shared { tag, file })
}

fn configuration(spec: &SandboxSpec, mounts: Vec<GuestMount>) -> Result<Configuration> {
    let resources = &spec.resources;
    let security = &spec.security;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut random_seed = vec![0; 32];
    rustix::rand::getrandom(&mut random_seed, GetRandomFlags::empty())
        .map_err(|errno| Error::host("get random bytes for a guest").with_source(errno))?;
    Ok(Configuration {
        hostname: spec.hostname.clone(),
        process: spec.process.clone(),
        mounts,
        endpoints: spec.network.endpoints().to_vec(),
        etc: spec.etc.clone(),
        sysctls: spec.sysctls.clone(),
        shm_size: spec.shm_size.bytes(),
        root_read_only: spec.root.read_only,
        memory_limit: resources.memory.map(ByteSize::bytes),
        cpu_millis: resources.cpu_millis,
        pids_limit: resources.pids,
        ulimits: resources.ulimits.clone(),
        oom_score_adj: resources.oom_score_adj,
        privileged: security.privileged,
        capabilities_add: security.capabilities_add.clone(),
        capabilities_drop: security.capabilities_drop.clone(),
        no_new_privileges: security.no_new_privileges,
        init: security.init,
        unix_time_nanoseconds: now.map_or(0, |now| now.as_nanos() as u64),
        random_seed,
    })
}
