use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use bulkhead_model::{Error, Result};
use rustix::fs::FileType;

use super::{EntryHeader, TarWriter};
use crate::failure::Context;
use crate::rooted::MAX_DEPTH;
use crate::tree::{self, names, open_directory, open_file, stat};

/// What packing a layer found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedLayer {
    /// Bytes of the archive.
    pub archive_size: u64,
    /// Bytes of all regular files, each counted once.
    pub content_size: u64,
}

/// Writes the layer in directory `root` (in overlayfs' form) as an OCI layer archive.
///
/// The bytes depend on the content alone: entries are sorted by name, times are whole seconds,
/// and only attributes that travel are kept. The digest of these bytes is the DiffID of every
/// layer made on this machine, so a layer can be kept as a directory and still be exported.
///
/// # Errors
/// `Conflict` if the directory was an overlay's with `redirect_dir` or `metacopy` on: such a layer
/// has no meaning of its own.
pub(crate) fn pack_layer(root: BorrowedFd<'_>, out: impl Write) -> Result<PackedLayer> {
    let mut packer = Packer {
        archive: TarWriter::new(out),
        links: HashMap::new(),
        content_size: 0,
    };
    let stat = rustix::fs::fstat(root).context(|| "read the layer's root")?;
    let xattrs = tree::xattrs(root)?;
    packer.write(&EntryHeader {
        path: b"./",
        flag: b'5',
        xattrs: &xattrs,
        // The root's time is when it was unpacked, which says nothing about its content.
        modified: 0,
        ..metadata(&stat)
    })?;
    packer.directory(root, &mut Vec::new(), 0)?;
    let archive_size = packer.archive.finish().context(|| "write the layer")?;
    Ok(PackedLayer {
        archive_size,
        content_size: packer.content_size,
    })
}

struct Packer<W> {
    archive: TarWriter<W>,
    links: HashMap<(u64, u64), Vec<u8>>,
    content_size: u64,
}

impl<W: Write> Packer<W> {
    fn write(&mut self, header: &EntryHeader<'_>) -> Result<()> {
        self.archive.header(header).context(|| "write the layer")
    }

    fn directory(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!(
                "the layer is nested deeper than {MAX_DEPTH} directories"
            )));
        }
        let length = path.len();
        for name in names(directory)? {
            path.extend_from_slice(name.as_bytes());
            self.entry(directory, &name, path, depth)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        let shown = || format!("pack '{}'", name.to_string_lossy());
        let status = stat(directory, name).context(shown)?;
        let header = metadata(&status);
        let kind = FileType::from_raw_mode(status.st_mode);
        let device = (
            rustix::fs::major(status.st_rdev),
            rustix::fs::minor(status.st_rdev),
        );
        if kind == FileType::Directory {
            return self.subdirectory(directory, name, path, depth, header);
        }
        if kind == FileType::CharacterDevice && device == (0, 0) {
            let name_start = path.len() - name.len();
            let whiteout = [&path[..name_start], b".wh.", name.as_bytes()].concat();
            return self.write(&EntryHeader {
                path: &whiteout,
                flag: b'0',
                ..EntryHeader::default()
            });
        }
        if status.st_nlink > 1 {
            let key = (status.st_dev, status.st_ino);
            if let Some(first) = self.links.get(&key) {
                let link = first.clone();
                return self.write(&EntryHeader {
                    path,
                    flag: b'1',
                    link: &link,
                    ..header
                });
            }
            self.links.insert(key, path.clone());
        }
        match kind {
            FileType::RegularFile => {
                let file = File::from(open_file(directory, name).context(shown)?);
                reject_references(file.as_fd(), path)?;
                let xattrs = tree::xattrs(file.as_fd())?;
                let size = status.st_size as u64;
                self.content_size += size;
                self.write(&EntryHeader {
                    path,
                    flag: b'0',
                    size,
                    xattrs: &xattrs,
                    ..header
                })?;
                self.archive.content(file, size).context(shown)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).context(shown)?;
                self.write(&EntryHeader {
                    path,
                    flag: b'2',
                    link: target.as_bytes(),
                    ..header
                })
            }
            FileType::CharacterDevice | FileType::BlockDevice => self.write(&EntryHeader {
                path,
                flag: if kind == FileType::BlockDevice {
                    b'4'
                } else {
                    b'3'
                },
                device,
                ..header
            }),
            FileType::Fifo => self.write(&EntryHeader {
                path,
                flag: b'6',
                ..header
            }),
            // A socket means nothing without the process that listens; Docker leaves it out too.
            _ => Ok(()),
        }
    }

    fn subdirectory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &mut Vec<u8>,
        depth: usize,
        header: EntryHeader<'_>,
    ) -> Result<()> {
        let directory = open_directory(parent, name)
            .context(|| format!("open directory '{}'", name.to_string_lossy()))?;
        reject_references(directory.as_fd(), path)?;
        let xattrs = tree::xattrs(directory.as_fd())?;
        path.push(b'/');
        self.write(&EntryHeader {
            path,
            flag: b'5',
            xattrs: &xattrs,
            ..header
        })?;
        if is_opaque(directory.as_fd())? {
            let marker = [path.as_slice(), b".wh..wh..opq"].concat();
            self.write(&EntryHeader {
                path: &marker,
                flag: b'0',
                ..EntryHeader::default()
            })?;
        }
        self.directory(directory.as_fd(), path, depth + 1)
    }
}

pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool> {
    Ok(tree::xattr(directory, b"trusted.overlay.opaque")?.as_deref() == Some(b"y"))
}

fn reject_references(fd: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    for name in [
        &b"trusted.overlay.redirect"[..],
        b"trusted.overlay.metacopy",
    ] {
        if tree::xattr(fd, name)?.is_some() {
            return Err(Error::conflict(format!(
                "'{}' refers to a lower layer ({}): mount the overlay with redirect_dir=off,metacopy=off",
                String::from_utf8_lossy(path),
                String::from_utf8_lossy(name)
            )));
        }
    }
    Ok(())
}

fn metadata<'a>(stat: &rustix::fs::Stat) -> EntryHeader<'a> {
    EntryHeader {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: stat.st_mtime,
        ..EntryHeader::default()
    }
}
