//! What of a configuration is Linux's alone (config-linux.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::seccomp::OciProfile;

use super::{Resources, nullable};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Linux {
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) namespaces: Vec<Namespace>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) devices: Vec<Device>,
    pub(in crate::oci) cgroups_path: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) resources: Resources,
    pub(in crate::oci) rootfs_propagation: Option<String>,
    pub(in crate::oci) seccomp: Option<OciProfile>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) sysctl: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) masked_paths: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) readonly_paths: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) time_offsets: BTreeMap<String, TimeOffset>,
    /// By the name of the device on the host.
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) net_devices: BTreeMap<String, NetDevice>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) gid_mappings: Vec<IdMapping>,
    pub(in crate::oci) mount_label: Option<String>,
    pub(in crate::oci) intel_rdt: Option<IntelRdt>,
    pub(in crate::oci) memory_policy: Option<MemoryPolicy>,
    pub(in crate::oci) personality: Option<Personality>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct Namespace {
    #[serde(rename = "type")]
    pub(in crate::oci) kind: String,
    pub(in crate::oci) path: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(expecting = "an object")]
pub(crate) struct TimeOffset {
    #[serde(default)]
    pub(in crate::oci) secs: i64,
    #[serde(default)]
    pub(in crate::oci) nanosecs: u32,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(crate) struct Device {
    #[serde(rename = "type")]
    pub(in crate::oci) kind: String,
    pub(in crate::oci) path: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) major: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) minor: i64,
    pub(in crate::oci) file_mode: Option<u32>,
    pub(in crate::oci) uid: Option<u32>,
    pub(in crate::oci) gid: Option<u32>,
}

/// A range of ids in a user namespace and what they are outside (config-linux.md, "User namespace
/// mappings").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(expecting = "an object")]
pub(crate) struct IdMapping {
    #[serde(rename = "containerID")]
    pub(in crate::oci) container_id: u32,
    #[serde(rename = "hostID")]
    pub(in crate::oci) host_id: u32,
    pub(in crate::oci) size: u32,
}

/// A network device that is moved into the container (config-linux.md, "Network Devices").
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct NetDevice {
    /// Its name there; as on the host if there is none.
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) name: String,
}

/// Cache and memory bandwidth (config-linux.md, "IntelRdt").
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct IntelRdt {
    #[serde(rename = "closID", default, deserialize_with = "nullable")]
    pub(in crate::oci) clos_id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) schemata: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) l3_cache_schema: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) mem_bw_schema: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) enable_monitoring: bool,
}

/// On which nodes the container's memory is (config-linux.md, "Memory policy";
/// set_mempolicy(2)).
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct MemoryPolicy {
    /// `MPOL_…`.
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) mode: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) nodes: String,
    /// `MPOL_F_…`.
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) flags: Vec<String>,
}

/// The execution domain (config-linux.md, "Personality"; personality(2)).
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct Personality {
    /// `LINUX` or `LINUX32`.
    pub(in crate::oci) domain: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) flags: Vec<String>,
}
