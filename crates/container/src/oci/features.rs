//! `features`: what this runtime carries out (features.md and features-linux.md).
//!
//! Invariant: what the parsers refuse is not listed.

use bulkhead_model::{Error, Result};
use serde_json::json;

use bulkhead_model::capability::NAMES;

use super::arguments::{Arguments, Flag};
use super::plan::NAMESPACES;
use super::{SPECIFICATION, mount_options, print};

pub(super) const FLAGS: &[Flag] = &[];

pub(super) fn main(arguments: &[String]) -> Result<()> {
    Arguments::parse(arguments, FLAGS)?;
    let namespaces: Vec<&str> = NAMESPACES.iter().map(|(name, _)| *name).collect();
    let capabilities: Vec<String> = NAMES.iter().map(|name| format!("CAP_{name}")).collect();
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
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": ["SCMP_ARCH_X86_64"],
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_TSYNC",
                ],
                "supportedFlags": [
                    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                    "SECCOMP_FILTER_FLAG_TSYNC",
                ],
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}},
            "netDevices": {"enabled": false},
        },
    });
    let text = serde_json::to_string_pretty(&features)
        .map_err(|error| Error::host("write the features").with_source(error))?;
    print(&format!("{text}\n"))
}
