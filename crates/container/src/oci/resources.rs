//! `linux.resources` as settings of control group files (config-linux.md, "Control groups").
//!
//! Invariant: a limit that this host cannot enforce becomes an error that names its field when
//! the settings are applied; none is dropped.

use bulkhead_model::{Error, Result};

use crate::cgroup::{DeviceRule, Otherwise, Setting, cpu_weight};

use super::config::{self, BlockIo, Cpu, Memory, Resources, Throttle};

/// What every container may use whatever its rules say, as runc has it: TYPE, major, minor.
const ALWAYS: [(char, Option<u32>, Option<u32>, &str); 11] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(1), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

/// The settings of a hierarchy of v1 or v2, in the order in which they are to be written.
///
/// # Errors
/// `Unsupported` with the field for what has no form on the hierarchy, `InvalidInput` for values
/// that contradict each other.
pub(super) fn settings(resources: &Resources, v2: bool) -> Result<Vec<Setting>> {
    config::refuse("linux.resources.network", resources.network.is_some())?;
    config::refuse("linux.resources.rdma", !resources.rdma.is_empty())?;
    let mut list = List {
        settings: Vec::new(),
        v2,
    };
    list.cpu(&resources.cpu)?;
    list.memory(&resources.memory)?;
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".into()
        };
        // Zero is what Docker writes for "not set".
        if limit != 0 {
            list.add("pids.limit", "pids", "pids.max", value);
        }
    }
    list.block_io(&resources.block_io)?;
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        let suffix = if v2 { "max" } else { "limit_in_bytes" };
        list.add(
            &format!("hugepageLimits[{index}]"),
            "hugetlb",
            &format!("hugetlb.{}.{suffix}", limit.page_size),
            limit.limit.to_string(),
        );
    }
    for (file, value) in &resources.unified {
        if !v2 {
            return Err(Error::unsupported(
                "linux.resources.unified: this host's controllers are on cgroup v1",
            ));
        }
        if file.contains('/') {
            return Err(Error::invalid(format!(
                "linux.resources.unified: '{file}' is no file name"
            )));
        }
        list.add(&format!("unified.{file}"), "unified", file, value.clone());
    }
    Ok(list.settings)
}

struct List {
    settings: Vec<Setting>,
    v2: bool,
}

impl List {
    fn add(&mut self, field: &str, controller: &'static str, file: &str, value: impl ToString) {
        self.settings.push(Setting {
            field: format!("linux.resources.{field}"),
            controller,
            file: file.into(),
            value: value.to_string(),
            otherwise: Otherwise::Fail,
        });
    }

    /// A setting whose file has another name on each version.
    fn either(
        &mut self,
        field: &str,
        controller: &'static str,
        (v1, v2): (&str, Option<&str>),
        value: Option<impl ToString>,
    ) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        let file = match (self.v2, v2) {
            (false, _) => v1,
            (true, Some(file)) => file,
            (true, None) => {
                return Err(Error::unsupported(format!(
                    "linux.resources.{field}: cgroup v2 has no such setting"
                )));
            }
        };
        self.add(field, controller, file, value);
        Ok(())
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<()> {
        let shares = cpu.shares.filter(|&shares| shares != 0);
        if self.v2 {
            let weight = shares.map(cpu_weight);
            if let Some(weight) = weight {
                self.add("cpu.shares", "cpu", "cpu.weight", weight);
            }
            if cpu.quota.is_some_and(|quota| quota != 0) || cpu.period.is_some_and(|p| p != 0) {
                let quota = match cpu.quota {
                    Some(quota) if quota > 0 => quota.to_string(),
                    _ => "max".into(),
                };
                let period = cpu.period.filter(|&period| period != 0).unwrap_or(100_000);
                self.add("cpu.quota", "cpu", "cpu.max", format!("{quota} {period}"));
            }
        } else {
            self.either("cpu.shares", "cpu", ("cpu.shares", None), shares)?;
            let period = cpu.period.filter(|&period| period != 0);
            self.either("cpu.period", "cpu", ("cpu.cfs_period_us", None), period)?;
            let quota = cpu.quota.filter(|&quota| quota != 0);
            self.either("cpu.quota", "cpu", ("cpu.cfs_quota_us", None), quota)?;
        }
        let burst = ("cpu.cfs_burst_us", Some("cpu.max.burst"));
        self.either("cpu.burst", "cpu", burst, cpu.burst)?;
        self.either("cpu.idle", "cpu", ("cpu.idle", Some("cpu.idle")), cpu.idle)?;
        let period = cpu.realtime_period.filter(|&period| period != 0);
        self.either(
            "cpu.realtimePeriod",
            "cpu",
            ("cpu.rt_period_us", None),
            period,
        )?;
        let runtime = cpu.realtime_runtime.filter(|&runtime| runtime != 0);
        self.either(
            "cpu.realtimeRuntime",
            "cpu",
            ("cpu.rt_runtime_us", None),
            runtime,
        )?;
        let cpus = cpu.cpus.as_deref().filter(|cpus| !cpus.is_empty());
        let files = ("cpuset.cpus", Some("cpuset.cpus"));
        self.either("cpu.cpus", "cpuset", files, cpus)?;
        let mems = cpu.mems.as_deref().filter(|mems| !mems.is_empty());
        let files = ("cpuset.mems", Some("cpuset.mems"));
        self.either("cpu.mems", "cpuset", files, mems)
    }

    fn memory(&mut self, memory: &Memory) -> Result<()> {
        let limit = memory.limit.filter(|&limit| limit != 0);
        let swap = memory.swap.filter(|&swap| swap != 0);
        if let (Some(limit), Some(swap)) = (limit, swap)
            && swap > 0
            && (limit < 0 || limit > swap)
        {
            return Err(Error::invalid(format!(
                "linux.resources.memory.swap: {swap} is memory plus swap, and less than the \
                 memory limit {limit}"
            )));
        }
        let text = |value: i64| {
            if value < 0 {
                "max".to_owned()
            } else {
                value.to_string()
            }
        };
        let reservation = memory.reservation.filter(|&reservation| reservation != 0);
        if self.v2 {
            if let Some(limit) = limit {
                self.add("memory.limit", "memory", "memory.max", text(limit));
            }
            match (swap, limit) {
                (Some(swap), _) if swap < 0 => {
                    self.add("memory.swap", "memory", "memory.swap.max", "max");
                }
                (Some(swap), Some(limit)) => {
                    self.add("memory.swap", "memory", "memory.swap.max", swap - limit);
                }
                (Some(_), None) => {
                    return Err(Error::invalid(
                        "linux.resources.memory.swap: on cgroup v2 it needs memory.limit beside it",
                    ));
                }
                (None, _) => {}
            }
            if let Some(reservation) = reservation {
                self.add(
                    "memory.reservation",
                    "memory",
                    "memory.low",
                    text(reservation),
                );
            }
        } else {
            self.either(
                "memory.limit",
                "memory",
                ("memory.limit_in_bytes", None),
                limit,
            )?;
            // Without a limit on the memory there is none on the sum either.
            let swap = swap.or((limit == Some(-1)).then_some(-1));
            let file = ("memory.memsw.limit_in_bytes", None);
            self.either("memory.swap", "memory", file, swap)?;
            let file = ("memory.soft_limit_in_bytes", None);
            self.either("memory.reservation", "memory", file, reservation)?;
        }
        if memory.kernel.is_some_and(|limit| limit > 0) {
            return Err(Error::unsupported(
                "linux.resources.memory.kernel: the kernel has no such limit any more: leave it out",
            ));
        }
        let file = ("memory.kmem.tcp.limit_in_bytes", None);
        let kernel_tcp = memory.kernel_tcp.filter(|&limit| limit != 0);
        self.either("memory.kernelTCP", "memory", file, kernel_tcp)?;
        self.either(
            "memory.swappiness",
            "memory",
            ("memory.swappiness", None),
            // Docker writes the largest number for "not set".
            memory.swappiness.filter(|&value| value != u64::MAX),
        )?;
        let disabled = memory.disable_oom_killer.unwrap_or(false).then_some(1);
        self.either(
            "memory.disableOOMKiller",
            "memory",
            ("memory.oom_control", None),
            disabled,
        )?;
        let hierarchy = memory.use_hierarchy.filter(|_| !self.v2).map(i32::from);
        let file = ("memory.use_hierarchy", None);
        self.either("memory.useHierarchy", "memory", file, hierarchy)?;
        if memory.check_before_update == Some(true) {
            return Err(Error::unsupported(
                "linux.resources.memory.checkBeforeUpdate: this field is not supported by this \
                 version of Bulkhead: leave it out",
            ));
        }
        Ok(())
    }

    fn block_io(&mut self, block_io: &BlockIo) -> Result<()> {
        config::refuse(
            "linux.resources.blockIO.leafWeight",
            block_io.leaf_weight.is_some(),
        )?;
        config::refuse(
            "linux.resources.blockIO.weightDevice",
            !block_io.weight_device.is_empty(),
        )?;
        let weight = block_io.weight.filter(|&weight| weight != 0);
        let files = ("blkio.bfq.weight", Some("io.bfq.weight"));
        self.either("blockIO.weight", "blkio", files, weight)?;
        let throttles: [(&str, &[Throttle], &str, &str); 4] = [
            (
                "throttleReadBpsDevice",
                &block_io.throttle_read_bps_device,
                "read_bps",
                "rbps",
            ),
            (
                "throttleWriteBpsDevice",
                &block_io.throttle_write_bps_device,
                "write_bps",
                "wbps",
            ),
            (
                "throttleReadIOPSDevice",
                &block_io.throttle_read_iops_device,
                "read_iops",
                "riops",
            ),
            (
                "throttleWriteIOPSDevice",
                &block_io.throttle_write_iops_device,
                "write_iops",
                "wiops",
            ),
        ];
        for (field, devices, v1, v2) in throttles {
            for device in devices {
                let (major, minor, rate) = (device.major, device.minor, device.rate);
                let field = format!("blockIO.{field}");
                if self.v2 {
                    self.add(
                        &field,
                        "io",
                        "io.max",
                        format!("{major}:{minor} {v2}={rate}"),
                    );
                } else {
                    let file = format!("blkio.throttle.{v1}_device");
                    self.add(&field, "blkio", &file, format!("{major}:{minor} {rate}"));
                }
            }
        }
        Ok(())
    }
}

/// The device policy: nothing, then the configuration's rules, then what every container has
/// (config-linux.md, "Allowed Device list").
pub(super) fn device_rules(rules: &[config::DeviceRule]) -> Result<Vec<DeviceRule>> {
    let mut policy = vec![DeviceRule {
        allow: false,
        kind: 'a',
        major: None,
        minor: None,
        access: "rwm".into(),
    }];
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("linux.resources.devices[{index}]");
        let kind = match rule.kind.as_deref() {
            None | Some("" | "a") => 'a',
            Some("b") => 'b',
            Some("c" | "u") => 'c',
            Some(other) => {
                return Err(Error::invalid(format!(
                    "{field}.type: '{other}' is none of a, b and c"
                )));
            }
        };
        let access = match rule.access.as_deref() {
            None | Some("") => "rwm".to_owned(),
            Some(access) => access.to_owned(),
        };
        if access.chars().any(|letter| !"rwm".contains(letter)) {
            return Err(Error::invalid(format!(
                "{field}.access: '{access}' has other than r, w and m"
            )));
        }
        let number = |name: &str, number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => u32::try_from(number).map(Some).map_err(|_| {
                Error::invalid(format!("{field}.{name}: {number} is no device number"))
            }),
        };
        let (major, minor) = (number("major", rule.major)?, number("minor", rule.minor)?);
        let kinds: &[char] =
            if kind == 'a' && (major.is_some() || minor.is_some() || access != "rwm") {
                // v1 takes `a` for everything alone.
                &['b', 'c']
            } else {
                &[kind]
            };
        for &kind in kinds {
            policy.push(DeviceRule {
                allow: rule.allow,
                kind,
                major,
                minor,
                access: access.clone(),
            });
        }
    }
    // After "everything", v1 refuses to be told of single devices.
    let everything = policy
        .last()
        .is_some_and(|rule| rule.allow && rule.kind == 'a');
    if !everything {
        policy.extend(
            ALWAYS
                .iter()
                .map(|&(kind, major, minor, access)| DeviceRule {
                    allow: true,
                    kind,
                    major,
                    minor,
                    access: access.into(),
                }),
        );
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> Resources {
        config::parse(text, "resources").expect("resources")
    }

    fn files(text: &str, v2: bool) -> Vec<(String, String)> {
        let settings = settings(&resources(text), v2).expect("settings");
        settings
            .into_iter()
            .map(|setting| (setting.file, setting.value))
            .collect()
    }

    #[test]
    fn limits_take_the_form_of_each_hierarchy() {
        let text = r#"{"memory": {"limit": 1000, "swap": 1500, "reservation": 10},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0"},
            "pids": {"limit": 7}}"#;
        let pair = |(file, value): (&str, &str)| (file.to_owned(), value.to_owned());
        assert_eq!(
            files(text, false),
            [
                ("cpu.shares", "1024"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpuset.cpus", "0"),
                ("memory.limit_in_bytes", "1000"),
                ("memory.memsw.limit_in_bytes", "1500"),
                ("memory.soft_limit_in_bytes", "10"),
                ("pids.max", "7"),
            ]
            .map(pair)
        );
        assert_eq!(
            files(text, true),
            [
                ("cpu.weight", "100"),
                ("cpu.max", "50000 100000"),
                ("cpuset.cpus", "0"),
                ("memory.max", "1000"),
                ("memory.swap.max", "500"),
                ("memory.low", "10"),
                ("pids.max", "7"),
            ]
            .map(pair)
        );
    }

    #[test]
    fn what_a_hierarchy_does_not_have_is_refused_by_name() {
        for (text, v2, field) in [
            (
                r#"{"memory": {"swappiness": 5}}"#,
                true,
                "linux.resources.memory.swappiness",
            ),
            (
                r#"{"unified": {"memory.high": "1"}}"#,
                false,
                "linux.resources.unified",
            ),
            (
                r#"{"rdma": {"mlx5_1": {"hcaHandles": 3}}}"#,
                false,
                "linux.resources.rdma",
            ),
            (
                r#"{"network": {"classID": 1}}"#,
                false,
                "linux.resources.network",
            ),
        ] {
            let error = settings(&resources(text), v2).expect_err(text);
            assert!(error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn the_device_policy_begins_with_nothing() {
        let rules = |text| device_rules(&resources(text).devices);
        let none = rules("{}").expect("rules");
        assert!(!none[0].allow && none[0].kind == 'a' && none.len() == 12);
        let all = rules(r#"{"devices": [{"allow": true, "access": "rwm"}]}"#).expect("rules");
        assert_eq!(all.len(), 2);
        let error = rules(r#"{"devices": [{"allow": true, "access": "rx"}]}"#).expect_err("access");
        assert!(
            error
                .to_string()
                .contains("linux.resources.devices[0].access"),
            "{error}"
        );
    }
}
