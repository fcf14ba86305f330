//! The part of a create request that says how a sandbox sits on its host.

use std::collections::BTreeMap;
use std::path::Path;

use bulkhead_api::docker::{
    HostConfig, Mount, MountBindOptions, MountTmpfsOptions, MountTypeEnum, MountVolumeOptions,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use bulkhead_compose::{
    FileMount, FileObject, FileSource, Project, Service, ServiceMount, ServiceNetworkMode,
};

use crate::failure::{Failure, Result};
use crate::flags::limits::parse_security_option;
use crate::flags::mounts::parse_tmpfs;
use crate::flags::ports::Ports;

pub(super) fn host_config(
    project: &Project,
    service: &Service,
    ports: Ports,
) -> Result<HostConfig> {
    let limits = &service.deploy.resources.limits;
    let reservations = &service.deploy.resources.reservations;
    let bytes = |size: bulkhead_model::ByteSize| size.bytes() as i64;
    let mut mounts = Vec::new();
    for mount in &service.volumes {
        mounts.push(volume_mount(project, mount));
    }
    mounts.extend(file_mounts("config", &service.configs, &project.configs)?);
    mounts.extend(file_mounts("secret", &service.secrets, &project.secrets)?);
    let network_mode = match service.network_mode {
        Some(ServiceNetworkMode::None) => Some("none".to_owned()),
        Some(ServiceNetworkMode::Host) => Some("host".to_owned()),
        None => service
            .networks
            .first()
            .and_then(|first| project.networks.get(&first.network))
            .map(|network| network.name.clone()),
    };
    let ulimits = service
        .ulimits
        .iter()
        .map(|(name, range)| ResourcesUlimits {
            name: Some(name.clone()),
            soft: Some(ulimit(range.soft)),
            hard: Some(ulimit(range.hard)),
        });
    let security = service.security_opt.iter();
    let security = security.map(|option| parse_security_option(option));
    let hosts = service.extra_hosts.iter();
    let hosts = hosts.map(|(name, address)| format!("{name}:{address}"));
    Ok(HostConfig {
        runtime: Some(service.kind.to_string()),
        port_bindings: (!ports.bindings.is_empty()).then_some(ports.bindings),
        restart_policy: Some(restart_policy(service)),
        network_mode,
        mounts: (!mounts.is_empty()).then_some(mounts),
        tmpfs: match service.tmpfs.is_empty() {
            true => None,
            false => Some(parse_tmpfs(&service.tmpfs)?),
        },
        memory: limits.memory.map(bytes),
        nano_cpus: limits.cpu_millis.map(|millis| millis as i64 * 1_000_000),
        pids_limit: limits.pids.map(|pids| pids as i64),
        memory_reservation: reservations.memory.map(bytes),
        memory_swap: service.memory_swap_limit.map(bytes),
        cpu_shares: service.cpu_shares.map(|shares| shares as i64),
        cpuset_cpus: service.cpuset.clone(),
        oom_score_adj: service.oom_score_adj.map(i64::from),
        shm_size: service.shm_size.map(bytes),
        ulimits: list(ulimits.collect()),
        cap_add: list(service.cap_add.clone()),
        cap_drop: list(service.cap_drop.clone()),
        privileged: Some(service.privileged),
        readonly_rootfs: Some(service.read_only),
        security_opt: list(security.collect::<Result<Vec<_>>>()?),
        init: service.init.then_some(true),
        sysctls: match service.sysctls.is_empty() {
            true => None,
            false => Some(service.sysctls.clone().into_iter().collect()),
        },
        storage_opt: (!service.storage_opt.is_empty())
            .then(|| service.storage_opt.clone().into_iter().collect()),
        extra_hosts: list(hosts.collect()),
        dns: list(
            service
                .dns
                .iter()
                .map(|address| address.to_string())
                .collect(),
        ),
        ..HostConfig::default()
    })
}

fn list<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

/// Docker writes "no limit" as -1.
fn ulimit(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(-1)
}

fn restart_policy(service: &Service) -> RestartPolicy {
    let (name, times) = match service.restart {
        bulkhead_compose::RestartPolicy::No => (RestartPolicyNameEnum::NO, None),
        bulkhead_compose::RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        bulkhead_compose::RestartPolicy::UnlessStopped => {
            (RestartPolicyNameEnum::UNLESS_STOPPED, None)
        }
        bulkhead_compose::RestartPolicy::OnFailure(times) => {
            (RestartPolicyNameEnum::ON_FAILURE, times)
        }
    };
    RestartPolicy {
        name: Some(name),
        maximum_retry_count: times.map(i64::from),
    }
}

fn volume_mount(project: &Project, mount: &ServiceMount) -> Mount {
    match mount {
        ServiceMount::Bind {
            source,
            target,
            read_only,
            options,
        } => Mount {
            bind_options: Some(MountBindOptions {
                create_mountpoint: Some(options.create_host_path),
                ..MountBindOptions::default()
            }),
            ..bind(source, target, *read_only)
        },
        ServiceMount::Volume {
            source,
            target,
            read_only,
            options,
        } => Mount {
            typ: Some(MountTypeEnum::VOLUME),
            source: source.as_ref().map(|key| match project.volumes.get(key) {
                Some(volume) => volume.name.clone(),
                None => key.clone(),
            }),
            target: Some(target.clone()),
            read_only: Some(*read_only),
            volume_options: (options.nocopy || options.subpath.is_some()).then(|| {
                MountVolumeOptions {
                    no_copy: Some(options.nocopy),
                    subpath: options.subpath.clone(),
                    ..MountVolumeOptions::default()
                }
            }),
            ..Mount::default()
        },
        ServiceMount::Tmpfs { target, options } => Mount {
            typ: Some(MountTypeEnum::TMPFS),
            target: Some(target.clone()),
            tmpfs_options: Some(MountTmpfsOptions {
                size_bytes: options.size.map(|size| size.bytes() as i64),
                mode: options.mode.map(i64::from),
                ..MountTmpfsOptions::default()
            }),
            ..Mount::default()
        },
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountTypeEnum::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// Configs and secrets are files of the host, bound read-only.
fn file_mounts(
    what: &str,
    mounts: &[FileMount],
    objects: &BTreeMap<String, FileObject>,
) -> Result<Vec<Mount>> {
    let convert = |mount: &FileMount| match objects.get(&mount.source).map(|object| &object.source)
    {
        Some(FileSource::File(path)) => Ok(bind(path, &mount.target, true)),
        Some(_) => Err(Failure::new(format!(
            "{what} '{}' has no file: only 'file:' is carried out so far; \
                 write its content to a file and name that",
            mount.source
        ))),
        None => Err(Failure::new(format!(
            "{what} '{}' is not defined",
            mount.source
        ))),
    };
    mounts.iter().map(convert).collect()
}
