use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bulkhead_model::{Error, Result};
use rustix::fs::{FileType, Stat};

use super::file_digests::FileDigests;
use super::selection::Selected;
use crate::digest::Digester;
use crate::failure::Context;
use crate::rooted::MAX_DEPTH;
use crate::tree::{self, Filter, names, open_directory, open_file, stat};

/// Adds what COPY would copy to a digest: paths, kinds, modes, bytes, targets of symlinks and
/// extended attributes; owners only if they count; never times.
pub(super) struct TreeDigest<'a> {
    pub digester: &'a mut Digester,
    pub files: &'a FileDigests,
    pub owners: bool,
    pub filter: Filter<'a>,
}

impl TreeDigest<'_> {
    pub fn selected(&mut self, selected: &Selected) -> Result<()> {
        self.digester.field(selected.name().as_bytes());
        self.status(&selected.stat);
        let fd = rustix::io::fcntl_dupfd_cloexec(&selected.fd, 3).context(|| "open a file")?;
        if selected.is_directory() {
            // A descriptor's directory position is shared by its copies, so this one is new.
            let directory =
                open_directory(fd.as_fd(), ".".as_ref()).context(|| "open a directory")?;
            self.directory(directory.as_fd(), Path::new(""), 0)
        } else {
            self.file(File::from(fd))
        }
    }

    fn status(&mut self, stat: &Stat) {
        self.digester.field(stat.st_mode.to_le_bytes());
        if self.owners {
            self.digester.field(stat.st_uid.to_le_bytes());
            self.digester.field(stat.st_gid.to_le_bytes());
        }
    }

    fn file(&mut self, file: File) -> Result<()> {
        self.attributes(file.as_fd())?;
        let digest = self.files.of(file)?;
        self.digester.field(digest.bytes());
        Ok(())
    }

    fn attributes(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        for (name, value) in tree::xattrs(fd)? {
            self.digester.field(name);
            self.digester.field(value);
        }
        Ok(())
    }

    fn directory(&mut self, directory: BorrowedFd<'_>, below: &Path, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!(
                "'{}' is nested deeper than {MAX_DEPTH} directories",
                below.display()
            )));
        }
        self.attributes(directory)?;
        for name in names(directory)? {
            let path = below.join(&name);
            let what = || format!("read '{}'", path.display());
            let status = stat(directory, &name).context(what)?;
            let kind = FileType::from_raw_mode(status.st_mode);
            let wanted = (self.filter)(&path, kind == FileType::Directory);
            if wanted {
                self.digester.field(path.as_os_str().as_bytes());
                self.status(&status);
            }
            match kind {
                FileType::Directory => {
                    let child = open_directory(directory, &name).context(what)?;
                    self.directory(child.as_fd(), &path, depth + 1)?;
                }
                _ if !wanted => {}
                FileType::RegularFile => {
                    self.file(File::from(open_file(directory, &name).context(what)?))?;
                }
                FileType::Symlink => {
                    let target =
                        rustix::fs::readlinkat(directory, &name, Vec::new()).context(what)?;
                    self.digester.field(target.as_bytes());
                }
                _ => self.digester.field(status.st_rdev.to_le_bytes()),
            }
        }
        Ok(())
    }
}
