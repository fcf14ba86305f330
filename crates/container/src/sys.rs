//! The system calls for which neither std nor rustix has a safe form.
//!
//! Invariant: the only module of the crate with `unsafe`; every function here is safe to call
//! from the single-threaded helper, and those marked so from any thread.
#![allow(unsafe_code)]

mod filter;
mod scheduling;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

pub(crate) use filter::{Instruction, install_filter, knows_filter_flags};
pub(crate) use scheduling::{
    ScheduleAttributes, set_affinity, set_io_priority, set_memory_policy, set_personality,
    set_schedule,
};

/// `MOUNT_ATTR_RDONLY` of `mount_setattr(2)`.
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x4;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// The bits of the access time settings, of which `relatime` is zero.
pub(crate) const MOUNT_ATTR_ATIME: u64 = 0x70;
pub(crate) const MOUNT_ATTR_NOATIME: u64 = 0x10;
pub(crate) const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub(crate) const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
pub(crate) const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Forks with the `CLONE_*` flags given; `None` in the child.
///
/// Legal only in a process with one thread: the child has a copy of the caller's memory.
pub(crate) fn clone_process(flags: libc::c_int) -> io::Result<Option<u32>> {
    let flags = flags as libc::c_ulong | libc::SIGCHLD as libc::c_ulong;
    // SAFETY: without CLONE_VM and with no new stack this is fork(2): the child goes on with a
    // copy of everything. The process has one thread, so no lock is held by another.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) })?;
    Ok((pid != 0).then_some(pid as u32))
}

#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// As [`clone_process`], with the child in the group of cgroup v2 from its first instant
/// (Linux 5.7). `EINVAL` for flags that only clone(2) knows.
pub(crate) fn clone_into_cgroup(
    flags: libc::c_int,
    directory: BorrowedFd<'_>,
) -> io::Result<Option<u32>> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // With CLONE_PARENT the signal is the caller's own, and none may be given.
    let signal = if flags & libc::CLONE_PARENT == 0 {
        libc::SIGCHLD as u64
    } else {
        0
    };
    let arguments = CloneArguments {
        flags: u64::from(flags as u32) | CLONE_INTO_CGROUP,
        exit_signal: signal,
        cgroup: directory.as_raw_fd() as u64,
        ..CloneArguments::default()
    };
    // SAFETY: as in `clone_process`; the structure has the size given and outlives the call.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<CloneArguments>(),
        )
    })?;
    Ok((pid != 0).then_some(pid as u32))
}

pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Joins the namespaces named by `flags` of the process behind `pidfd` (Linux 5.8), or the one
/// behind a descriptor of a namespace.
pub(crate) fn setns(pidfd: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed; the descriptor is borrowed for the call.
    check(unsafe { libc::setns(pidfd.as_raw_fd(), flags) }.into()).map(drop)
}

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets attributes of the mount behind `mount` (Linux 5.12).
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, set: u64) -> io::Result<()> {
    change_mount(mount, recursive, set, 0, 0)
}

/// Sets and clears attributes, and sets the propagation (an `MS_*` flag, 0 to leave it).
pub(crate) fn change_mount(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    let attributes = MountAttributes {
        set,
        clear,
        propagation,
        user_namespace: 0,
    };
    set_mount_attributes(mount, recursive, &attributes)
}

/// Maps the ids of a detached mount as the user namespace has them (Linux 5.12).
pub(crate) fn map_mount_ids(
    mount: BorrowedFd<'_>,
    recursive: bool,
    user_namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    let attributes = MountAttributes {
        set: MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        user_namespace: user_namespace.as_raw_fd() as u64,
    };
    set_mount_attributes(mount, recursive, &attributes)
}

fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: &MountAttributes,
) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a NUL-terminated empty string, the structure has the size given, and
    // both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// Closes all descriptors from `first` on, or marks them close-on-exec.
pub(crate) fn close_from(first: u32, only_on_exec: bool) -> io::Result<()> {
    let flags = if only_on_exec {
        libc::CLOSE_RANGE_CLOEXEC
    } else {
        0
    };
    // SAFETY: no pointers; descriptors at and above `first` are not used by the caller any more
    // (it leaves their owners undropped, see `launch`).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// As [`close_from`], without `kept`.
pub(crate) fn close_others(first: u32, kept: Option<RawFd>) -> io::Result<()> {
    let Some(kept) = kept.map(|kept| kept as u32).filter(|kept| *kept >= first) else {
        return close_from(first, false);
    };
    if kept > first {
        // SAFETY: no pointers; the descriptors belong to nobody.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, kept - 1, 0) })?;
    }
    close_from(kept + 1, false)
}

/// Puts `source` at the descriptor number `target`, inherited over exec unless `on_exec`.
pub(crate) fn duplicate_to(
    source: BorrowedFd<'_>,
    target: RawFd,
    close_on_exec: bool,
) -> io::Result<()> {
    if source.as_raw_fd() == target {
        let flag = if close_on_exec { libc::FD_CLOEXEC } else { 0 };
        // SAFETY: changes a flag of an open descriptor.
        return check(unsafe { libc::fcntl(target, libc::F_SETFD, flag) }.into()).map(drop);
    }
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: no pointers; `target` is one of the low numbers that the helper gives away.
    check(unsafe { libc::dup3(source.as_raw_fd(), target, flags) }.into()).map(drop)
}

/// Takes over the descriptor `raw` which the process was started with.
pub(crate) fn inherited(raw: RawFd) -> OwnedFd {
    // SAFETY: called once per number by the helper's entry, for descriptors that the parent put
    // there and that nothing else in the process owns.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// As [`inherited`], closed on exec.
///
/// # Errors
/// `EBADF` if it is not open.
pub(crate) fn take_inherited(raw: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: changes a flag of a descriptor, if it is one.
    check(unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    Ok(inherited(raw))
}

fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> io::Result<()> {
    // SAFETY: only options without pointer arguments are used below.
    check(
        unsafe {
            libc::prctl(
                option,
                first,
                second,
                0 as libc::c_ulong,
                0 as libc::c_ulong,
            )
        }
        .into(),
    )
    .map(drop)
}

/// Asks for `signal` when the thread that is our parent ends.
pub(crate) fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0)
}

/// Unless set, processes without `CAP_SYS_PTRACE` are kept away from our `/proc/PID` files, and
/// so are we where we have no privileges on the host.
pub(crate) fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), 0)
}

pub(crate) fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Keeps the permitted capabilities over the change to another user.
pub(crate) fn set_keep_capabilities(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0)
}

pub(crate) fn drop_bounding_capability(number: u32) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, number.into(), 0)
}

pub(crate) fn clear_ambient_capabilities() -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
        0,
    )
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The permitted capabilities of the calling thread.
pub(crate) fn permitted_capabilities() -> io::Result<u64> {
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 takes a header and two data structures, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Adds to the ambient capabilities one that is permitted and inheritable.
pub(crate) fn raise_ambient_capability(number: u32) -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
        number.into(),
    )
}

pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| CapabilityData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes a header and two data structures, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Sets the supplementary groups. The calls here and below go to the kernel directly, as this
/// process has one thread.
pub(crate) fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the group list outlives the call and has the length given.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Becomes the user.
pub(crate) fn set_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: only numbers are passed.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Strings in the form that `execve(2)` takes, made before the process gives anything up.
pub(crate) struct StringVector {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl StringVector {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self {
            _strings: strings,
            pointers,
        }
    }
}

/// Replaces the program; returns only if that fails.
pub(crate) fn execute(
    path: &CStr,
    arguments: &StringVector,
    environment: &StringVector,
) -> io::Error {
    // SAFETY: both vectors end with a null pointer, and the strings live in them.
    unsafe {
        libc::execve(
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        );
    }
    io::Error::last_os_error()
}

/// As [`execute`], for the file behind a descriptor.
pub(crate) fn execute_descriptor(
    file: BorrowedFd<'_>,
    arguments: &StringVector,
    environment: &StringVector,
) -> io::Error {
    // SAFETY: the path is empty and NUL-terminated, both vectors end with a null pointer, and the
    // strings live in them.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Gives every signal its default action and blocks none: Rust ignores `SIGPIPE`, and what is
/// ignored or blocked stays so over exec.
pub(crate) fn reset_signals() {
    // SAFETY: sets default dispositions only; errors (SIGKILL, SIGSTOP) are of no consequence.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut empty = std::mem::zeroed();
        libc::sigemptyset(&raw mut empty);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut());
    }
}

/// Ends the process at the signals that ask for its end: PID 1 of a namespace would ignore them,
/// as no default action applies to it. [`reset_signals`] takes it back.
pub(crate) fn exit_on_signals() {
    extern "C" fn exit(signal: i32) {
        // SAFETY: `_exit` may be called in a handler (signal-safety(7)).
        unsafe { libc::_exit(128 + signal) }
    }
    let handler = exit as extern "C" fn(i32) as libc::sighandler_t;
    // SAFETY: the handler calls nothing but `_exit`.
    unsafe {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            libc::signal(signal, handler);
        }
    }
}

/// Blocks all signals, so that [`wait_for_signal`] gets them.
pub(crate) fn block_signals() {
    // SAFETY: fills and sets a signal set on the stack.
    unsafe {
        let mut full = std::mem::zeroed();
        libc::sigfillset(&raw mut full);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const full, ptr::null_mut());
    }
}

/// Blocks until a signal arrives and takes it.
pub(crate) fn wait_for_signal() -> io::Result<i32> {
    // SAFETY: waits with a full signal set on the stack; no information structure is asked for.
    let signal = unsafe {
        let mut full = std::mem::zeroed();
        libc::sigfillset(&raw mut full);
        libc::sigwaitinfo(&raw const full, ptr::null_mut())
    };
    check(signal.into()).map(|signal| signal as i32)
}

pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Sends any of the signals 1 to 64, the real-time ones included.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null pointer asks for the information that kill(2) would send.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Waits for a child (or any, with -1) and gives its raw status; `None` if `WNOHANG` was given
/// and none has ended.
pub(crate) fn wait_process(pid: i32, options: i32) -> io::Result<Option<(u32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: the status outlives the call.
        match check(unsafe { libc::waitpid(pid, &raw mut status, options) }.into()) {
            Ok(0) => return Ok(None),
            Ok(pid) => return Ok(Some((pid as u32, status))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The exit code that a raw wait status stands for: 128 plus the signal if one ended it.
pub(crate) fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

/// Ends the process at once, without running anything of Rust's.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

pub(crate) fn set_resource_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the structure outlives the call; pid 0 is the caller.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            ptr::null_mut::<libc::rlimit>(),
        )
    })
    .map(drop)
}

/// Starts a session keyring of our own, so that the host's cannot be reached.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    match check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<libc::c_char>(),
        )
    }) {
        // A kernel without keyrings has nothing to protect.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        result => result.map(drop),
    }
}

/// Sets the interface `lo` of the calling thread's network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: opens a socket; the descriptor is owned at once.
    let socket = unsafe {
        let raw =
            check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into())?;
        OwnedFd::from_raw_fd(raw as RawFd)
    };
    // SAFETY: an all-zero `ifreq` is valid; the name is shorter than its array and stays
    // NUL-terminated; the structure outlives the calls.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        check(
            libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCGIFFLAGS as _,
                &raw mut request,
            )
            .into(),
        )?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(
            libc::ioctl(
                socket.as_raw_fd(),
                libc::SIOCSIFFLAGS as _,
                &raw mut request,
            )
            .into(),
        )?;
    }
    Ok(())
}

/// Makes the terminal the controlling terminal of the calling session leader.
pub(crate) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a number, not a pointer.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) }.into()).map(drop)
}

/// Calls `bpf(2)` with an attribute structure.
pub(crate) fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: the structure is `repr(C)` with its unused part zero and outlives the call; the
    // pointers in it are kept alive by the caller (`cgroup::device_filter`).
    check(unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) })
}

/// Takes over a descriptor that a system call returned.
pub(crate) fn returned(raw: i64) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(raw as RawFd) }
}

/// A copy of the descriptor `raw`, which the process was started with, closed on exec.
///
/// # Errors
/// `EBADF` if it is not open.
pub(crate) fn duplicate(raw: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers; the new descriptor is owned at once.
    unsafe {
        let copy = check(libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 3).into())?;
        Ok(OwnedFd::from_raw_fd(copy as RawFd))
    }
}
