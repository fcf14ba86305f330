//! Copies and removes directory trees by descriptor, without following symlinks.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::failure::Context;
use crate::rooted::{MAX_DEPTH, change_owner};

/// The names in a directory, sorted by their bytes.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).context(|| "list a directory")? {
        let entry = entry.context(|| "list a directory")?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn stat(directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Stat> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Opens a regular file for reading. A name that was exchanged for a pipe does not block.
pub(crate) fn open_file(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Removes what is at `name`, whatever it is; nothing there is success.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let what = || format!("remove '{}'", name.to_string_lossy());
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error).context(what),
    }
    let directory = open_directory(parent, name).context(what)?;
    for child in names(directory.as_fd())? {
        remove(directory.as_fd(), &child)?;
    }
    drop(directory);
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).context(what)
}

/// Removes what is at `path`, whatever it is; nothing there is success.
pub(crate) fn remove_path(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid(format!("cannot remove {}", path.display())));
    };
    match rustix::fs::open(
        parent,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(parent) => remove(parent.as_fd(), name),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).context(|| format!("open {}", parent.display())),
    }
}

/// Whether an extended attribute travels with a file. Those of overlayfs and of the host's
/// security modules do not: the first would change what a layer means, the others are the host's.
pub(crate) fn xattr_travels(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"user.")
        || name.starts_with(b"system.posix_acl_")
}

/// The extended attributes that travel, sorted by name.
pub(crate) fn xattrs(fd: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 1024];
    let length = loop {
        match rustix::fs::flistxattr(fd, &mut list) {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < 1 << 17 => list.resize(list.len() * 4, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error).context(|| "list extended attributes"),
        }
    };
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0) {
        if name.is_empty() || !xattr_travels(name) {
            continue;
        }
        if let Some(value) = xattr(fd, name)? {
            found.push((name.to_vec(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// One extended attribute; `None` if the file does not have it.
pub(crate) fn xattr(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::fgetxattr(fd, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < 1 << 17 => value.resize(1 << 17, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error).context(|| "read an extended attribute"),
        }
    }
}

pub(crate) fn set_xattrs(fd: BorrowedFd<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    for (name, value) in xattrs {
        match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            // A filesystem without such attributes cannot keep them; only capabilities matter.
            Err(Errno::OPNOTSUPP) if name != b"security.capability" => {}
            other => other.context(|| {
                format!(
                    "set extended attribute {} (the store needs a filesystem with them)",
                    String::from_utf8_lossy(name)
                )
            })?,
        }
    }
    Ok(())
}

/// Sets the modification time, and the access time to the same.
pub(crate) fn set_time(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    seconds: i64,
    nanoseconds: i64,
) -> Result<()> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    if name.is_empty() {
        rustix::fs::futimens(parent, &times)
    } else {
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
    .context(|| format!("set the times of '{}'", name.to_string_lossy()))
}

/// Decides by path, and whether that is a directory.
pub(crate) type Filter<'a> = &'a dyn Fn(&Path, bool) -> bool;

/// Copies trees with modes, times and extended attributes.
#[derive(Default)]
pub(crate) struct Copier<'a> {
    /// Instead of the source's own.
    pub owner: Option<(u32, u32)>,
    /// Instead of the source's own; not for symlinks.
    pub mode: Option<u32>,
    /// Decides by the path below the source whether something is copied (directories are always
    /// entered, and made when something in them is copied).
    pub filter: Option<Filter<'a>>,
    /// The first name of each file with several, by device and inode.
    pub links: HashMap<(u64, u64), (OwnedFd, OsString)>,
    /// Names that are linked together at the source are linked together at the destination.
    pub keep_links: bool,
}

impl Copier<'_> {
    /// Copies the content of directory `source` into the existing directory `destination`, whose
    /// own metadata stays.
    pub fn content(&mut self, source: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> Result<()> {
        self.children(source, destination, Path::new(""), 0)
    }

    /// Gives `destination` the metadata of `source`, both directories.
    pub fn directory_metadata(
        &self,
        source: BorrowedFd<'_>,
        destination: BorrowedFd<'_>,
    ) -> Result<()> {
        let stat = rustix::fs::fstat(source).context(|| "read a directory's metadata")?;
        self.metadata(&stat, source, destination)
    }

    fn children(
        &mut self,
        source: BorrowedFd<'_>,
        destination: BorrowedFd<'_>,
        below: &Path,
        depth: usize,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!(
                "{} is nested deeper than {MAX_DEPTH} directories",
                below.display()
            )));
        }
        for name in names(source)? {
            self.entry(source, &name, destination, &below.join(&name), depth)?;
        }
        Ok(())
    }

    /// A directory is merged into an existing one; anything else replaces what is there.
    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        name: &OsStr,
        destination: BorrowedFd<'_>,
        below: &Path,
        depth: usize,
    ) -> Result<()> {
        let new_name = name;
        let what = || format!("copy '{}'", name.to_string_lossy());
        let status = stat(source, name).context(what)?;
        let kind = FileType::from_raw_mode(status.st_mode);
        let wanted = self
            .filter
            .is_none_or(|filter| filter(below, kind == FileType::Directory));
        if kind == FileType::Directory {
            let from = open_directory(source, name).context(what)?;
            return self.directory(
                from.as_fd(),
                &status,
                destination,
                new_name,
                below,
                depth,
                wanted,
            );
        }
        if !wanted {
            return Ok(());
        }
        if let Ok(there) = stat(destination, new_name) {
            if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                return Err(Error::conflict(format!(
                    "cannot replace directory '{}' with a file",
                    new_name.to_string_lossy()
                )));
            }
            remove(destination, new_name)?;
        }
        let owner = self.owner.unwrap_or((status.st_uid, status.st_gid));
        if self.keep_links && status.st_nlink > 1 {
            let key = (status.st_dev, status.st_ino);
            if let Some((directory, first)) = self.links.get(&key) {
                return rustix::fs::linkat(
                    directory,
                    first,
                    destination,
                    new_name,
                    AtFlags::empty(),
                )
                .context(what);
            }
            let directory = rustix::io::fcntl_dupfd_cloexec(destination, 3).context(what)?;
            // Descriptors are few: beyond this, links become copies.
            if self.links.len() < 256 {
                self.links.insert(key, (directory, new_name.to_owned()));
            }
        }
        match kind {
            FileType::RegularFile => {
                let from = File::from(open_file(source, name).context(what)?);
                return self.new_file(from, &status, destination, new_name);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(source, name, Vec::new()).context(what)?;
                rustix::fs::symlinkat(target, destination, new_name).context(what)?;
                change_owner(destination, new_name, owner)?;
            }
            kind => {
                let mode = self.mode.unwrap_or(status.st_mode & 0o7777);
                rustix::fs::mknodat(
                    destination,
                    new_name,
                    kind,
                    Mode::from_raw_mode(mode),
                    status.st_rdev,
                )
                .context(what)?;
                change_owner(destination, new_name, owner)?;
                rustix::fs::chmodat(
                    destination,
                    new_name,
                    Mode::from_raw_mode(mode),
                    AtFlags::empty(),
                )
                .context(what)?;
            }
        }
        set_time(
            destination,
            new_name,
            status.st_mtime,
            status.st_mtime_nsec as i64,
        )
    }

    /// Copies an open file to `new_name`, in place of what is there.
    pub fn file(
        &self,
        from: File,
        status: &Stat,
        destination: BorrowedFd<'_>,
        new_name: &OsStr,
    ) -> Result<()> {
        remove(destination, new_name)?;
        self.new_file(from, status, destination, new_name)
    }

    fn new_file(
        &self,
        mut from: File,
        status: &Stat,
        destination: BorrowedFd<'_>,
        new_name: &OsStr,
    ) -> Result<()> {
        let what = || format!("copy '{}'", new_name.to_string_lossy());
        let to = rustix::fs::openat(
            destination,
            new_name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .context(what)?;
        let mut to = File::from(to);
        std::io::copy(&mut from, &mut to).context(what)?;
        self.metadata(status, from.as_fd(), to.as_fd())
    }

    #[allow(clippy::too_many_arguments)]
    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        status: &Stat,
        destination: BorrowedFd<'_>,
        new_name: &OsStr,
        below: &Path,
        depth: usize,
        wanted: bool,
    ) -> Result<()> {
        if !wanted && !self.holds_wanted(from, below, depth)? {
            return Ok(());
        }
        let what = || format!("make directory '{}'", new_name.to_string_lossy());
        match rustix::fs::mkdirat(destination, new_name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = stat(destination, new_name).context(what)?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    return Err(Error::conflict(format!(
                        "cannot copy a directory to '{}': there is a file",
                        new_name.to_string_lossy()
                    )));
                }
            }
            Err(error) => return Err(error).context(what),
        }
        let to = open_directory(destination, new_name).context(what)?;
        self.children(from, to.as_fd(), below, depth + 1)?;
        self.metadata(status, from, to.as_fd())
    }

    /// Whether the filter wants something below a directory that it does not want itself.
    fn holds_wanted(&self, directory: BorrowedFd<'_>, below: &Path, depth: usize) -> Result<bool> {
        let Some(filter) = self.filter else {
            return Ok(true);
        };
        if depth > MAX_DEPTH {
            return Ok(false);
        }
        for name in names(directory)? {
            let path: PathBuf = below.join(&name);
            let Ok(status) = stat(directory, &name) else {
                continue;
            };
            let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
            if filter(&path, is_directory) {
                return Ok(true);
            }
            if is_directory
                && let Ok(child) = open_directory(directory, &name)
                && self.holds_wanted(child.as_fd(), &path, depth + 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Owner before mode (a change of owner clears set-user-id), capabilities after both.
    fn metadata(
        &self,
        status: &Stat,
        source: BorrowedFd<'_>,
        destination: BorrowedFd<'_>,
    ) -> Result<()> {
        let owner = self.owner.unwrap_or((status.st_uid, status.st_gid));
        change_owner(destination, OsStr::new(""), owner)?;
        let mode = self.mode.unwrap_or(status.st_mode & 0o7777);
        rustix::fs::fchmod(destination, Mode::from_raw_mode(mode)).context(|| "set a mode")?;
        set_xattrs(destination, &xattrs(source)?)?;
        set_time(
            destination,
            OsStr::new(""),
            status.st_mtime,
            status.st_mtime_nsec as i64,
        )
    }
}
