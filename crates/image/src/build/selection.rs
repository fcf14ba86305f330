use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use bulkhead_model::{Error, Result};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::context::{Ignore, matches_component};
use crate::failure::Context;
use crate::rooted::Rooted;
use crate::tree;

/// Where COPY takes files from: the context, or the root of a stage or an image.
#[derive(Debug)]
pub(super) struct Origin<'a> {
    pub root: Rooted,
    pub ignore: &'a Ignore,
    /// Owners count: they are the image's. A context's owners are the builder's, and say nothing.
    pub owners: bool,
}

/// One thing that a source names.
#[derive(Debug)]
pub(super) struct Selected {
    /// Relative to the origin's root.
    pub path: PathBuf,
    /// What it is, symlinks followed.
    pub stat: Stat,
    /// Open for reading if it is a directory or a regular file.
    pub fd: OwnedFd,
}

impl Selected {
    pub fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }

    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

impl Origin<'_> {
    /// Finds what a source names; with a wildcard possibly nothing.
    ///
    /// # Errors
    /// `NotFound` if it has no wildcard and names nothing; `InvalidInput` if it leads outside.
    pub fn select(&self, source: &str) -> Result<Vec<Selected>> {
        let mut components: Vec<OsString> = Vec::new();
        for component in Path::new(source).components() {
            match component {
                Component::Normal(name) => components.push(name.to_owned()),
                Component::ParentDir if components.pop().is_none() => {
                    return Err(Error::invalid(format!(
                        "'{source}' leads outside of the build context"
                    )));
                }
                _ => {}
            }
        }
        let wildcard = |name: &OsString| name.as_bytes().iter().any(|byte| b"*?[".contains(byte));
        if !components.iter().any(wildcard) {
            let path: PathBuf = components.iter().collect();
            let found = self
                .open(&path)?
                .ok_or_else(|| Error::not_found(format!("there is no '{source}'")))?;
            let visible = found.is_directory() || !self.ignore.ignores(&path);
            if !visible {
                return Err(Error::not_found(format!(
                    "'{source}' is left out by .dockerignore"
                )));
            }
            return Ok(vec![found]);
        }
        let mut paths = vec![PathBuf::new()];
        for pattern in &components {
            let mut next = Vec::new();
            for path in paths {
                if !wildcard(pattern) {
                    next.push(path.join(pattern));
                    continue;
                }
                let Ok(directory) = self.root.directory(&path) else {
                    continue;
                };
                for name in tree::names(directory.as_fd())? {
                    if matches_component(pattern.as_bytes(), name.as_bytes()) {
                        next.push(path.join(name));
                    }
                }
            }
            paths = next;
        }
        let mut selected = Vec::new();
        for path in paths {
            if let Some(found) = self.open(&path)?
                && !self.ignore.ignores(&path)
            {
                selected.push(found);
            }
        }
        Ok(selected)
    }

    fn open(&self, path: &Path) -> Result<Option<Selected>> {
        let what = || format!("read '{}'", path.display());
        let look = match self.root.open_at(path, OFlags::PATH) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error).context(what),
        };
        let stat = rustix::fs::fstat(&look).context(what)?;
        let fd = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory | FileType::RegularFile => self
                .root
                .open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)
                .context(what)?,
            _ => {
                return Err(Error::invalid(format!(
                    "'{}' is neither a file nor a directory",
                    path.display()
                )));
            }
        };
        Ok(Some(Selected {
            path: path.to_owned(),
            stat,
            fd,
        }))
    }
}
