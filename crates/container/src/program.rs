//! Our executable, as a descriptor through which nobody can write (CVE-2019-5736).
//!
//! A process of a container can open `/proc/PID/exe` of a process that joins it. So the helper,
//! and the OCI runtime itself, is run from an overlay without an upper layer, which no privilege
//! makes writable; where the kernel refuses that, from a detached read-only mount of the binary;
//! or else from a sealed copy in memory (a copy of the binary at each start).

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, copy};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use bulkhead_model::{Error, Result};
use rustix::fs::{
    CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags, fcntl_add_seals, fcntl_get_seals,
    fstatvfs, memfd_create, openat,
};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::failure::Context;
use crate::sys::{self, StringVector};
use crate::{log, mounts};

/// Where every process finds its own executable.
const OWN: &str = "/proc/self/exe";

/// Runs this program again with the same arguments, environment and descriptors, from a file
/// through which nobody can write; returns at once if it is run from one already. Legal before
/// the program has done anything.
pub(crate) fn reexecute() -> Result<()> {
    if is_protected()? {
        return Ok(());
    }
    let program = protected(Path::new(OWN))?;
    let strings = |strings: &mut dyn Iterator<Item = OsString>| {
        strings
            .map(|string| CString::new(string.into_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map(StringVector::new)
            .map_err(|error| Error::invalid("an argument contains a NUL byte").with_source(error))
    };
    let arguments = strings(&mut std::env::args_os())?;
    let environment = strings(&mut std::env::vars_os().map(|(mut entry, value)| {
        entry.push("=");
        entry.push(value);
        entry
    }))?;
    Err(sys::execute_descriptor(
        program.as_fd(),
        &arguments,
        &environment,
    ))
    .host(|| "run this program from a read-only mount".into())
}

/// Whether our own executable is on a read-only mount or sealed.
fn is_protected() -> Result<bool> {
    let own = File::open(OWN).host(|| format!("open {OWN}: mount a procfs there"))?;
    let mount = fstatvfs(&own).host(|| format!("look at {OWN}"))?;
    Ok(mount.f_flag.contains(StatVfsMountFlags::RDONLY)
        || fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

pub(crate) fn protected(program: &Path) -> Result<OwnedFd> {
    log::debug(|| "runc exeseal: using /proc/self/exe clone".into());
    if let Ok(descriptor) = overlay(program) {
        log::debug(|| "runc exeseal: using overlayfs for sealed /proc/self/exe".into());
        return Ok(descriptor);
    }
    match read_only_mount(program) {
        Ok(descriptor) => Ok(descriptor),
        Err(_) => sealed_copy(program),
    }
}

fn overlay(program: &Path) -> std::io::Result<OwnedFd> {
    let program = match fs::read_link(program) {
        Ok(path) => path,
        Err(_) => program.to_owned(),
    };
    let (Some(directory), Some(name)) =
        (program.parent().and_then(Path::to_str), program.file_name())
    else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let directory = directory.replace('\\', "\\\\").replace(':', "\\:");
    // Without an upper layer there must be two, and /sys is always there; the binary's is on top.
    let layers = ("lowerdir", format!("{directory}:/sys"));
    let attributes = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOSUID;
    let mount = mounts::filesystem("overlay", &[layers], &[], attributes)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(&mount, name, flags, Mode::empty())?)
}

fn read_only_mount(program: &Path) -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, program, flags)?;
    sys::mount_setattr(mount.as_fd(), false, sys::MOUNT_ATTR_RDONLY)?;
    Ok(mount)
}

fn sealed_copy(program: &Path) -> Result<OwnedFd> {
    let doing = || format!("copy {} to memory", program.display());
    let mut source = File::open(program).host(doing)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut target = File::from(memfd_create("bulkhead", flags).host(doing)?);
    copy(&mut source, &mut target).host(doing)?;
    target.seek(SeekFrom::Start(0)).host(doing)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&target, seals).host(doing)?;
    Ok(target.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_can_be_written() {
        let program = std::env::current_exe().expect("path");
        let mount = || read_only_mount(&program).host(|| "mount".into());
        for descriptor in [protected(&program), mount(), sealed_copy(&program)] {
            let descriptor = descriptor.expect("descriptor");
            let path = format!(
                "/proc/self/fd/{}",
                std::os::fd::AsRawFd::as_raw_fd(&descriptor)
            );
            let written = File::options()
                .write(true)
                .open(path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, b"#!"));
            let code = written.expect_err("must not be written").raw_os_error();
            assert!(
                matches!(code, Some(libc::EROFS | libc::EPERM | libc::ETXTBSY)),
                "{code:?}"
            );
        }
    }
}
