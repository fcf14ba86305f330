//! `linux.resources` as settings of control group files (config-linux.md, "Control groups").
//!
//! Invariant: a limit that this host cannot enforce becomes an error that names its field when
//! the settings are applied; none is dropped.

mod block_io;
mod cpu;
mod devices;
mod memory;

use bulkhead_model::{Error, Result};

use crate::cgroup::{Otherwise, Setting};

use super::config::{Network, Resources};

pub(super) use devices::device_rules;

/// The settings of a hierarchy of v1 or v2, in the order in which they are to be written.
///
/// # Errors
/// `Unsupported` with the field for what has no form on the hierarchy, `InvalidInput` for values
/// that contradict each other.
pub(super) fn settings(resources: &Resources, v2: bool) -> Result<Vec<Setting>> {
    let mut list = List {
        settings: Vec::new(),
        v2,
    };
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        let value = match limit {
            ..0 => "max".into(),
            // systemd takes no zero, and with one process in it a group is as full as with none
            // allowed.
            0 => "1".into(),
            limit => limit.to_string(),
        };
        list.add("pids.limit", "pids", "pids.max", value);
    }
    list.memory(&resources.memory)?;
    list.block_io(&resources.block_io)?;
    list.cpu(&resources.cpu)?;
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        let field = format!("hugepageLimits[{index}]");
        let (size, value) = (file_name(&field, &limit.page_size)?, limit.limit);
        let suffix = if v2 { "max" } else { "limit_in_bytes" };
        let file = format!("hugetlb.{size}.{suffix}");
        list.add(&field, "hugetlb", &file, value);
        // Kernels from 5.7 on count what is reserved apart.
        let file = format!("hugetlb.{size}.rsvd.{suffix}");
        list.add(&field, "hugetlb", &file, value);
        list.or(Otherwise::Nothing);
    }
    for (device, limits) in &resources.rdma {
        let parts = [
            ("hca_handle", limits.hca_handles),
            ("hca_object", limits.hca_objects),
        ];
        let limits = parts
            .map(|(name, limit)| limit.map_or(String::new(), |limit| format!(" {name}={limit}")));
        let value = format!("{device}{}", limits.concat());
        list.add(&format!("rdma.{device}"), "rdma", "rdma.max", value);
    }
    list.network(resources.network.as_ref())?;
    if !v2 && !resources.unified.is_empty() {
        return Err(Error::unsupported(
            "invalid configuration: linux.resources.unified: this host's controllers are on \
             cgroup v1: leave it out",
        ));
    }
    for (file, values) in &resources.unified {
        let field = format!("unified.{file}");
        file_name(&field, file)?;
        if !file.contains('.') {
            return Err(Error::invalid(format!(
                "linux.resources.{field}: unified resource \"{file}\" must be in the form \
                 CONTROLLER.PARAMETER"
            )));
        }
        // The kernel takes one line at a time.
        for value in values.split('\n').filter(|line| !line.trim().is_empty()) {
            list.add(&field, "unified", file, value);
        }
    }
    Ok(list.settings)
}

fn file_name<'a>(field: &str, name: &'a str) -> Result<&'a str> {
    if name.contains('/') {
        return Err(Error::invalid(format!(
            "linux.resources.{field}: '{name}' is no file name: no slashes may be in it"
        )));
    }
    Ok(name)
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

    /// What to do for the last setting where its file is not there.
    fn or(&mut self, otherwise: Otherwise) {
        if let Some(last) = self.settings.last_mut() {
            last.otherwise = otherwise;
        }
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
                    "linux.resources.{field}: cgroup v2 has no such setting: leave it out"
                )));
            }
        };
        self.add(field, controller, file, value);
        Ok(())
    }

    fn network(&mut self, network: Option<&Network>) -> Result<()> {
        let Some(network) = network else {
            return Ok(());
        };
        let class = network.class_id.filter(|&class| class != 0);
        let file = ("net_cls.classid", None);
        self.either("network.classID", "net_cls", file, class)?;
        for priority in &network.priorities {
            let value = format!("{} {}", priority.name, priority.priority);
            let file = ("net_prio.ifpriomap", None);
            self.either("network.priorities", "net_prio", file, Some(value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::config;
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
                ("pids.max", "7"),
                ("memory.limit_in_bytes", "1000"),
                ("memory.memsw.limit_in_bytes", "1500"),
                ("memory.soft_limit_in_bytes", "10"),
                ("cpu.shares", "1024"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpuset.cpus", "0"),
            ]
            .map(pair)
        );
        assert_eq!(
            files(text, true),
            [
                ("pids.max", "7"),
                ("memory.swap.max", "500"),
                ("memory.max", "1000"),
                ("memory.low", "10"),
                ("cpu.weight", "100"),
                ("cpu.max", "50000 100000"),
                ("cpuset.cpus", "0"),
            ]
            .map(pair)
        );
    }

    #[test]
    fn every_other_field_has_its_file() {
        for (text, v1, v2) in [
            (r#"{"pids": {"limit": 0}}"#, "pids.max=1", "pids.max=1"),
            (r#"{"pids": {"limit": -1}}"#, "pids.max=max", "pids.max=max"),
            (r#"{"pids": {}}"#, "", ""),
            (
                r#"{"memory": {"limit": -1}}"#,
                "memory.limit_in_bytes=-1 memory.memsw.limit_in_bytes=-1",
                "memory.swap.max=max memory.max=max",
            ),
            (
                r#"{"memory": {"limit": 5, "swap": 5}}"#,
                "memory.limit_in_bytes=5 memory.memsw.limit_in_bytes=5",
                "memory.swap.max=0 memory.max=5",
            ),
            (
                r#"{"memory": {"limit": 5, "swap": -1, "useHierarchy": true}}"#,
                "memory.limit_in_bytes=5 memory.memsw.limit_in_bytes=-1 memory.use_hierarchy=1",
                "memory.swap.max=max memory.max=5",
            ),
            (
                r#"{"cpu": {"period": 7, "burst": 0, "idle": 1}}"#,
                "cpu.idle=1 cpu.cfs_period_us=7 cpu.cfs_burst_us=0",
                "cpu.idle=1 cpu.max.burst=0 cpu.max=max 7",
            ),
            (
                r#"{"cpu": {"quota": -1}}"#,
                "cpu.cfs_quota_us=-1",
                "cpu.max=max 100000",
            ),
            (
                r#"{"blockIO": {"weight": 750, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 9}]}}"#,
                "blkio.weight=750 blkio.weight_device=8:0 10 blkio.throttle.write_iops_device=8:1 9",
                "io.bfq.weight=750 io.bfq.weight=8:0 10 io.max=8:1 wiops=9",
            ),
            (
                r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}"#,
                "hugetlb.2MB.limit_in_bytes=4 hugetlb.2MB.rsvd.limit_in_bytes=4",
                "hugetlb.2MB.max=4 hugetlb.2MB.rsvd.max=4",
            ),
            (
                r#"{"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4}, "rxe": {"hcaObjects": 1}}}"#,
                "rdma.max=mlx5_1 hca_handle=3 hca_object=4 rdma.max=rxe hca_object=1",
                "rdma.max=mlx5_1 hca_handle=3 hca_object=4 rdma.max=rxe hca_object=1",
            ),
        ] {
            for (v2, expected) in [(false, v1), (true, v2)] {
                let written: Vec<String> = files(text, v2)
                    .into_iter()
                    .map(|(file, value)| format!("{file}={value}"))
                    .collect();
                assert_eq!(written.join(" "), expected, "{text}");
            }
        }
        let network =
            r#"{"network": {"classID": 9, "priorities": [{"name": "lo", "priority": 4}]}}"#;
        assert_eq!(
            files(network, false),
            [("net_cls.classid", "9"), ("net_prio.ifpriomap", "lo 4")]
                .map(|(file, value)| (file.to_owned(), value.to_owned()))
        );
        let unified = r#"{"unified": {"io.max": "8:0 riops=1\n8:1 riops=2\n"}}"#;
        assert_eq!(
            files(unified, true),
            [("io.max", "8:0 riops=1"), ("io.max", "8:1 riops=2")]
                .map(|(file, value)| (file.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn weights_and_swap_know_what_else_a_kernel_may_have() {
        let text = r#"{"blockIO": {"weight": 750}, "memory": {"limit": -1}}"#;
        let otherwise = |v2| {
            let settings = settings(&resources(text), v2).expect("settings");
            let other = settings.into_iter().map(|setting| setting.otherwise);
            other
                .filter(|other| *other != Otherwise::Fail)
                .collect::<Vec<_>>()
        };
        let write = |file: &str, value: &str| Otherwise::Write(file.into(), value.into());
        assert_eq!(
            otherwise(false),
            [Otherwise::Nothing, write("blkio.bfq.weight", "750")]
        );
        assert_eq!(
            otherwise(true),
            [Otherwise::Nothing, write("io.weight", "7475")]
        );
    }

    #[test]
    fn what_a_hierarchy_does_not_have_is_refused_by_name() {
        for (text, v2, field) in [
            (
                r#"{"memory": {"swappiness": 5}}"#,
                true,
                "memory.swappiness",
            ),
            (
                r#"{"memory": {"swappiness": 101}}"#,
                false,
                "memory.swappiness",
            ),
            (r#"{"memory": {"kernel": 5}}"#, false, "memory.kernel"),
            (r#"{"memory": {"kernelTCP": 5}}"#, true, "memory.kernelTCP"),
            (
                r#"{"memory": {"disableOOMKiller": true}}"#,
                true,
                "memory.disableOOMKiller",
            ),
            (
                r#"{"memory": {"useHierarchy": false}}"#,
                true,
                "memory.useHierarchy",
            ),
            (r#"{"memory": {"swap": 5}}"#, true, "memory.swap"),
            (
                r#"{"memory": {"limit": 6, "swap": 5}}"#,
                false,
                "memory.swap",
            ),
            (
                r#"{"cpu": {"realtimeRuntime": 5}}"#,
                true,
                "cpu.realtimeRuntime",
            ),
            (r#"{"cpu": {"shares": 1}}"#, false, "cpu.shares"),
            (
                r#"{"blockIO": {"leafWeight": 5}}"#,
                true,
                "blockIO.leafWeight",
            ),
            (r#"{"unified": {"memory.high": "1"}}"#, false, "unified"),
            (r#"{"unified": {"../x.y": "1"}}"#, true, "unified"),
            (r#"{"unified": {"memory": "1"}}"#, true, "unified"),
            (r#"{"network": {"classID": 1}}"#, true, "network.classID"),
        ] {
            let error = settings(&resources(text), v2).expect_err(text).to_string();
            assert!(
                error.contains(&format!("linux.resources.{field}")),
                "{error}"
            );
        }
    }
}
