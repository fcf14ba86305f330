//! The process of a configuration in its decided form (config.md, "Process" and "Linux Process"):
//! what `launch` carries out, for `create` and for `exec`.

use bulkhead_model::{Error, ErrorKind, ProcessSpec, Result, TerminalSize};

use crate::capabilities::{CapabilitySet, CapabilitySets};
use crate::config::{self as shared, Identity, Limit, Workload};
use crate::seccomp;

use super::bounds;
use super::config::{self, Process};

/// The process with its privileges, which in a user namespace are not limited by our own.
pub(super) fn workload(
    process: &Process,
    filter: Option<&serde_json::Value>,
    new_keyring: bool,
    in_user_namespace: bool,
) -> Result<Workload> {
    let label = |label: &Option<String>| label.as_deref().is_some_and(|label| !label.is_empty());
    for (field, present) in [
        ("process.apparmorProfile", label(&process.apparmor_profile)),
        ("process.selinuxLabel", label(&process.selinux_label)),
        ("process.scheduler", process.scheduler.is_some()),
        ("process.ioPriority", process.io_priority.is_some()),
        (
            "process.execCPUAffinity",
            process.exec_cpu_affinity.is_some(),
        ),
    ] {
        config::refuse(field, present)?;
    }
    bounds::check_process(process)?;
    if process.args.first().is_none_or(String::is_empty) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "process.args: it must not be empty",
        ));
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::invalid(format!(
            "process.cwd: '{}' is not an absolute path",
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
    check_identity(process)?;
    Ok(Workload {
        process: spec,
        user: Some(Identity {
            uid: user.uid,
            gid: user.gid,
            groups: user.additional_gids.clone(),
        }),
        capabilities: capabilities(&process.capabilities, in_user_namespace)?,
        no_new_privileges: process.no_new_privileges,
        filter: filter.map(filter_of).transpose()?,
        limits: limits(&process.rlimits)?,
        oom_score_adj: process.oom_score_adj,
        init: false,
        umask: user.umask.unwrap_or(0o022),
        tied: false,
        new_keyring,
        in_user_namespace,
    })
}

/// # Errors
/// `InvalidInput` for the number that tells the kernel to leave a user or group as it is: the
/// process would stay root (CVE-2026-30892).
fn check_identity(process: &Process) -> Result<()> {
    let user = &process.user;
    let groups = user.additional_gids.iter().enumerate();
    let groups = groups.map(|(index, gid)| (format!("additionalGids[{index}]"), *gid));
    let numbers = [("uid".to_owned(), user.uid), ("gid".to_owned(), user.gid)];
    for (field, number) in numbers.into_iter().chain(groups) {
        if number == u32::MAX {
            return Err(Error::invalid(format!(
                "process.user.{field}: {number} is nobody's number"
            )));
        }
    }
    Ok(())
}

fn filter_of(profile: &serde_json::Value) -> Result<seccomp::Filter> {
    for name in ["listenerPath", "listenerMetadata"] {
        config::refuse(
            &format!("linux.seccomp.{name}"),
            profile.get(name).is_some_and(|value| !value.is_null()),
        )?;
    }
    let mut profile = profile.clone();
    if let Some(fields) = profile.as_object_mut() {
        fields.retain(|name, value| {
            !value.is_null() && !matches!(name.as_str(), "listenerPath" | "listenerMetadata")
        });
    }
    seccomp::of_profile(&profile.to_string())
        .map_err(|error| Error::new(error.kind(), "linux.seccomp").with_source(error))
}

fn capabilities(sets: &config::Capabilities, in_user_namespace: bool) -> Result<CapabilitySets> {
    let available = if in_user_namespace {
        // Its root has all there (user_namespaces(7), "Capabilities").
        CapabilitySet::ALL
    } else {
        CapabilitySet::available()?
    };
    let set = |name: &str, names: &[String]| -> Result<u64> {
        CapabilitySet::named(names, available)
            .map(|set| set.0)
            .map_err(|error| {
                let field = format!("process.capabilities.{name}");
                Error::new(error.kind(), field).with_source(error)
            })
    };
    Ok(CapabilitySets {
        bounding: set("bounding", &sets.bounding)?,
        effective: set("effective", &sets.effective)?,
        permitted: set("permitted", &sets.permitted)?,
        inheritable: set("inheritable", &sets.inheritable)?,
        // One that is not permitted and inheritable too cannot be ambient (capabilities(7)).
        ambient: set("ambient", &sets.ambient)?
            & set("permitted", &sets.permitted)?
            & set("inheritable", &sets.inheritable)?,
    })
}

fn limits(limits: &[config::ResourceLimit]) -> Result<Vec<Limit>> {
    let limit = |(index, limit): (usize, &config::ResourceLimit)| {
        let field = format!("process.rlimits[{index}]");
        let name = limit
            .kind
            .strip_prefix("RLIMIT_")
            .map(str::to_ascii_lowercase);
        let known = shared::RESOURCES
            .iter()
            .find(|(known, _)| Some(*known) == name.as_deref());
        let Some((name, resource)) = known else {
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
        Ok(Limit {
            name: (*name).into(),
            resource: *resource,
            soft: limit.soft,
            hard: limit.hard,
        })
    };
    limits.iter().enumerate().map(limit).collect()
}
