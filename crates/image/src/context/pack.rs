use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};
use rustix::fs::FileType;

use super::Ignore;
use crate::archive::{EntryHeader, Limits, TarWriter, Unpack, decompress, unpack};
use crate::failure::Context;
use crate::rooted::{MAX_DEPTH, Rooted};
use crate::tree::{names, open_directory, open_file, stat};

/// The name in the archive of a Dockerfile that is not in the context.
pub(crate) const OUTSIDE: &str = ".bulkhead.Dockerfile";

/// Writes what belongs to the context `directory` as a tar archive: entries sorted by name, all
/// owned by root. Gives the Dockerfile's name in it.
///
/// `.dockerignore` is honoured; it and the Dockerfile are always in the archive, because the
/// builder needs them. `dockerfile` is a path as the process sees it, and may be outside.
///
/// # Errors
/// `InvalidInput` if there is no such directory or Dockerfile.
pub fn context_tar(directory: &Path, dockerfile: &Path, out: impl Write) -> Result<String> {
    let directory = directory.canonicalize().map_err(|error| {
        Error::invalid(format!("no build context '{}'", directory.display())).with_source(error)
    })?;
    let real_dockerfile = dockerfile.canonicalize().map_err(|error| {
        Error::invalid(format!("no Dockerfile '{}'", dockerfile.display())).with_source(error)
    })?;
    let root = Rooted::open(&directory)?;
    let root = root.directory(Path::new("")).map_err(|error| {
        Error::invalid(format!("read the build context '{}'", directory.display()))
            .with_source(std::io::Error::from(error))
    })?;
    let mut packer = Packer {
        archive: TarWriter::new(std::io::BufWriter::with_capacity(1 << 17, out)),
        ignore: Ignore::of_context(&directory, dockerfile)?,
        always: vec![PathBuf::from(".dockerignore")],
    };
    let inside = real_dockerfile.strip_prefix(&directory).ok();
    if let Some(inside) = inside {
        packer.always.push(inside.to_owned());
        let mut beside = inside.as_os_str().to_owned();
        beside.push(".dockerignore");
        packer.always.push(PathBuf::from(beside));
    }
    packer.directory(root.as_fd(), Path::new(""), 0)?;
    let name = match inside {
        Some(inside) => inside.to_string_lossy().into_owned(),
        None => {
            let mut beside = dockerfile.as_os_str().to_owned();
            beside.push(".dockerignore");
            packer.extra(&real_dockerfile, OUTSIDE)?;
            if Path::new(&beside).is_file() {
                packer.extra(Path::new(&beside), &format!("{OUTSIDE}.dockerignore"))?;
            }
            OUTSIDE.to_owned()
        }
    };
    packer
        .archive
        .finish()
        .context(|| "write the build context")?;
    Ok(name)
}

/// Unpacks a context's archive, plain or compressed, into an empty directory.
///
/// # Errors
/// `InvalidInput` for an archive that is broken or leads outside.
pub fn unpack_context(reader: impl Read, directory: &Path) -> Result<()> {
    let how = Unpack {
        limits: Limits::default(),
        whiteouts: false,
        owner: Some((0, 0)),
        no_devices: true,
    };
    unpack(decompress(reader)?, &Rooted::open(directory)?, how)
}

struct Packer<W> {
    archive: TarWriter<W>,
    ignore: Ignore,
    always: Vec<PathBuf>,
}

impl<W: Write> Packer<W> {
    fn directory(&mut self, directory: BorrowedFd<'_>, below: &Path, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!(
                "the build context is nested deeper than {MAX_DEPTH} directories"
            )));
        }
        for name in names(directory)? {
            self.entry(directory, &name, &below.join(&name), depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> Result<()> {
        let what = || format!("read '{}' of the build context", path.display());
        let ignored = self.ignore.ignores(path) && !self.always.iter().any(|kept| kept == path);
        let status = stat(parent, name).context(what)?;
        let header = EntryHeader {
            mode: status.st_mode & 0o7777,
            modified: status.st_mtime,
            ..EntryHeader::default()
        };
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => {
                let holds_always = self.always.iter().any(|kept| kept.starts_with(path));
                if ignored && !self.ignore.has_exceptions() && !holds_always {
                    return Ok(());
                }
                let directory = open_directory(parent, name).context(what)?;
                if !ignored {
                    let mut path = path.as_os_str().as_bytes().to_vec();
                    path.push(b'/');
                    let header = EntryHeader {
                        path: &path,
                        flag: b'5',
                        ..header
                    };
                    self.archive.header(&header).context(what)?;
                }
                self.directory(directory.as_fd(), path, depth + 1)
            }
            _ if ignored => Ok(()),
            FileType::RegularFile => {
                let file = File::from(open_file(parent, name).context(what)?);
                let size = status.st_size as u64;
                let header = EntryHeader {
                    path: path.as_os_str().as_bytes(),
                    flag: b'0',
                    size,
                    ..header
                };
                self.archive.header(&header).context(what)?;
                self.archive.content(file, size).context(what)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new()).context(what)?;
                let header = EntryHeader {
                    path: path.as_os_str().as_bytes(),
                    flag: b'2',
                    link: target.as_bytes(),
                    ..header
                };
                self.archive.header(&header).context(what)
            }
            // Sockets, pipes and devices are no part of a context.
            _ => Ok(()),
        }
    }

    fn extra(&mut self, path: &Path, name: &str) -> Result<()> {
        let what = || format!("read {}", path.display());
        let content = std::fs::read(path).context(what)?;
        let header = EntryHeader {
            path: name.as_bytes(),
            flag: b'0',
            mode: 0o644,
            size: content.len() as u64,
            ..EntryHeader::default()
        };
        self.archive.header(&header).context(what)?;
        self.archive
            .content(&content[..], content.len() as u64)
            .context(what)
    }
}
