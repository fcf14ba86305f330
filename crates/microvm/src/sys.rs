//! The system calls that have no safe form elsewhere.
#![allow(unsafe_code)]

pub(crate) mod kvm;

use rustix::io::Errno;

/// Moves the calling process, which has one thread, into a mount namespace of its own.
pub(crate) fn unshare_mounts() -> rustix::io::Result<()> {
    // SAFETY: no pointers; a mount namespace does not affect memory or descriptors.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(last_error());
    }
    Ok(())
}

/// The processor's time stamp counter.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it touches nothing else.
    unsafe { std::arch::x86_64::_rdtsc() }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
