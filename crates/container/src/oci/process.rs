//! The process of a configuration in its decided form (config.md, "Process" and "Linux Process"):
//! what `launch` carries out, for `create` and for `exec`.

use std::collections::BTreeSet;

use bulkhead_model::capability::{NAMES, number};
use bulkhead_model::{Error, ErrorKind, ProcessSpec, Result, TerminalSize};

use crate::capabilities::{CapabilitySet, CapabilitySets};
use crate::config::{self as shared, Identity, Limit, Workload};
use crate::labels::{self, Labels};
use crate::log;
use crate::seccomp::OciProfile;

use super::attributes;
use super::bounds;
use super::config::{self, Linux, Process};

/// The process with its privileges, which in a user namespace are not limited by our own.
pub(super) fn workload(
    process: &Process,
    linux: &Linux,
    new_keyring: bool,
    in_user_namespace: bool,
) -> Result<Workload> {
    bounds::check_process(process)?;
    if process.args.first().is_none_or(String::is_empty) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "process.args: args must not be empty",
        ));
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::invalid(format!(
            "process.cwd: '{}': Cwd must be an absolute path",
            process.cwd
        )));
    }
    let size = process.console_size.as_ref().map(|size| TerminalSize {
        rows: size.height,
        columns: size.width,
    });
    // Unless told, runc leaves the size at zero.
    let size = size.unwrap_or(TerminalSize {
        rows: 0,
        columns: 0,
    });
    let spec = ProcessSpec {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        terminal: process.terminal.then_some(size),
        ..ProcessSpec::default()
    };
    shared::check_strings(&spec)?;
    let user = &process.user;
    let filter = linux
        .seccomp
        .as_ref()
        .map(OciProfile::filter)
        .transpose()?
        .flatten();
    if let Some(filter) = &filter {
        log::debug(|| format!("seccomp filter flags: {}", filter.flags()));
    }
    Ok(Workload {
        process: spec,
        user: Some(Identity {
            uid: user.uid,
            gid: user.gid,
            groups: user.additional_gids.clone(),
        }),
        capabilities: capabilities(&process.capabilities, in_user_namespace)?,
        no_new_privileges: process.no_new_privileges,
        filter,
        limits: limits(&process.rlimits)?,
        oom_score_adj: process.oom_score_adj,
        init: false,
        umask: user.umask.unwrap_or(0o022),
        tied: false,
        new_keyring,
        in_user_namespace,
        attributes: attributes::of(process, linux)?,
        labels: labels(process)?,
    })
}

fn labels(process: &Process) -> Result<Labels> {
    let label = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    let labels = Labels {
        apparmor: label(&process.apparmor_profile),
        selinux: label(&process.selinux_label),
    };
    if labels.apparmor.is_some() && !labels::apparmor_is_enabled() {
        return Err(Error::unsupported(
            "process.apparmorProfile: a profile is specified, but apparmor is not enabled on this \
             host: leave it out",
        ));
    }
    if labels.selinux.is_some() && !labels::selinux_is_enabled() {
        return Err(Error::unsupported(
            "process.selinuxLabel: selinux label is specified in config, but selinux is disabled \
             or not supported on this host: leave it out",
        ));
    }
    Ok(labels)
}

/// What cannot be granted is told of and left out, as the specification asks.
fn capabilities(sets: &config::Capabilities, in_user_namespace: bool) -> Result<CapabilitySets> {
    let available = if in_user_namespace {
        // Its root has all there (user_namespaces(7), "Capabilities").
        CapabilitySet::ALL
    } else {
        CapabilitySet::available()?
    };
    let mut ignored = BTreeSet::new();
    let mut set = |names: &[String]| {
        let mut bits = 0;
        for name in names {
            let known = name.strip_prefix("CAP_").and_then(number);
            match known
                .map(|number| 1 << number)
                .filter(|bit| available.0 & bit != 0)
            {
                Some(bit) => bits |= bit,
                None => {
                    ignored.insert(name.clone());
                }
            }
        }
        bits
    };
    let (permitted, inheritable) = (set(&sets.permitted), set(&sets.inheritable));
    let wanted = set(&sets.ambient);
    let sets = CapabilitySets {
        bounding: set(&sets.bounding),
        effective: set(&sets.effective),
        permitted,
        inheritable,
        ambient: wanted & permitted & inheritable,
    };
    if !ignored.is_empty() {
        let names: Vec<String> = ignored.into_iter().collect();
        log::warn(|| {
            format!(
                "process.capabilities: ignoring unknown or unavailable capabilities: {}",
                names.join(" ")
            )
        });
    }
    for (number, name) in NAMES.iter().enumerate() {
        if (wanted & !sets.ambient) & (1 << number) != 0 {
            log::warn(|| {
                format!(
                    "process.capabilities.ambient: can't raise ambient capability CAP_{name}: it \
                     is not both permitted and inheritable"
                )
            });
        }
    }
    Ok(sets)
}

fn limits(limits: &[config::ResourceLimit]) -> Result<Vec<Limit>> {
    let mut decided: Vec<Limit> = Vec::new();
    for (index, limit) in limits.iter().enumerate() {
        let field = format!("process.rlimits[{index}]");
        let name = limit
            .kind
            .strip_prefix("RLIMIT_")
            .map(str::to_ascii_lowercase);
        let known = shared::RESOURCES
            .iter()
            .find(|(known, _)| Some(*known) == name.as_deref());
        let Some((_, resource)) = known else {
            return Err(Error::invalid(format!(
                "{field}.type: '{}' is no limit",
                limit.kind
            )));
        };
        if limit.soft > limit.hard {
            return Err(Error::invalid(format!(
                "{field}.soft: it is above the hard limit"
            )));
        }
        decided.push(Limit {
            name: limit.kind.clone(),
            resource: *resource,
            soft: limit.soft,
            hard: limit.hard,
        });
    }
    Ok(decided)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_granted_is_left_out() {
        let names = |list: &[&str]| list.iter().map(|&name| String::from(name)).collect();
        let sets = config::Capabilities {
            bounding: names(&["CAP_CHOWN", "CAP_UNKNOWN", "CHOWN", "ALL"]),
            inheritable: names(&["CAP_KILL"]),
            permitted: names(&["CAP_CHOWN", "CAP_KILL"]),
            ambient: names(&["CAP_CHOWN", "CAP_KILL"]),
            effective: vec![],
        };
        let decided = capabilities(&sets, true).expect("sets");
        assert_eq!((decided.bounding, decided.ambient), (1, 1 << 5));
    }
}
