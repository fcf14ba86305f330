use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bulkhead_model::{ByteSize, Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;

use crate::failure::{Context, from_io};
use crate::rooted::{Rooted, change_owner, clean, split};
use crate::tree;

/// What headers and extensions between two files may take at most.
const HEADER_ALLOWANCE: u64 = 1 << 20;

/// How much an archive may unpack to: a small archive can hold a very large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of all files together.
    pub size: ByteSize,
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            size: ByteSize(64 << 30),
            entries: 4_000_000,
        }
    }
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unpack {
    pub limits: Limits,
    /// `.wh.` entries become overlayfs' whiteouts and opaque directories: the archive is a layer.
    pub whiteouts: bool,
    /// Instead of the owners in the archive.
    pub owner: Option<(u32, u32)>,
    /// Device nodes are refused.
    pub no_devices: bool,
}

/// Unpacks the (already decompressed) tar archive into `root`.
///
/// # Errors
/// `InvalidInput` for an archive that is broken, cut off, too large, or has an entry that leads
/// outside; what was unpacked before remains.
pub(crate) fn unpack(reader: impl Read, root: &Rooted, how: Unpack) -> Result<()> {
    let allowance = Rc::new(Cell::new(HEADER_ALLOWANCE));
    let mut archive = tar::Archive::new(Allowed {
        reader,
        left: Rc::clone(&allowance),
    });
    let mut unpacker = Unpacker {
        root,
        how,
        parent: None,
        times: Vec::new(),
        size: 0,
    };
    let mut count = 0;
    let entries = archive.entries().context(|| "read the archive")?;
    for entry in entries {
        let mut entry = entry.map_err(|error| broken(error, count))?;
        count += 1;
        if count > how.limits.entries {
            return Err(Error::invalid(format!(
                "the archive has more than {} entries",
                how.limits.entries
            )));
        }
        // A file's content is limited by `limits.size`, not here.
        allowance.set(u64::MAX);
        let path = entry.path_bytes().into_owned();
        unpacker.entry(&mut entry, &path).map_err(|error| {
            Error::new(
                error.kind(),
                format!("unpack '{}'", String::from_utf8_lossy(&path)),
            )
            .with_source(error)
        })?;
        io::copy(&mut entry, &mut io::sink()).map_err(|error| broken(error, count))?;
        allowance.set(HEADER_ALLOWANCE);
    }
    unpacker.finish()
}

fn broken(error: io::Error, entries: u64) -> Error {
    let error = from_io(
        error,
        format!("the archive is broken or cut off after {entries} entries"),
    );
    match error.kind() {
        // The tar reader reports a malformed header as "other".
        bulkhead_model::ErrorKind::Host => Error::invalid(error.to_string()),
        _ => error,
    }
}

/// A reader that fails once its allowance is used up, so that no header makes the tar reader
/// collect an endless name.
struct Allowed<R> {
    reader: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Allowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the archive has a header larger than 1 MiB",
            ));
        }
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.reader.read(&mut buffer[..most])?;
        if left != u64::MAX {
            self.left.set(left - read as u64);
        }
        Ok(read)
    }
}

struct Unpacker<'a> {
    root: &'a Rooted,
    how: Unpack,
    /// The last entry's parent: archives go directory by directory.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories' times, set at the end: unpacking into them changes them.
    times: Vec<(PathBuf, i64)>,
    size: u64,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, raw_path: &[u8]) -> Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = clean(raw_path)?;
        let xattrs = extensions(entry)?;
        let metadata = Metadata::of(entry.header(), self.how.owner, xattrs)?;
        let Some((parent, name)) = split(&path) else {
            // The root itself: its metadata counts, its kind has to be right.
            if kind != EntryType::Directory {
                return Err(Error::invalid("the archive's root is not a directory"));
            }
            let root = self
                .root
                .directory(Path::new(""))
                .context(|| "open the root")?;
            return metadata.apply(&root);
        };
        if self.how.whiteouts
            && let Some(hidden) = name.as_bytes().strip_prefix(b".wh.")
        {
            return self.whiteout(parent, hidden);
        }
        let directory = self.parent(parent)?;
        match kind {
            EntryType::Directory => self.make_directory(&directory, &path, &name, &metadata)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.replace(&directory, &name)?;
                self.file(entry, &directory, &name, &metadata)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.hard_link(&directory, &name, &target)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                if target.is_empty() {
                    return Err(Error::invalid("a symlink with no target"));
                }
                self.replace(&directory, &name)?;
                // The target may be anything: nobody follows it but the kernel, inside the root.
                rustix::fs::symlinkat(target, &directory, &name).context(|| "make a symlink")?;
                change_owner(directory.as_fd(), &name, metadata.owner)?;
                tree::set_time(directory.as_fd(), &name, metadata.modified, 0)?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.replace(&directory, &name)?;
                self.node(kind, entry.header(), &directory, &name, &metadata)?;
            }
            other => {
                return Err(Error::unsupported(format!(
                    "entries of tar type '{}' are not supported",
                    char::from(other.as_byte()).escape_default()
                )));
            }
        }
        self.parent = Some((parent.to_owned(), directory));
        Ok(())
    }

    /// Opens the entry's parent directory. The caller gives it back when nothing was removed.
    fn parent(&mut self, path: &Path) -> Result<OwnedFd> {
        match self.parent.take() {
            Some((known, fd)) if known == path => Ok(fd),
            _ => self
                .root
                .make_directory(path, self.how.owner.unwrap_or_default()),
        }
    }

    /// Makes room for something that is no directory.
    fn replace(&mut self, directory: &OwnedFd, name: &OsStr) -> Result<()> {
        tree::remove(directory.as_fd(), name)
    }

    fn make_directory(
        &mut self,
        parent: &OwnedFd,
        path: &Path,
        name: &OsStr,
        metadata: &Metadata,
    ) -> Result<()> {
        let mut opaque = false;
        match tree::stat(parent.as_fd(), name) {
            Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {}
            Ok(there) => {
                // What a whiteout hid below stays hidden under the new directory.
                opaque = self.how.whiteouts && is_whiteout(&there);
                tree::remove(parent.as_fd(), name)?;
            }
            Err(_) => {}
        }
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).context(|| "make a directory"),
        }
        let made = tree::open_directory(parent.as_fd(), name).context(|| "open a directory")?;
        metadata.apply(&made)?;
        if opaque {
            set_opaque(&made)?;
        }
        self.times.push((path.to_owned(), metadata.modified));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        content: &mut tar::Entry<'_, R>,
        directory: &OwnedFd,
        name: &OsStr,
        metadata: &Metadata,
    ) -> Result<()> {
        let file = rustix::fs::openat(
            directory,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .context(|| "make a file")?;
        let mut file = File::from(file);
        let mut buffer = [0; 1 << 16];
        loop {
            let read = match content.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error, 0)),
                Ok(0) => break,
                Ok(read) => read,
            };
            self.size += read as u64;
            if self.size > self.how.limits.size.bytes() {
                return Err(Error::invalid(format!(
                    "the archive unpacks to more than {}",
                    self.how.limits.size
                )));
            }
            file.write_all(&buffer[..read]).context(|| "write a file")?;
        }
        metadata.apply(file.as_fd())
    }

    fn hard_link(&mut self, directory: &OwnedFd, name: &OsStr, target: &[u8]) -> Result<()> {
        let target = clean(target)?;
        let Some((target_parent, target_name)) = split(&target) else {
            return Err(Error::invalid("a hard link to the root"));
        };
        let target_directory = self.root.directory(target_parent).map_err(|error| {
            Error::invalid(format!("no hard link target '{}'", target.display()))
                .with_source(io::Error::from(error))
        })?;
        let there = tree::stat(target_directory.as_fd(), &target_name).map_err(|error| {
            Error::invalid(format!("no hard link target '{}'", target.display()))
                .with_source(io::Error::from(error))
        })?;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory || is_whiteout(&there) {
            return Err(Error::invalid(format!(
                "hard link target '{}' is not a file",
                target.display()
            )));
        }
        if let Ok(own) = tree::stat(directory.as_fd(), name)
            && (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(());
        }
        self.replace(directory, name)?;
        rustix::fs::linkat(
            &target_directory,
            &target_name,
            directory,
            name,
            AtFlags::empty(),
        )
        .context(|| format!("make a hard link to '{}'", target.display()))
    }

    fn node(
        &mut self,
        kind: EntryType,
        header: &tar::Header,
        directory: &OwnedFd,
        name: &OsStr,
        metadata: &Metadata,
    ) -> Result<()> {
        let number = |part: io::Result<Option<u32>>| part.ok().flatten().unwrap_or(0);
        let device = (number(header.device_major()), number(header.device_minor()));
        let kind = match kind {
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if kind != FileType::Fifo && self.how.no_devices {
            return Err(Error::invalid("device nodes are not allowed here"));
        }
        if kind == FileType::CharacterDevice && device == (0, 0) {
            return Err(Error::invalid(
                "character device 0/0 is overlayfs' whiteout and cannot be in an archive",
            ));
        }
        let device = if kind == FileType::Fifo {
            0
        } else {
            rustix::fs::makedev(device.0, device.1)
        };
        rustix::fs::mknodat(
            directory,
            name,
            kind,
            Mode::from_raw_mode(metadata.mode),
            device,
        )
        .context(|| "make a device node or pipe")?;
        change_owner(directory.as_fd(), name, metadata.owner)?;
        rustix::fs::chmodat(
            directory,
            name,
            Mode::from_raw_mode(metadata.mode),
            AtFlags::empty(),
        )
        .context(|| "set a mode")?;
        tree::set_time(directory.as_fd(), name, metadata.modified, 0)
    }

    /// Carries out a whiteout (OCI image specification, "Whiteouts"): it hides what lower layers
    /// have, never what this layer has.
    fn whiteout(&mut self, parent: &Path, hidden: &[u8]) -> Result<()> {
        if hidden == b".wh..opq" {
            let directory = self.parent(parent)?;
            return set_opaque(&directory);
        }
        if hidden.starts_with(b".wh.") {
            // Other bookkeeping of aufs, which nobody reads any more.
            return Ok(());
        }
        let name = OsStr::from_bytes(hidden);
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(Error::invalid("a whiteout of no name in its directory"));
        }
        let directory = self.parent(parent)?;
        match tree::stat(directory.as_fd(), name) {
            Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                let own =
                    tree::open_directory(directory.as_fd(), name).context(|| "open a directory")?;
                set_opaque(&own)
            }
            Ok(_) => Ok(()),
            Err(_) => rustix::fs::mknodat(
                &directory,
                name,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )
            .context(|| "make a whiteout"),
        }
    }

    fn finish(self) -> Result<()> {
        for (path, modified) in self.times.iter().rev() {
            // It may have been replaced since by something that is no directory.
            let Some((parent, name)) = split(path) else {
                continue;
            };
            if let Ok(parent) = self.root.directory(parent)
                && let Ok(directory) = tree::open_directory(parent.as_fd(), &name)
            {
                tree::set_time(directory.as_fd(), OsStr::new(""), *modified, 0)?;
            }
        }
        Ok(())
    }
}

struct Metadata {
    owner: (u32, u32),
    mode: u32,
    modified: i64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    fn of(
        header: &tar::Header,
        owner: Option<(u32, u32)>,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Self> {
        let wrong = |error: io::Error| Error::invalid("a broken header").with_source(error);
        let id = |number: u64| {
            u32::try_from(number)
                .ok()
                .filter(|number| *number != u32::MAX)
                .ok_or_else(|| Error::invalid(format!("owner {number} is out of range")))
        };
        let owner = match owner {
            Some(owner) => owner,
            None => (
                id(header.uid().map_err(wrong)?)?,
                id(header.gid().map_err(wrong)?)?,
            ),
        };
        Ok(Self {
            owner,
            mode: header.mode().map_err(wrong)? & 0o7777,
            modified: header.mtime().map_err(wrong)? as i64,
            xattrs,
        })
    }

    /// Owner before mode (a change of owner clears set-user-id), capabilities after both.
    fn apply(&self, fd: impl AsFd) -> Result<()> {
        let fd = fd.as_fd();
        change_owner(fd, OsStr::new(""), self.owner)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode)).context(|| "set a mode")?;
        tree::set_xattrs(fd, &self.xattrs)?;
        tree::set_time(fd, OsStr::new(""), self.modified, 0)
    }
}

/// The extended attributes in an entry's pax records.
///
/// # Errors
/// `Unsupported` for GNU's pax form of sparse files, whose content would come out wrong.
fn extensions<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut xattrs = Vec::new();
    let Some(records) = entry.pax_extensions().context(|| "read a pax header")? else {
        return Ok(xattrs);
    };
    for record in records {
        let record = record.map_err(|error| broken(error, 0))?;
        let key = record.key_bytes();
        if key.starts_with(b"GNU.sparse.") {
            return Err(Error::unsupported(
                "sparse files in pax form are not supported: pack with --format=gnu or without --sparse",
            ));
        }
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
            && tree::xattr_travels(name)
        {
            xattrs.push((name.to_vec(), record.value_bytes().to_vec()));
        }
    }
    Ok(xattrs)
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn set_opaque(directory: &OwnedFd) -> Result<()> {
    rustix::fs::fsetxattr(
        directory,
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .context(|| "make a directory opaque (the store needs a filesystem with trusted.* attributes)")
}
