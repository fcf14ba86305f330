//! The helper's executable, as a descriptor through which nobody can write (CVE-2019-5736).
//!
//! A process of a container can open `/proc/PID/exe` of a process that joins it. So the helper is
//! run from an overlay without an upper layer, which no privilege makes writable; where the kernel
//! refuses that, from a detached read-only mount of the binary; or else from a sealed copy in
//! memory (a copy of the binary at each start).

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, copy};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_model::Result;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, openat};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::failure::Context;
use crate::{log, mounts, sys};

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
