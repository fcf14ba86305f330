//! Paths inside a container's root, which its image and its volumes may have filled with
//! anything.
//!
//! Invariant: every path is resolved by the kernel with `RESOLVE_IN_ROOT` (CVE-2024-45310), and
//! what is mounted goes onto the descriptor found, never onto a path that could change meanwhile.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_model::{Error, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use crate::failure::Context;

/// More than any honest passwd or group file has.
const MAXIMUM_FILE: u64 = 4 << 20;

/// The root of a container, as a directory.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// The directory at a path that only the host decides.
    pub(crate) fn open(path: &std::path::Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .host(|| format!("open {}", path.display()))?;
        Ok(Self(descriptor))
    }

    pub(crate) fn find(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(
            &self.0,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    }

    /// The directory at `path`, made with its parents if it is missing.
    pub(crate) fn directory(&self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let doing = |path: &str| format!("make the directory {path} in the container");
        match self.find(path, flags) {
            Err(Errno::NOENT) => {}
            result => return result.host(|| format!("open the directory {path} in the container")),
        }
        let mut prefix = String::new();
        let mut directory = self.find("/", flags).host(|| doing("/"))?;
        for name in path
            .split('/')
            .filter(|name| !name.is_empty() && *name != ".")
        {
            prefix.push('/');
            prefix.push_str(name);
            directory = match self.find(&prefix, flags) {
                Err(Errno::NOENT) => {
                    match mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error).host(|| doing(&prefix)),
                    }
                    self.find(&prefix, flags)
                }
                result => result,
            }
            .host(|| doing(&prefix))?;
        }
        Ok(directory)
    }

    /// What is at `path` and is no directory; an empty file is made if it is missing.
    pub(crate) fn file(&self, path: &str) -> Result<OwnedFd> {
        match self.find(path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            result => return result.host(|| format!("open {path} in the container")),
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(if parent.is_empty() { "/" } else { parent })?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))
            .host(|| format!("make the file {path} in the container"))?;
        self.find(path, OFlags::PATH)
            .host(|| format!("open {path} in the container"))
    }

    /// The directory at `path`, through no symbolic link: the system's own mounts go there, and
    /// an image in which `/dev` is a link must not move them (CVE-2026-41579).
    pub(crate) fn system_directory(&self, path: &str) -> Result<OwnedFd> {
        let directory = self.directory(path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        match openat2(&self.0, path, flags, Mode::empty(), resolve) {
            Err(Errno::LOOP) => Err(Error::invalid(format!(
                "{path} in the image is a symbolic link: make it a directory"
            ))),
            Err(error) => Err(error).host(|| format!("open {path} in the container")),
            Ok(_) => Ok(directory),
        }
    }

    /// The text of a regular file; empty if there is none.
    pub(crate) fn read(&self, path: &str) -> Result<String> {
        let descriptor = match self.find(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
            result => result.host(|| format!("open {path} in the container"))?,
        };
        let file = File::from(descriptor);
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(MAXIMUM_FILE)
            .read_to_end(&mut bytes)
            .host(|| format!("read {path} in the container"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Puts a detached mount onto what a descriptor stands for.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

pub(crate) fn is_directory(descriptor: impl AsFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(descriptor)?.st_mode) == FileType::Directory)
}
