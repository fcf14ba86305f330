//! The process of a configuration (config.md, "Process").

use serde::Deserialize;

use super::nullable;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct Process {
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) terminal: bool,
    pub(in crate::oci) console_size: Option<ConsoleSize>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) user: User,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) env: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) cwd: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) capabilities: Capabilities,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) rlimits: Vec<ResourceLimit>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) no_new_privileges: bool,
    pub(in crate::oci) oom_score_adj: Option<i32>,
    pub(in crate::oci) apparmor_profile: Option<String>,
    pub(in crate::oci) selinux_label: Option<String>,
    pub(in crate::oci) scheduler: Option<Scheduler>,
    pub(in crate::oci) io_priority: Option<IoPriority>,
    #[serde(rename = "execCPUAffinity")]
    pub(in crate::oci) exec_cpu_affinity: Option<CpuAffinity>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct ConsoleSize {
    pub(in crate::oci) height: u16,
    pub(in crate::oci) width: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(in crate::oci) struct User {
    #[serde(default)]
    pub(in crate::oci) uid: u32,
    #[serde(default)]
    pub(in crate::oci) gid: u32,
    pub(in crate::oci) umask: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct Capabilities {
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) bounding: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) effective: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) permitted: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) inheritable: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) ambient: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct ResourceLimit {
    #[serde(rename = "type")]
    pub(in crate::oci) kind: String,
    pub(in crate::oci) soft: u64,
    pub(in crate::oci) hard: u64,
}

/// How the process is scheduled (config.md, "Linux Process": `scheduler`; sched_setattr(2)).
#[derive(Debug, Clone, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct Scheduler {
    /// `SCHED_…`.
    pub(in crate::oci) policy: String,
    pub(in crate::oci) nice: Option<i32>,
    pub(in crate::oci) priority: Option<i32>,
    /// `SCHED_FLAG_…`.
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) flags: Vec<String>,
    /// In nanoseconds, as the two below; for `SCHED_DEADLINE`.
    pub(in crate::oci) runtime: Option<u64>,
    pub(in crate::oci) deadline: Option<u64>,
    pub(in crate::oci) period: Option<u64>,
}

/// The priority for input and output (config.md, "Linux Process": `ioPriority`; ioprio_set(2)).
#[derive(Debug, Clone, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct IoPriority {
    /// `IOPRIO_CLASS_…`.
    pub(in crate::oci) class: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(in crate::oci) priority: i32,
}

/// The CPUs of a process of `exec`, before and after it has joined the container's groups
/// (config.md, "Linux Process": `execCPUAffinity`), as lists such as `0-3,7`.
#[derive(Debug, Clone, Deserialize)]
#[serde(expecting = "an object")]
pub(in crate::oci) struct CpuAffinity {
    pub(in crate::oci) initial: Option<String>,
    #[serde(rename = "final")]
    pub(in crate::oci) last: Option<String>,
}
