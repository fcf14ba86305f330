//! What `create` decides of a configuration before it makes anything, without the host: for the
//! fuzz targets.

use std::path::Path;

use bulkhead_model::{Error, Result};

use crate::seccomp::{Filter, OciProfile};

use super::config::{self, Config};
use super::plan::Plan;
use super::{process, resources};

/// # Errors
/// What `create` would answer to this text of a `config.json`, as far as it depends on the text.
pub fn check_configuration(text: &str) -> Result<()> {
    let config: Config = config::parse(text, "config.json")?;
    // Everything is looked at, whatever else is wrong.
    let plan = Plan::new(&config, Path::new("/"), false);
    let in_user_namespace = plan
        .as_ref()
        .is_ok_and(|plan| plan.has(libc::CLONE_NEWUSER));
    let process = config
        .process
        .as_ref()
        .ok_or_else(|| Error::invalid("process: it is missing"))
        .and_then(|process| process::workload(process, &config.linux, true, in_user_namespace));
    let [v1, v2] = [false, true].map(|v2| resources::settings(&config.linux.resources, v2));
    let devices = resources::device_rules(&config.linux.resources.devices);
    plan.and(process).and(devices).and(v1.or(v2)).map(drop)
}

/// The filter of a `linux.seccomp`; an empty one if it says nothing.
pub(crate) fn seccomp_filter(profile: &str) -> Result<Filter> {
    let profile: OciProfile = config::parse(profile, "linux.seccomp")?;
    profile.filter().map(Option::unwrap_or_default)
}
