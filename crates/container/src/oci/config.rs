//! The typed form of `config.json` (OCI runtime specification 1.2, `config.md` and
//! `config-linux.md`).
//!
//! Invariant: every field that the specification has for Linux has a place here. What Bulkhead
//! does not carry out is kept as [`Refused`] and answered by its name; properties that the
//! specification does not know are ignored, as it asks.

use std::collections::BTreeMap;
use std::path::Path;

use bulkhead_model::{Error, Result};
use serde::{Deserialize, Deserializer};

/// A field that is not carried out: legal while it is absent or empty.
pub(super) type Refused = Option<serde_json::Value>;

/// Where runc's writer leaves `null` for an empty list.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    pub(super) oci_version: String,
    pub(super) process: Option<Process>,
    pub(super) root: Option<RootDirectory>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) hostname: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) domainname: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) mounts: Vec<Mount>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) hooks: Hooks,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) linux: Linux,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) terminal: bool,
    pub(super) console_size: Option<ConsoleSize>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) user: User,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) args: Vec<String>,
    pub(super) command_line: Refused,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) env: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) cwd: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) capabilities: Capabilities,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) rlimits: Vec<ResourceLimit>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) no_new_privileges: bool,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) apparmor_profile: Refused,
    pub(super) selinux_label: Refused,
    pub(super) scheduler: Refused,
    pub(super) io_priority: Refused,
    #[serde(rename = "execCPUAffinity")]
    pub(super) exec_cpu_affinity: Refused,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ConsoleSize {
    pub(super) height: u16,
    pub(super) width: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    #[serde(default)]
    pub(super) uid: u32,
    #[serde(default)]
    pub(super) gid: u32,
    pub(super) umask: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Capabilities {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) bounding: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) effective: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) permitted: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) inheritable: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) ambient: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ResourceLimit {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootDirectory {
    pub(super) path: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) readonly: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) destination: String,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) source: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) options: Vec<String>,
    pub(super) uid_mappings: Refused,
    pub(super) gid_mappings: Refused,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hooks {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) prestart: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) create_runtime: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) create_container: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) start_container: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) poststart: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) poststop: Vec<Hook>,
}

/// A program to run at a point of the life cycle (config.md, "POSIX-platform Hooks").
#[derive(Debug, Clone, Deserialize, serde::Serialize)]
pub(crate) struct Hook {
    pub(super) path: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) env: Vec<String>,
    /// In seconds.
    pub(super) timeout: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Linux {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) namespaces: Vec<Namespace>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) devices: Vec<Device>,
    pub(super) cgroups_path: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) resources: Resources,
    pub(super) rootfs_propagation: Option<String>,
    pub(super) seccomp: Option<serde_json::Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) sysctl: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) masked_paths: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) readonly_paths: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) time_offsets: BTreeMap<String, TimeOffset>,
    pub(super) net_devices: Refused,
    pub(super) uid_mappings: Refused,
    pub(super) gid_mappings: Refused,
    pub(super) mount_label: Refused,
    pub(super) intel_rdt: Refused,
    pub(super) memory_policy: Refused,
    pub(super) personality: Refused,
}

#[derive(Debug, Deserialize)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) path: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
pub(crate) struct TimeOffset {
    #[serde(default)]
    pub(super) secs: i64,
    #[serde(default)]
    pub(super) nanosecs: u32,
}

#[derive(Debug, Clone, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) path: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) major: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resources {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) devices: Vec<DeviceRule>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) memory: Memory,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) cpu: Cpu,
    pub(super) pids: Option<Pids>,
    #[serde(rename = "blockIO", default, deserialize_with = "nullable")]
    pub(super) block_io: BlockIo,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) hugepage_limits: Vec<HugepageLimit>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) unified: BTreeMap<String, String>,
    pub(super) network: Refused,
    pub(super) rdma: Refused,
}

#[derive(Debug, Deserialize)]
pub(super) struct DeviceRule {
    pub(super) allow: bool,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) access: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Memory {
    pub(super) limit: Option<i64>,
    pub(super) reservation: Option<i64>,
    pub(super) swap: Option<i64>,
    /// Deprecated: kernels from 5.16 on do not have it.
    pub(super) kernel: Option<i64>,
    #[serde(rename = "kernelTCP")]
    pub(super) kernel_tcp: Option<i64>,
    pub(super) swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    pub(super) disable_oom_killer: Option<bool>,
    pub(super) use_hierarchy: Option<bool>,
    pub(super) check_before_update: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cpu {
    pub(super) shares: Option<u64>,
    pub(super) quota: Option<i64>,
    pub(super) period: Option<u64>,
    pub(super) burst: Option<u64>,
    pub(super) realtime_runtime: Option<i64>,
    pub(super) realtime_period: Option<u64>,
    pub(super) idle: Option<i64>,
    pub(super) cpus: Option<String>,
    pub(super) mems: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pids {
    pub(super) limit: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockIo {
    pub(super) weight: Option<u16>,
    pub(super) leaf_weight: Refused,
    pub(super) weight_device: Refused,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) throttle_read_bps_device: Vec<Throttle>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) throttle_write_bps_device: Vec<Throttle>,
    #[serde(
        rename = "throttleReadIOPSDevice",
        default,
        deserialize_with = "nullable"
    )]
    pub(super) throttle_read_iops_device: Vec<Throttle>,
    #[serde(
        rename = "throttleWriteIOPSDevice",
        default,
        deserialize_with = "nullable"
    )]
    pub(super) throttle_write_iops_device: Vec<Throttle>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Throttle {
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) rate: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HugepageLimit {
    pub(super) page_size: String,
    pub(super) limit: u64,
}

/// Reads JSON text into its typed form; `name` is what the errors call it.
///
/// # Errors
/// `InvalidInput` with the JSON path and what is expected there.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(text: &str, name: &str) -> Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." {
            String::new()
        } else {
            format!("{path}: ")
        };
        Error::invalid(format!("{name}: {place}{}", error.inner()))
    })?;
    deserializer
        .end()
        .map_err(|error| Error::invalid(format!("{name}: {error}")))?;
    Ok(parsed)
}

pub(super) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::invalid(format!("read {}", path.display())).with_source(error))
}

/// # Errors
/// `Unsupported` with the field's name if anything is asked for by it.
pub(super) fn refuse(field: &str, value: &Refused) -> Result<()> {
    let empty = match value {
        None | Some(serde_json::Value::Null) => true,
        Some(serde_json::Value::String(text)) => text.is_empty(),
        Some(serde_json::Value::Array(items)) => items.is_empty(),
        Some(serde_json::Value::Object(fields)) => fields.is_empty(),
        Some(_) => false,
    };
    if empty {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{field}: this field is not supported by this version of Bulkhead: leave it out"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_path_and_what_is_expected() {
        for (text, parts) in [
            (
                r#"{"ociVersion": "1.0.2", "process": {"args": "sh"}}"#,
                ["process.args", "a sequence"],
            ),
            (r#"{"process": {}}"#, ["config.json", "ociVersion"]),
            (
                r#"{"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "pid"}, {"type": 7}]}}"#,
                ["linux.namespaces[1].type", "a string"],
            ),
            (
                r#"{"ociVersion": "1.0.2", "mounts": [{"source": "x"}]}"#,
                ["mounts[0]", "destination"],
            ),
            ("{", ["config.json", "EOF"]),
        ] {
            let error = parse::<Config>(text, "config.json")
                .expect_err(text)
                .to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn unknown_properties_and_nulls_are_taken() {
        let text = r#"{"ociVersion": "1.0.2", "x": 1, "mounts": null, "hooks": null, "linux": {"devices": null}}"#;
        parse::<Config>(text, "config.json").expect("config");
    }
}
