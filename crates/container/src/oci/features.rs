//! `features`: what this runtime carries out (features.md and features-linux.md).
//!
//! Invariant: what the parsers refuse is not listed.

use bulkhead_model::{Error, Result};
use serde_json::json;

use bulkhead_model::capability::NAMES;

use crate::seccomp;

use super::arguments::{Arguments, Flag};
use super::plan::NAMESPACES;
use super::{SPECIFICATION, attributes, mount_options, print};

pub(super) const FLAGS: &[Flag] = &[];

pub(super) fn main(arguments: &[String]) -> Result<()> {
    Arguments::parse(arguments, FLAGS)?;
    let namespaces: Vec<&str> = NAMESPACES.iter().map(|(name, _)| *name).collect();
    let capabilities: Vec<String> = NAMES.iter().map(|name| format!("CAP_{name}")).collect();
    let supported: Vec<&str> = seccomp::FLAGS
        .iter()
        .filter(|(_, flag)| seccomp::supports(*flag))
        .map(|(name, _)| *name)
        .collect();
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPECIFICATION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options::known(),
        "linux": {
            "namespaces": namespaces,
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": seccomp::ACTIONS,
                "operators": seccomp::OPERATORS,
                "archs": seccomp::ARCHITECTURES.map(|(name, _)| name),
                "knownFlags": seccomp::FLAGS.map(|(name, _)| name),
                "supportedFlags": supported,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "mountExtensions": {"idmap": {"enabled": false}},
            "netDevices": {"enabled": true},
            "memoryPolicy": {
                "modes": attributes::MEMORY_MODES.map(|(name, _, _)| name),
                "flags": attributes::MEMORY_FLAGS.map(|(name, _)| name),
            },
        },
    });
    let text = serde_json::to_string_pretty(&features)
        .map_err(|error| Error::host("write the features").with_source(error))?;
    print(&format!("{text}\n"))
}
