//! The nodes of a container's `/dev`.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use bulkhead_model::{Error, Result};
use rustix::fs::{AtFlags, Gid, Uid};
use rustix::fs::{
    FileType, Mode, chownat, fstat, major, makedev, minor, mkdirat, mknodat, symlinkat,
};
use rustix::io::Errno;

use crate::failure::Context;
use crate::mounts;

pub(crate) const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

pub(crate) const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// Makes the nodes that every container has, and for a privileged one all that the host has.
/// Legal with an empty umask.
pub(crate) fn fill(dev: &OwnedFd, privileged: bool) -> Result<()> {
    for (name, major, minor) in NODES {
        mknodat(
            dev,
            name,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(major, minor),
        )
        .host(|| format!("make /dev/{name}"))?;
    }
    for (target, name) in LINKS {
        symlinkat(target, dev, name).host(|| format!("make /dev/{name}"))?;
    }
    if privileged {
        copy_host(
            dev.as_fd()
                .try_clone_to_owned()
                .host(|| "open /dev".into())?,
            Path::new("/dev"),
        )?;
    }
    Ok(())
}

fn copy_host(directory: OwnedFd, source: &Path) -> Result<()> {
    let doing = || format!("copy the devices in {}", source.display());
    for entry in fs::read_dir(source).host(doing)?.flatten() {
        let name = entry.file_name();
        let Ok(metadata) = entry.path().symlink_metadata() else {
            continue;
        };
        let kind = metadata.file_type();
        let mode = Mode::from_raw_mode(metadata.mode() & 0o7777);
        let made = if kind.is_dir() {
            // Filesystems of their own, of which the container has its own.
            if ["pts", "shm", "mqueue", "hugepages"]
                .iter()
                .any(|own| name == *own)
            {
                continue;
            }
            mkdirat(&directory, &name, mode).host(doing)?;
            let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
            let inner = rustix::fs::openat(&directory, &name, flags, Mode::empty()).host(doing)?;
            copy_host(inner, &entry.path())?;
            continue;
        } else if kind.is_char_device() {
            mknodat(
                &directory,
                &name,
                FileType::CharacterDevice,
                mode,
                metadata.rdev(),
            )
        } else if kind.is_block_device() {
            mknodat(
                &directory,
                &name,
                FileType::BlockDevice,
                mode,
                metadata.rdev(),
            )
        } else {
            continue;
        };
        match made {
            Ok(()) => {
                let owner = Some(Uid::from_raw(metadata.uid()));
                let group = Some(Gid::from_raw(metadata.gid()));
                chownat(&directory, &name, owner, group, AtFlags::SYMLINK_NOFOLLOW).host(doing)?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error).host(doing),
        }
    }
    Ok(())
}

/// A detached mount of `/dev/null`, verified by descriptor to be it (CVE-2025-31133).
pub(crate) fn null_mount(dev: &OwnedFd) -> Result<OwnedFd> {
    let doing = || "bind /dev/null".to_owned();
    let copy = mounts::clone_mount(dev, "null").host(doing)?;
    let status = fstat(&copy).host(doing)?;
    let kind = FileType::from_raw_mode(status.st_mode);
    let device = (major(status.st_rdev), minor(status.st_rdev));
    if kind != FileType::CharacterDevice || device != (1, 3) {
        return Err(Error::host(
            "the container's /dev/null is not the null device",
        ));
    }
    Ok(copy)
}
