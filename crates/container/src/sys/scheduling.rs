//! The calls by which a thread sets how it is scheduled and where its memory comes from; each is
//! for the calling thread and what it execs.

use std::io;

use super::check;

/// `struct sched_attr` in its second version, of Linux 5.3 (sched_setattr(2)).
#[repr(C)]
#[derive(Debug, Clone, Default)]
pub(crate) struct ScheduleAttributes {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    pub(crate) utilization_minimum: u32,
    pub(crate) utilization_maximum: u32,
}

pub(crate) fn set_schedule(attributes: &ScheduleAttributes) -> io::Result<()> {
    let attributes = ScheduleAttributes {
        size: size_of::<ScheduleAttributes>() as u32,
        ..attributes.clone()
    };
    // SAFETY: the structure says its own size and outlives the call; 0 is the caller.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Sets the caller's priority for input and output.
pub(crate) fn set_io_priority(class: u16, priority: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_SHIFT: u16 = 13;
    let value = libc::c_int::from(class << IOPRIO_CLASS_SHIFT | priority);
    // SAFETY: no pointers; 0 is the caller.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// The CPUs that the caller may run on, as bits; those beyond what the kernel has count nothing.
pub(crate) fn set_affinity(cpus: &[u64]) -> io::Result<()> {
    // SAFETY: the mask has the size given and outlives the call; 0 is the caller.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(cpus),
            cpus.as_ptr(),
        )
    })
    .map(drop)
}

/// The nodes that the caller's memory comes from, as bits, by an `MPOL_*` mode with its flags.
pub(crate) fn set_memory_policy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    let (mask, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        // The kernel takes the number of bits plus one (set_mempolicy(2), BUGS).
        nodes => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: the mask has the number of bits given and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

pub(crate) fn set_personality(persona: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::personality(persona.into()) }.into()).map(drop)
}
