//! Paths that cannot leave a directory.
//!
//! The kernel resolves them (`openat2(2)` with `RESOLVE_IN_ROOT`): an absolute symlink starts at
//! the directory, `..` stops at it, and magic links are refused.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use bulkhead_model::{Error, Result};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::failure::Context;

/// Deeper trees are refused: they are walked recursively, with a descriptor per level.
pub(crate) const MAX_DEPTH: usize = 256;

/// A directory from which paths are resolved as from a root.
#[derive(Debug)]
pub(crate) struct Rooted {
    root: OwnedFd,
}

impl Rooted {
    pub fn open(path: &Path) -> Result<Self> {
        let root = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .context(|| format!("open directory {}", path.display()))?;
        Ok(Self { root })
    }

    pub fn from_fd(root: OwnedFd) -> Self {
        Self { root }
    }

    /// Opens what is at `path`; symlinks, also the last one, lead to places inside.
    pub fn open_at(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        loop {
            let opened = rustix::fs::openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            // The kernel asks to try again when a rename elsewhere crossed its walk over `..`.
            match opened {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Opens the directory at `path`.
    pub fn directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens the directory at `path` and makes what is missing of it, with mode 0755 and `owner`.
    ///
    /// # Errors
    /// `InvalidInput` if something on the way is not a directory.
    pub fn make_directory(&self, path: &Path, owner: (u32, u32)) -> Result<OwnedFd> {
        match self.directory(path) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) => return Err(not_a_directory(path)),
            Err(error) => {
                return Err(error).context(|| format!("open directory {}", path.display()));
            }
        }
        let mut resolved = PathBuf::new();
        let mut current = self.directory(Path::new(".")).context(|| "open the root")?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            resolved.push(name);
            current = match self.directory(&resolved) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o755)).map_err(
                        |error| match error {
                            // A symlink that leads nowhere.
                            Errno::EXIST => not_a_directory(&resolved),
                            error => Error::host(format!("make directory {}", resolved.display()))
                                .with_source(std::io::Error::from(error)),
                        },
                    )?;
                    let made = rustix::fs::openat(
                        &current,
                        name,
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                    .context(|| format!("open directory {}", resolved.display()))?;
                    // Whatever the umask is.
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))
                        .context(|| format!("set the mode of {}", resolved.display()))?;
                    if owner != (0, 0) {
                        change_owner(made.as_fd(), OsStr::new(""), owner)?;
                    }
                    made
                }
                Err(Errno::NOTDIR) => return Err(not_a_directory(&resolved)),
                Err(error) => {
                    return Err(error).context(|| format!("open directory {}", resolved.display()));
                }
            };
        }
        Ok(current)
    }

    /// Reads the file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// `InvalidInput` if it is no regular file or larger than `limit` bytes.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        use std::io::Read;
        let fd = match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error).context(|| format!("open {}", path.display())),
        };
        let file = std::fs::File::from(fd);
        let metadata = file
            .metadata()
            .context(|| format!("read {}", path.display()))?;
        if !metadata.is_file() || metadata.len() > limit {
            return Err(Error::invalid(format!(
                "{} is not a regular file of at most {limit} bytes",
                path.display()
            )));
        }
        let mut content = Vec::new();
        file.take(limit)
            .read_to_end(&mut content)
            .context(|| format!("read {}", path.display()))?;
        Ok(Some(content))
    }
}

impl AsFd for Rooted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Changes the owner of `name` in `directory` without following it; of `directory` itself if the
/// name is empty.
pub(crate) fn change_owner(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    (uid, gid): (u32, u32),
) -> Result<()> {
    rustix::fs::chownat(
        directory,
        name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH,
    )
    .context(|| format!("change the owner of '{}'", name.to_string_lossy()))
}

/// Splits a path from an archive or a user into clean components.
///
/// # Errors
/// `InvalidInput` if it has a `..`, a NUL byte, or too many components. Leading slashes and `.`
/// components are dropped: the path starts at the root either way.
pub(crate) fn clean(path: &[u8]) -> Result<PathBuf> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    if path.contains(&0) {
        return Err(Error::invalid(format!(
            "path '{}' has a NUL byte",
            shown().replace('\0', "\\0")
        )));
    }
    let mut clean = PathBuf::new();
    let mut depth = 0;
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            Component::ParentDir => {
                return Err(Error::invalid(format!(
                    "path '{}' leads outside with '..'",
                    shown()
                )));
            }
        }
        depth += 1;
    }
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!(
            "path '{}…' has more than {MAX_DEPTH} components",
            shown().chars().take(60).collect::<String>()
        )));
    }
    Ok(clean)
}

/// The parent and the last component of a clean path; `None` for the root itself.
pub(crate) fn split(path: &Path) -> Option<(&Path, OsString)> {
    Some((path.parent()?, path.file_name()?.to_owned()))
}

fn not_a_directory(path: &Path) -> Error {
    Error::invalid(format!("{} is not a directory", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn symlinks_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/hostname"), "inside").unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("../../../../etc", root.join("relative")).unwrap();
        let rooted = Rooted::open(&root).unwrap();
        for path in [
            "absolute/hostname",
            "relative/hostname",
            "/../../etc/hostname",
        ] {
            let content = rooted.read(Path::new(path), 100).unwrap();
            assert_eq!(content.as_deref(), Some(&b"inside"[..]), "{path}");
        }
        drop(rooted.make_directory(Path::new("absolute/new/deep"), (1, 2)));
        assert!(root.join("etc/new/deep").is_dir());
        symlink("nowhere", root.join("dangling")).unwrap();
        assert!(
            rooted
                .make_directory(Path::new("dangling/x"), (0, 0))
                .is_err()
        );
        assert!(
            rooted
                .make_directory(Path::new("etc/hostname/x"), (0, 0))
                .is_err()
        );
    }

    #[test]
    fn paths_are_cleaned_or_refused() {
        assert_eq!(clean(b"./a//b/./c").unwrap(), Path::new("a/b/c"));
        assert_eq!(clean(b"/a").unwrap(), Path::new("a"));
        assert_eq!(clean(b"./").unwrap(), Path::new(""));
        assert!(clean(b"a/../b").is_err());
        assert!(clean(b"a\0b").is_err());
        assert!(clean("a/".repeat(300).as_bytes()).is_err());
    }
}
