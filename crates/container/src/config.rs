//! What the helper is told: everything decided, nothing left to look up on the host.

use std::ffi::CString;

use bulkhead_model::{Error, ProcessSpec, Resources, Result, SandboxSpec, Security};
use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;
use crate::capabilities::{CapabilitySet, CapabilitySets};
use crate::labels::Labels;
use crate::seccomp::{self, Filter};

/// The first message to a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    Create(Box<CreateTask>),
    /// A process in the container whose init is behind the fourth descriptor.
    Exec(Box<Workload>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CreateTask {
    pub(crate) spec: SandboxSpec,
    pub(crate) workload: Workload,
    /// The mount points of the host's cgroup hierarchies that the container shall see.
    pub(crate) cgroup_mounts: Vec<crate::cgroup::View>,
}

/// A process and the privileges that it runs with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Workload {
    pub(crate) process: ProcessSpec,
    /// In place of `process.user`, which is looked up in the container's files.
    pub(crate) user: Option<Identity>,
    pub(crate) capabilities: CapabilitySets,
    pub(crate) no_new_privileges: bool,
    pub(crate) filter: Option<Filter>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) oom_score_adj: Option<i32>,
    /// A minimal init of ours stays as its parent.
    pub(crate) init: bool,
    pub(crate) umask: u32,
    /// It is killed when its parent ends.
    pub(crate) tied: bool,
    /// It gets a session keyring of its own.
    pub(crate) new_keyring: bool,
    /// It is not in the host's user namespace.
    pub(crate) in_user_namespace: bool,
    pub(crate) attributes: Attributes,
    pub(crate) labels: Labels,
}

/// A user by numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// One resource limit, by its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl Workload {
    /// # Errors
    /// `InvalidInput` where the settings make no sense, before anything is made.
    pub(crate) fn new(
        process: &ProcessSpec,
        security: &Security,
        resources: &Resources,
        init: bool,
    ) -> Result<Self> {
        check_strings(process)?;
        let mut security = security.clone();
        security.privileged |= process.privileged;
        let capabilities = CapabilitySet::of(&security, CapabilitySet::available()?)?;
        Ok(Self {
            process: process.clone(),
            user: None,
            capabilities: capabilities.into(),
            no_new_privileges: security.no_new_privileges && !security.privileged,
            filter: seccomp::filter(&security, capabilities)?,
            limits: limits(resources)?,
            oom_score_adj: resources.oom_score_adj,
            init,
            umask: 0o022,
            tied: true,
            new_keyring: true,
            in_user_namespace: false,
            attributes: Attributes::default(),
            labels: Labels::default(),
        })
    }
}

pub(crate) fn check_strings(process: &ProcessSpec) -> Result<()> {
    if process.args.first().is_none_or(String::is_empty) {
        return Err(Error::new(
            bulkhead_model::ErrorKind::CommandNotFound,
            "no command to run: give one, or use an image that has a CMD or an ENTRYPOINT",
        ));
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is not an absolute path",
            process.cwd
        )));
    }
    let all = process
        .args
        .iter()
        .chain(&process.env)
        .chain([&process.cwd, &process.user]);
    for text in all {
        if CString::new(text.as_str()).is_err() {
            return Err(Error::invalid(format!("{text:?} contains a NUL byte")));
        }
    }
    Ok(())
}

/// The resource limits of setrlimit(2), by name.
pub(crate) const RESOURCES: [(&str, u32); 16] = [
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

fn limits(resources: &Resources) -> Result<Vec<Limit>> {
    let mut limits = Vec::new();
    for ulimit in &resources.ulimits {
        let resource = RESOURCES
            .iter()
            .find(|(name, _)| *name == ulimit.name)
            .map(|(_, number)| *number)
            .ok_or_else(|| {
                let names: Vec<_> = RESOURCES.iter().map(|(name, _)| *name).collect();
                Error::invalid(format!(
                    "'{}' is no resource limit: use one of {}",
                    ulimit.name,
                    names.join(", ")
                ))
            })?;
        if ulimit.soft > ulimit.hard {
            return Err(Error::invalid(format!(
                "ulimit {}: the soft limit {} is above the hard limit {}",
                ulimit.name, ulimit.soft, ulimit.hard
            )));
        }
        limits.push(Limit {
            name: ulimit.name.clone(),
            resource,
            soft: ulimit.soft,
            hard: ulimit.hard,
        });
    }
    Ok(limits)
}
