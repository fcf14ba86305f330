//! The helper's executable, as a descriptor through which nobody can write (CVE-2019-5736).
//!
//! A process of a container can open `/proc/PID/exe` of a process that joins it. So the helper is
//! run from a detached read-only mount of the binary (10 µs), or, where the kernel refuses that,
//! from a sealed copy in memory (a copy of the binary at each start).

use std::fs::File;
use std::io::{Seek, SeekFrom, copy};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_model::Result;
use rustix::fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::failure::Context;
use crate::sys;

pub(crate) fn protected(program: &Path) -> Result<OwnedFd> {
    match read_only_mount(program) {
        Ok(descriptor) => Ok(descriptor),
        Err(_) => sealed_copy(program),
    }
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
    fn neither_form_can_be_written() {
        let program = std::env::current_exe().expect("path");
        for descriptor in [protected(&program), sealed_copy(&program)] {
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
