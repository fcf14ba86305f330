//! How a process is scheduled and where its memory comes from: what it inherits over exec.

use bulkhead_model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::failure::Context;
use crate::sys::{self, ScheduleAttributes};

/// What is set is set once; what is `None` stays as the process has it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub(crate) schedule: Option<Schedule>,
    pub(crate) io_priority: Option<IoPriority>,
    /// `PER_*`.
    pub(crate) personality: Option<u32>,
    pub(crate) memory_policy: Option<MemoryPolicy>,
}

/// The arguments of sched_setattr(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

pub(crate) const SCHED_DEADLINE: u32 = 6;

/// The arguments of ioprio_set(2).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct IoPriority {
    pub(crate) class: u16,
    pub(crate) priority: u16,
}

/// The arguments of set_mempolicy(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MemoryPolicy {
    /// `MPOL_*` with `MPOL_F_*`.
    pub(crate) mode: i32,
    /// As bits.
    pub(crate) nodes: Vec<u64>,
}

/// The CPUs of a process that has joined its groups.
#[derive(Debug)]
pub(crate) enum Affinity {
    /// As its groups have left it.
    Kept,
    /// Whatever its groups allow, whoever started it.
    All,
    /// As bits.
    These(Vec<u64>),
}

impl Attributes {
    /// # Errors
    /// `Host` with the field that the kernel refuses.
    pub(crate) fn apply(&self) -> Result<()> {
        if let Some(schedule) = &self.schedule {
            schedule.apply()?;
        }
        if let Some(io) = self.io_priority {
            sys::set_io_priority(io.class, io.priority).host(|| {
                "process.ioPriority: set the priority, which needs CAP_SYS_NICE for \
                 IOPRIO_CLASS_RT"
                    .into()
            })?;
        }
        if let Some(personality) = self.personality {
            sys::set_personality(personality)
                .host(|| "linux.personality: set the execution domain".into())?;
        }
        if let Some(policy) = &self.memory_policy {
            sys::set_memory_policy(policy.mode, &policy.nodes)
                .host(|| "linux.memoryPolicy: set the memory policy".into())?;
        }
        Ok(())
    }
}

impl Schedule {
    fn apply(&self) -> Result<()> {
        let attributes = ScheduleAttributes {
            policy: self.policy,
            flags: self.flags,
            nice: self.nice,
            priority: self.priority,
            runtime: self.runtime,
            deadline: self.deadline,
            period: self.period,
            ..ScheduleAttributes::default()
        };
        sys::set_schedule(&attributes).map_err(|error| {
            let message = match error.raw_os_error() {
                Some(libc::EPERM) if self.policy == SCHED_DEADLINE => {
                    "process.scheduler: SCHED_DEADLINE needs CAP_SYS_NICE and all CPUs: process \
                     scheduler can't be used together with AllowedCPUs \
                     (linux.resources.cpu.cpus)"
                }
                Some(libc::EPERM) => {
                    "process.scheduler: set the schedule, which needs CAP_SYS_NICE"
                }
                _ => "process.scheduler: set the schedule",
            };
            Error::new(ErrorKind::Host, message).with_source(error)
        })
    }
}

impl Affinity {
    /// # Errors
    /// `Host` if none of these CPUs is there.
    pub(crate) fn apply(&self) -> Result<()> {
        // More than any kernel has; what is too much counts nothing (sched_setaffinity(2)).
        const EVERY: [u64; 128] = [u64::MAX; 128];
        let cpus = match self {
            Affinity::Kept => return Ok(()),
            Affinity::All => EVERY.as_slice(),
            Affinity::These(cpus) => cpus,
        };
        sys::set_affinity(cpus)
            .host(|| "process.execCPUAffinity: set the CPUs of the process".into())
    }
}
