//! Files that are made once and shared: written whole under another name, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Writes the file so that nobody ever sees a part of it.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    make_once(path, |temporary| {
        let mut file = File::create(temporary)?;
        file.write_all(content)?;
        file.sync_all()
    })
}

/// Lets `make` make the file under another name, unless it is there; callers at the same time
/// make it once.
pub(crate) fn make_once<E: From<io::Error>>(
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(beside(path, "lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(io::Error::from)?;
    if path.exists() {
        return Ok(());
    }
    // Whoever was killed while it made the file has left this; it is ours now.
    let temporary = beside(path, "partial");
    let _ = fs::remove_file(&temporary);
    let result = make(&temporary).and_then(|()| Ok(fs::rename(&temporary, path)?));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// FNV-1a: names a content of our own making, so that it need not resist an attacker.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
