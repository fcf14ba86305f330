//! Paths inside a container's root, which its image and its volumes may have filled with
//! anything.
//!
//! Invariant: every path is resolved by the kernel with `RESOLVE_IN_ROOT` (CVE-2024-45310), and
//! what is mounted goes onto the descriptor found, never onto a path that could change meanwhile.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_model::{Error, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use crate::failure::Context;

/// More than any honest passwd or group file has.
const MAXIMUM_FILE: u64 = 4 << 20;

/// As many as the kernel follows in one path (path_resolution(7)).
const MAXIMUM_LINKS: u32 = 40;

/// What became of making directories.
enum Made {
    Here(OwnedFd),
    /// A link on the way leads to this path.
    Elsewhere(String),
}

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

    /// The directory behind a descriptor.
    pub(crate) fn of(descriptor: OwnedFd) -> Self {
        Self(descriptor)
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

    /// The directory at `path`, made with its parents if it is missing. A link that leads nowhere
    /// is followed to the place in the root that it names, and that is made.
    pub(crate) fn directory(&self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.find(path, flags) {
            Err(Errno::NOENT) => {}
            result => return result.host(|| format!("open the directory {path} in the container")),
        }
        let mut place = path.to_owned();
        for _ in 0..MAXIMUM_LINKS {
            match self.make_directories(&place)? {
                Made::Here(directory) => return Ok(directory),
                Made::Elsewhere(path) => place = path,
            }
        }
        Err(too_many_links(path))
    }

    fn make_directories(&self, path: &str) -> Result<Made> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let doing = |path: &str| format!("make the directory {path} in the container");
        let mut parent = String::from("/");
        let mut directory = self.find("/", flags).host(|| doing("/"))?;
        let mut names = path
            .split('/')
            .filter(|name| !name.is_empty() && *name != ".");
        while let Some(name) = names.next() {
            let place = join(&parent, name);
            directory = match self.find(&place, flags) {
                Err(Errno::NOENT) => {
                    match mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => {
                            if let Some(elsewhere) = self.follow(&directory, &parent, name)? {
                                let rest = names.collect::<Vec<_>>().join("/");
                                return Ok(Made::Elsewhere(join(&elsewhere, &rest)));
                            }
                        }
                        Err(error) => return Err(error).host(|| doing(&place)),
                    }
                    self.find(&place, flags)
                }
                result => result,
            }
            .host(|| doing(&place))?;
            parent = place;
        }
        Ok(Made::Here(directory))
    }

    /// Where the link `name` in `directory` leads; `None` if it is no link that leads nowhere.
    fn follow(&self, directory: &OwnedFd, parent: &str, name: &str) -> Result<Option<String>> {
        let place = join(parent, name);
        if self.find(&place, OFlags::PATH).err() != Some(Errno::NOENT) {
            return Ok(None);
        }
        match readlinkat(directory, name, Vec::new()) {
            // Made by somebody else just now.
            Err(Errno::INVAL) => Ok(None),
            result => {
                let target = result.host(|| format!("read the link {place} in the container"))?;
                Ok(Some(join(parent, &target.to_string_lossy())))
            }
        }
    }

    /// What is at `path` and is no directory; an empty file is made if it is missing, where a link
    /// that leads nowhere names it.
    pub(crate) fn file(&self, path: &str) -> Result<OwnedFd> {
        match self.find(path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            result => return result.host(|| format!("open {path} in the container")),
        }
        let mut place = path.to_owned();
        for _ in 0..MAXIMUM_LINKS {
            let (parent, name) = place.rsplit_once('/').unwrap_or(("", &place));
            let directory = self.directory(join("/", parent).as_str())?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o644)) {
                Err(Errno::EXIST) => {
                    if let Some(elsewhere) = self.follow(&directory, parent, name)? {
                        place = elsewhere;
                        continue;
                    }
                }
                result => {
                    result.host(|| format!("make the file {path} in the container"))?;
                }
            }
            return self
                .find(&place, OFlags::PATH)
                .host(|| format!("open {path} in the container"));
        }
        Err(too_many_links(path))
    }

    /// The directory at `path`, through no symbolic link: the system's own mounts go there, and
    /// an image in which `/dev` is a link must not move them (CVE-2026-41579).
    pub(crate) fn system_directory(&self, path: &str) -> Result<OwnedFd> {
        let directory = self.directory(path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        match openat2(&self.0, path, flags, Mode::empty(), resolve) {
            Err(Errno::LOOP) => Err(Error::invalid(format!(
                "{path} must be mounted on ordinary directory, and in the image it is a symbolic link"
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

/// `path` as from the directory `parent`; what is absolute is from the root.
fn join(parent: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    format!("{}/{path}", parent.trim_end_matches('/'))
}

fn too_many_links(path: &str) -> Error {
    Error::invalid(format!(
        "make {path} in the container: more than {MAXIMUM_LINKS} symbolic links are on the way"
    ))
}

/// Puts a detached mount onto what a descriptor stands for.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

pub(crate) fn is_directory(descriptor: impl AsFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(descriptor)?.st_mode) == FileType::Directory)
}
