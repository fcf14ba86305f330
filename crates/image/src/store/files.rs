use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_model::Result;

use crate::failure::Context;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A name that nobody else uses at the same time.
fn unique() -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

/// Writes a file so that its readers, and whoever comes after a crash, see the old content or
/// the new one and nothing else.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    replace(path, content, true)
}

/// As [`write_whole`], for content whose loss in a power failure costs only time.
pub(crate) fn write_cache(path: &Path, content: &[u8]) -> Result<()> {
    replace(path, content, false)
}

fn replace(path: &Path, content: &[u8], durable: bool) -> Result<()> {
    let what = || format!("write {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", unique()));
    let temporary = path.with_file_name(name);
    let written: std::io::Result<()> = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)?;
        if durable && let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.context(what)
}

pub(crate) fn open_lock(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .context(|| format!("open {}", path.display()))
}

/// A directory of an operation under way; removed with everything in it when dropped, or by the
/// next sweep if the process is killed.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    pub fn new(parent: &Path) -> Result<Self> {
        loop {
            let path = parent.join(unique());
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                // Left by a killed process that had our process id.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).context(|| format!("make {}", path.display()));
                }
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir(&path).context(|| format!("make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = crate::tree::remove_path(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a temporary directory");
        }
    }
}
