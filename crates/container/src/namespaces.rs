//! Which namespaces a container has of its own, and what is set in them.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};

use bulkhead_model::{Error, NetworkMode, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::failure::Context;
use crate::sys;

/// For the clone of the container's first process. The cgroup namespace is not among them: it
/// is made when the process is in its cgroup, which then is its root.
pub(crate) fn clone_flags(network: &NetworkMode) -> i32 {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    match network {
        NetworkMode::Host => flags,
        NetworkMode::None | NetworkMode::Bridge(_) => flags | libc::CLONE_NEWNET,
    }
}

/// Sets up the cgroup, UTS and network namespaces of the container's first process.
pub(crate) fn set_up(hostname: &str, network: &NetworkMode) -> Result<()> {
    sys::unshare(libc::CLONE_NEWCGROUP).host(|| "make a cgroup namespace".into())?;
    if !hostname.is_empty() {
        rustix::system::sethostname(hostname.as_bytes())
            .host(|| format!("set the host name '{hostname}'"))?;
    }
    if *network != NetworkMode::Host {
        sys::loopback_up().host(|| "set the loopback interface up".into())?;
    }
    Ok(())
}

/// Joins all namespaces of the process behind `pidfd`; a process cloned then is in its PID
/// namespace too.
pub(crate) fn join(pidfd: BorrowedFd<'_>) -> Result<()> {
    let flags = libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP;
    sys::setns(pidfd, flags).host(|| "join the container's namespaces".into())
}

/// # Errors
/// `InvalidInput` for what is not the container's own: it would change the host.
pub(crate) fn check_sysctls(sysctls: &BTreeMap<String, String>, own_network: bool) -> Result<()> {
    for name in sysctls.keys() {
        let ipc = [
            "kernel.msgmax",
            "kernel.msgmnb",
            "kernel.msgmni",
            "kernel.sem",
        ];
        let own = ipc.contains(&name.as_str())
            || name.starts_with("kernel.shm")
            || name.starts_with("fs.mqueue.");
        let network_own = name.starts_with("net.") && own_network;
        let well_formed = name.split(['.', '/']).all(|part| !part.is_empty());
        if !(own || network_own) || !well_formed {
            return Err(Error::invalid(format!(
                "the sysctl '{name}' cannot be set for one container: net.* (without host \
                 network), kernel.msg*, kernel.sem, kernel.shm* and fs.mqueue.* can"
            )));
        }
    }
    Ok(())
}

/// Writes the sysctls through a handle of the container's procfs.
pub(crate) fn set_sysctls(proc: &OwnedFd, sysctls: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in sysctls {
        // With slashes dots stand for themselves (`net/ipv4/conf/eth0.1/…`), as in sysctl(8).
        let path = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let descriptor = openat2(proc, format!("sys/{path}"), flags, Mode::empty(), resolve)
            .host(|| format!("set the sysctl {name}"))?;
        std::fs::File::from(descriptor)
            .write_all(value.as_bytes())
            .host(|| format!("set the sysctl {name} to '{value}'"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_the_containers_own_are_taken() {
        let check = |name: &str, network| {
            check_sysctls(
                &BTreeMap::from([(name.to_owned(), "1".to_owned())]),
                network != NetworkMode::Host,
            )
            .is_ok()
        };
        assert!(check("net.core.somaxconn", NetworkMode::None));
        assert!(!check("net.core.somaxconn", NetworkMode::Host));
        assert!(
            check("kernel.shmmax", NetworkMode::Host)
                && check("fs.mqueue.msg_max", NetworkMode::Host)
        );
        for name in [
            "kernel.panic",
            "kernel.hostname",
            "vm.swappiness",
            "net..x",
            "net.",
            "fs.file-max",
        ] {
            assert!(!check(name, NetworkMode::None), "{name}");
        }
    }
}
