//! The limits of a configuration (config-linux.md, "Control groups").

use std::collections::BTreeMap;

use serde::Deserialize;

use super::nullable;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Resources {
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) devices: Vec<DeviceRule>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) memory: Memory,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) cpu: Cpu,
    pub(in crate::oci) pids: Option<Pids>,
    #[serde(rename = "blockIO", default, deserialize_with = "nullable")]
    pub(in crate::oci) block_io: BlockIo,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) hugepage_limits: Vec<HugepageLimit>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) unified: BTreeMap<String, String>,
    pub(in crate::oci) network: Option<Network>,
    /// By the name of the device.
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) rdma: BTreeMap<String, Rdma>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct DeviceRule {
    pub(in crate::oci) allow: bool,
    #[serde(rename = "type")]
    pub(in crate::oci) kind: Option<String>,
    pub(in crate::oci) major: Option<i64>,
    pub(in crate::oci) minor: Option<i64>,
    pub(in crate::oci) access: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Memory {
    pub(in crate::oci) limit: Option<i64>,
    pub(in crate::oci) reservation: Option<i64>,
    pub(in crate::oci) swap: Option<i64>,
    /// Deprecated: kernels from 5.16 on do not have it.
    pub(in crate::oci) kernel: Option<i64>,
    #[serde(rename = "kernelTCP")]
    pub(in crate::oci) kernel_tcp: Option<i64>,
    pub(in crate::oci) swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    pub(in crate::oci) disable_oom_killer: Option<bool>,
    pub(in crate::oci) use_hierarchy: Option<bool>,
    pub(in crate::oci) check_before_update: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Cpu {
    pub(in crate::oci) shares: Option<u64>,
    pub(in crate::oci) quota: Option<i64>,
    pub(in crate::oci) period: Option<u64>,
    pub(in crate::oci) burst: Option<u64>,
    pub(in crate::oci) realtime_runtime: Option<i64>,
    pub(in crate::oci) realtime_period: Option<u64>,
    pub(in crate::oci) idle: Option<i64>,
    pub(in crate::oci) cpus: Option<String>,
    pub(in crate::oci) mems: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct Pids {
    pub(in crate::oci) limit: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct BlockIo {
    pub(in crate::oci) weight: Option<u16>,
    pub(in crate::oci) leaf_weight: Option<u16>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) weight_device: Vec<WeightDevice>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) throttle_read_bps_device: Vec<Throttle>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) throttle_write_bps_device: Vec<Throttle>,
    #[serde(
        rename = "throttleReadIOPSDevice",
        default,
        deserialize_with = "nullable"
    )]
    pub(in crate::oci) throttle_read_iops_device: Vec<Throttle>,
    #[serde(
        rename = "throttleWriteIOPSDevice",
        default,
        deserialize_with = "nullable"
    )]
    pub(in crate::oci) throttle_write_iops_device: Vec<Throttle>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct Throttle {
    pub(in crate::oci) major: i64,
    pub(in crate::oci) minor: i64,
    pub(in crate::oci) rate: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct HugepageLimit {
    #[serde(alias = "pagesize")]
    pub(in crate::oci) page_size: String,
    pub(in crate::oci) limit: u64,
}

/// The weight of one block device's (config-linux.md, "Block IO").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct WeightDevice {
    pub(in crate::oci) major: i64,
    pub(in crate::oci) minor: i64,
    pub(in crate::oci) weight: Option<u16>,
    pub(in crate::oci) leaf_weight: Option<u16>,
}

/// The class and priorities of what is sent (config-linux.md, "Network").
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Network {
    #[serde(rename = "classID")]
    pub(in crate::oci) class_id: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) priorities: Vec<InterfacePriority>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct InterfacePriority {
    pub(in crate::oci) name: String,
    pub(in crate::oci) priority: u32,
}

/// The limits of one RDMA device (config-linux.md, "RDMA").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Rdma {
    pub(in crate::oci) hca_handles: Option<u32>,
    pub(in crate::oci) hca_objects: Option<u32>,
}
