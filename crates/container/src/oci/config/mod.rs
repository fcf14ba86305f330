//! The typed form of `config.json` (OCI runtime specification 1.3, `config.md` and
//! `config-linux.md`).
//!
//! Invariant: every field that the specification has for Linux has a place here and is carried
//! out or refused by its name; properties that the specification does not know are ignored, as it
//! asks.

mod linux;
mod process;
mod resources;

use std::collections::BTreeMap;
use std::path::Path;

use bulkhead_model::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use linux::{Device, IdMapping, TimeOffset};
pub(in crate::oci) use linux::{IntelRdt, Linux, MemoryPolicy, Namespace, NetDevice, Personality};
pub(in crate::oci) use process::{Capabilities, IoPriority, Process, ResourceLimit, Scheduler};
pub(in crate::oci) use resources::{
    BlockIo, Cpu, DeviceRule, Memory, Network, Resources, Throttle,
};

/// Where runc's writer leaves `null` for an empty list.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Config {
    pub(in crate::oci) oci_version: String,
    pub(in crate::oci) process: Option<Process>,
    pub(in crate::oci) root: Option<RootDirectory>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) hostname: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) domainname: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) mounts: Vec<Mount>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) hooks: Hooks,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) linux: Linux,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct RootDirectory {
    pub(in crate::oci) path: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) readonly: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Mount {
    pub(in crate::oci) destination: String,
    #[serde(rename = "type")]
    pub(in crate::oci) kind: Option<String>,
    pub(in crate::oci) source: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) options: Vec<String>,
    /// For an id-mapped mount (config.md, "Mounts").
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) gid_mappings: Vec<IdMapping>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Hooks {
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) prestart: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) create_runtime: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) create_container: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) start_container: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) poststart: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) poststop: Vec<Hook>,
}

impl Hooks {
    pub(in crate::oci) fn is_empty(&self) -> bool {
        let Self {
            prestart,
            create_runtime,
            create_container,
            start_container,
            poststart,
            poststop,
        } = self;
        [
            prestart,
            create_runtime,
            create_container,
            start_container,
            poststart,
            poststop,
        ]
        .iter()
        .all(|hooks| hooks.is_empty())
    }
}

/// A program to run at a point of the life cycle (config.md, "POSIX-platform Hooks").
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(expecting = "an object")]
pub(crate) struct Hook {
    pub(in crate::oci) path: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) env: Vec<String>,
    /// In seconds.
    pub(in crate::oci) timeout: Option<u64>,
}

/// Reads JSON text into its typed form; `name` is what the errors call it.
///
/// # Errors
/// `InvalidInput` with the JSON path and what is expected there.
pub(in crate::oci) fn parse<T: for<'de> Deserialize<'de>>(text: &str, name: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        // To keep account of the path costs time and memory, and most configurations are valid.
        let place = place_of_error::<T>(text).unwrap_or_default();
        Error::invalid(format!("{name}: {place}{error}"))
    })
}

/// The JSON path at which the text is not of the type, to be put before what is wrong there.
fn place_of_error<T: for<'de> Deserialize<'de>>(text: &str) -> Option<String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let error = serde_path_to_error::deserialize::<_, T>(&mut deserializer).err()?;
    let path = error.path().to_string();
    // At the top, or where the text ends before it is known what is there.
    (!matches!(path.as_str(), "." | "?")).then(|| format!("{}: ", path.trim_end_matches(".?")))
}

pub(in crate::oci) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::invalid(format!("read {}", path.display())).with_source(error))
}

/// # Errors
/// `Unsupported` with the field's name if it is `present`.
pub(in crate::oci) fn refuse(field: &str, present: bool) -> Result<()> {
    if !present {
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
