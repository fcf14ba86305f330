//! Limits and security settings of a create request.

use bulkhead_api::docker::HostConfig;
use bulkhead_microvm::disk;
use bulkhead_model::{ByteSize, Error, Kind, Resources, Result, Seccomp, Security, Ulimit};

/// The smallest memory limit with which a process starts at all, as Docker has it.
const MINIMUM_MEMORY: ByteSize = ByteSize::from_mib(6);

pub(crate) fn resources(host: &HostConfig) -> Result<Resources> {
    let memory = positive(host.memory).map(ByteSize);
    if let Some(memory) = memory.filter(|memory| *memory < MINIMUM_MEMORY) {
        return Err(Error::invalid(format!(
            "Minimum memory limit allowed is {MINIMUM_MEMORY}, not {memory}"
        )));
    }
    let cpu_millis = match (positive(host.nano_cpus), positive(host.cpu_quota)) {
        (Some(nanos), _) => Some((nanos / 1_000_000).max(1)),
        (None, Some(quota)) => {
            let period = positive(host.cpu_period).unwrap_or(100_000);
            Some((quota.saturating_mul(1000) / period).max(1))
        }
        (None, None) => None,
    };
    let mut ulimits = Vec::new();
    for limit in host.ulimits.iter().flatten() {
        let value = |number: Option<i64>| match number {
            Some(-1) => u64::MAX,
            number => u64::try_from(number.unwrap_or(0)).unwrap_or(0),
        };
        let name = limit.name.clone().unwrap_or_default();
        let (soft, hard) = (value(limit.soft), value(limit.hard));
        if soft > hard {
            return Err(Error::invalid(format!(
                "ulimit {name}: soft limit {soft} is above the hard limit {hard}"
            )));
        }
        ulimits.push(Ulimit { name, soft, hard });
    }
    Ok(Resources {
        memory,
        memory_swap: positive(host.memory_swap).map(ByteSize),
        cpu_millis,
        cpu_shares: positive(host.cpu_shares),
        cpuset_cpus: host.cpuset_cpus.clone().filter(|list| !list.is_empty()),
        pids: positive(host.pids_limit),
        ulimits,
        oom_score_adj: host
            .oom_score_adj
            .filter(|score| *score != 0)
            .and_then(|score| i32::try_from(score).ok()),
    })
}

/// The size of the writable part of the root: a micro VM's own disk. A container's is a directory of
/// the host, which only a quota of the host's file system would limit.
pub(super) fn root_size(host: &HostConfig, kind: Kind) -> Result<Option<ByteSize>> {
    let mut options: Vec<_> = host.storage_opt.iter().flatten().collect();
    options.sort_unstable();
    let mut size = None;
    for (name, value) in options {
        if name != "size" {
            return Err(Error::unsupported(format!(
                "storage option '{name}' (HostConfig.StorageOpt) is not supported: 'size' is the \
                 only one"
            )));
        }
        size = Some(ByteSize::parse(value).ok_or_else(|| {
            Error::invalid(format!(
                "storage option size={value}: no size; write a number with b, k, m or g, such as 1g"
            ))
        })?);
    }
    let Some(size) = size else {
        return Ok(None);
    };
    if kind == Kind::Container {
        return Err(Error::unsupported(
            "storage option 'size' (HostConfig.StorageOpt) limits a micro VM's disk, and a \
             container has none: use the runtime 'microvm', or make the root read-only and give \
             the paths that are written to a tmpfs with a size",
        ));
    }
    disk::check_size(size)?;
    Ok(Some(size))
}

pub(super) fn security(host: &HostConfig) -> Result<Security> {
    let mut security = Security {
        privileged: host.privileged.unwrap_or(false),
        capabilities_add: host.cap_add.clone().unwrap_or_default(),
        capabilities_drop: host.cap_drop.clone().unwrap_or_default(),
        init: host.init.unwrap_or(false),
        ..Security::default()
    };
    for option in host.security_opt.iter().flatten() {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin" | "default") => security.seccomp = Seccomp::Default,
            // A client sends the profile's text, not its path.
            ("seccomp", profile) => security.seccomp = Seccomp::Profile(profile.to_owned()),
            ("apparmor", "unconfined") | ("label", "disable") => {}
            _ => {
                return Err(Error::unsupported(format!(
                    "security option '{option}' is not supported: use no-new-privileges or seccomp"
                )));
            }
        }
    }
    Ok(security)
}

/// Names every setting that is asked for and cannot be carried out: none is skipped.
pub(super) fn refuse_unsupported(host: &HostConfig) -> Result<()> {
    let set = |text: &Option<String>, usual: &[&str]| {
        text.as_deref()
            .is_some_and(|text| !text.is_empty() && !usual.contains(&text))
    };
    fn some<T>(list: &Option<Vec<T>>) -> bool {
        list.as_ref().is_some_and(|list| !list.is_empty())
    }
    let checks = [
        (some(&host.devices), "Devices"),
        (some(&host.device_cgroup_rules), "DeviceCgroupRules"),
        (some(&host.device_requests), "DeviceRequests"),
        (some(&host.volumes_from), "VolumesFrom"),
        (some(&host.links), "Links"),
        (some(&host.group_add), "GroupAdd"),
        (some(&host.blkio_weight_device), "BlkioWeightDevice"),
        (some(&host.blkio_device_read_bps), "BlkioDeviceReadBps"),
        (some(&host.blkio_device_write_bps), "BlkioDeviceWriteBps"),
        (some(&host.blkio_device_read_iops), "BlkioDeviceReadIOps"),
        (some(&host.blkio_device_write_iops), "BlkioDeviceWriteIOps"),
        (set(&host.pid_mode, &["private"]), "PidMode"),
        (set(&host.ipc_mode, &["private", "shareable"]), "IpcMode"),
        (set(&host.uts_mode, &["private"]), "UTSMode"),
        (set(&host.userns_mode, &["host"]), "UsernsMode"),
        (set(&host.cgroup_parent, &[]), "CgroupParent"),
        (set(&host.cpuset_mems, &[]), "CpusetMems"),
        (host.oom_kill_disable == Some(true), "OomKillDisable"),
        (
            positive(host.cpu_realtime_period).is_some(),
            "CpuRealtimePeriod",
        ),
        (
            host.blkio_weight.is_some_and(|weight| weight != 0),
            "BlkioWeight",
        ),
    ];
    let refused: Vec<&str> = checks
        .into_iter()
        .filter(|(asked, _)| *asked)
        .map(|(_, name)| name)
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "HostConfig.{} is not supported yet: leave it out",
        refused.join(", HostConfig.")
    )))
}

fn positive(number: Option<i64>) -> Option<u64> {
    number
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_dockers_units() {
        let host = HostConfig {
            memory: Some(64 << 20),
            nano_cpus: Some(1_500_000_000),
            pids_limit: Some(-1),
            ..HostConfig::default()
        };
        let resources = resources(&host).expect("resources");
        assert_eq!(resources.memory, Some(ByteSize::from_mib(64)));
        assert_eq!(resources.cpu_millis, Some(1500));
        assert_eq!(resources.pids, None);
        let tiny = HostConfig {
            memory: Some(4096),
            ..HostConfig::default()
        };
        assert!(super::resources(&tiny).is_err());
    }

    #[test]
    fn the_root_has_a_size_in_a_micro_vm() {
        let size = |options: &[(&str, &str)], kind| {
            let options = options.iter();
            let options = options.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let host = HostConfig {
                storage_opt: Some(options.collect()),
                ..HostConfig::default()
            };
            root_size(&host, kind).map_err(|error| error.to_string())
        };
        let gibibyte = Ok(Some(ByteSize(1 << 30)));
        assert_eq!(size(&[("size", "1G")], Kind::Microvm), gibibyte);
        assert_eq!(size(&[], Kind::Container), Ok(None));
        for (options, kind, part) in [
            (&[("size", "1G")][..], Kind::Container, "'microvm'"),
            (&[("size", "10m")], Kind::Microvm, "at least 64MiB"),
            (&[("size", "much")], Kind::Microvm, "size=much"),
            (&[("size", "-1")], Kind::Microvm, "size=-1"),
            (
                &[("dm.fs", "xfs"), ("size", "1G")],
                Kind::Microvm,
                "'dm.fs'",
            ),
        ] {
            let error = size(options, kind).expect_err("refused");
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn security_options() {
        let options = |list: &[&str]| HostConfig {
            security_opt: Some(list.iter().map(|text| (*text).to_owned()).collect()),
            ..HostConfig::default()
        };
        assert!(
            security(&HostConfig::default())
                .expect("default")
                .no_new_privileges
        );
        let loose = security(&options(&["no-new-privileges:false", "seccomp=unconfined"]));
        let loose = loose.expect("options");
        assert!(!loose.no_new_privileges && loose.seccomp == Seccomp::Unconfined);
        assert!(security(&options(&["apparmor=my-profile"])).is_err());
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let host = HostConfig {
            pid_mode: Some("host".into()),
            ..HostConfig::default()
        };
        assert!(
            refuse_unsupported(&host)
                .expect_err("refused")
                .to_string()
                .contains("PidMode")
        );
        let usual = HostConfig {
            ipc_mode: Some("private".into()),
            ..HostConfig::default()
        };
        refuse_unsupported(&usual).expect("usual");
    }
}
