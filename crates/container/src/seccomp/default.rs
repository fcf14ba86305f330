//! The profile that Docker applies by default, for this architecture.
//!
//! Invariant: an allow-list. What is not named here fails with `EPERM`, except `clone3`, which
//! fails with `ENOSYS` so that C libraries fall back to `clone`, whose flags a filter can see, and
//! what is newer than all that is named.

use crate::capabilities::CapabilitySet;

use super::rule::{Action, Comparison, Condition, Profile, Rule};

/// Allowed to everybody. (`io_uring_*` is not: Docker took it out in version 25.)
#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "bind", "brk", "cachestat",
    "capget", "capset", "chdir", "chmod", "chown", "clock_adjtime", "clock_getres",
    "clock_gettime", "clock_nanosleep", "close", "close_range", "connect", "copy_file_range",
    "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
    "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve",
    "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fallocate",
    "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl",
    "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat",
    "fstatfs", "fsync", "ftruncate", "futex", "futex_requeue", "futex_wait", "futex_waitv",
    "futex_wake", "futimesat", "get_robust_list", "get_thread_area", "getcpu", "getcwd",
    "getdents", "getdents64", "getegid", "geteuid", "getgid", "getgroups", "getitimer",
    "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom",
    "getresgid", "getresuid", "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt",
    "gettid", "gettimeofday", "getuid", "getxattr", "getxattrat", "inotify_add_watch",
    "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents",
    "io_pgetevents", "io_setup", "io_submit", "ioctl", "ioprio_get", "ioprio_set", "kill",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown",
    "lgetxattr", "link", "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr",
    "lremovexattr", "lseek", "lsetxattr", "lstat", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock",
    "mlock2", "mlockall", "mmap", "modify_ldt", "mprotect", "mq_getsetattr", "mq_notify",
    "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "mremap", "mseal", "msgctl",
    "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at",
    "nanosleep", "newfstatat", "open", "openat", "openat2", "pause", "pidfd_open",
    "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll",
    "ppoll", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease",
    "process_vm_readv", "process_vm_writev", "pselect6", "ptrace", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recvfrom", "recvmmsg",
    "recvmsg", "remap_file_pages", "removexattr", "removexattrat", "rename", "renameat",
    "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield",
    "seccomp", "select", "semctl", "semget", "semop", "semtimedop", "sendfile", "sendmmsg",
    "sendmsg", "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid",
    "setfsuid", "setgid", "setgroups", "setitimer", "setpgid", "setpriority", "setregid",
    "setresgid", "setresuid", "setreuid", "setrlimit", "setsid", "setsockopt", "setuid",
    "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "sigaltstack",
    "signalfd", "signalfd4", "socketpair", "splice", "stat", "statfs", "statmount", "statx",
    "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill",
    "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime",
    "timerfd_create", "timerfd_gettime", "timerfd_settime", "times", "tkill", "truncate", "umask",
    "uname", "unlink", "unlinkat", "uretprobe", "utime", "utimensat", "utimes", "vfork",
    "vmsplice", "wait4", "waitid", "write", "writev",
];

/// Allowed to whoever has the capability.
#[rustfmt::skip]
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
        "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount",
        "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd",
        "setdomainname", "sethostname", "setns", "syslog", "umount2", "unshare",
    ]),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_settime", "settimeofday"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

/// The personalities that programs ask for: Linux, `UNAME26`, `PER_LINUX32`, both, "tell me".
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x20000, 0x20008, 0xffff_ffff];
const AF_VSOCK: u64 = libc::AF_VSOCK as u64;
/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const NAMESPACES: u64 = 0x7e02_0000;

pub(super) fn profile(capabilities: CapabilitySet) -> Profile {
    let plain = |names: &[&'static str]| Rule {
        names: names.iter().map(|&name| name.into()).collect(),
        conditions: Vec::new(),
        action: Action::ALLOW,
    };
    let mut rules = vec![plain(ALLOWED)];
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(plain(names));
        }
    }
    let mut add = |name: &'static str, conditions: Vec<Condition>, action: Action| {
        rules.push(Rule {
            names: vec![name.into()],
            conditions,
            action,
        });
    };
    for value in PERSONALITIES {
        add(
            "personality",
            vec![first(Comparison::Equal, value)],
            Action::ALLOW,
        );
    }
    // A micro VM's or the hypervisor's sockets know no network namespace. The kernel takes the
    // family as 32 bits, so that a comparison of 64 could be passed by with a bit above them.
    let family = Comparison::MaskedNotEqual { mask: 0xffff_ffff };
    add("socket", vec![first(family, AF_VSOCK)], Action::ALLOW);
    if !capabilities.contains("SYS_ADMIN") {
        let plain = Comparison::MaskedEqual { mask: NAMESPACES };
        add("clone", vec![first(plain, 0)], Action::ALLOW);
        add("clone3", vec![], Action::errno(libc::ENOSYS as u16));
    }
    Profile {
        default: Action::errno(libc::EPERM as u16),
        others: Vec::new(),
        rules,
        flags: 0,
    }
}

fn first(comparison: Comparison, value: u64) -> Condition {
    Condition {
        argument: 0,
        comparison,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::Architecture;
    use super::super::syscalls;
    use super::*;

    #[test]
    fn every_name_is_a_call_of_this_architecture() {
        let conditional = BY_CAPABILITY.iter().flat_map(|(_, names)| *names);
        for name in ALLOWED.iter().chain(conditional) {
            let number = syscalls::number(Architecture::X86_64, name);
            assert!(number.is_some(), "{name}");
        }
    }

    #[test]
    fn capabilities_open_their_calls() {
        let allows = |bits: u64, name: &str| {
            profile(CapabilitySet(bits)).rules.iter().any(|rule| {
                rule.names.iter().any(|known| known == name)
                    && rule.conditions.is_empty()
                    && rule.action == Action::ALLOW
            })
        };
        assert!(!allows(0, "mount") && allows(1 << 21, "mount"));
        assert!(!allows(0, "clone3") && allows(1 << 21, "clone3"));
        assert!(!allows(0, "clone") && !allows(0, "keyctl") && !allows(u64::MAX, "keyctl"));
        assert!(allows(0, "openat"));
    }
}
