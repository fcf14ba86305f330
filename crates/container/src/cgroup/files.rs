//! Reads, writes and removes what a control group consists of.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bulkhead_model::{Error, Result};

use crate::failure::Context;

use super::wait_until;

pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    try_write(path, value).host(|| format!("write '{value}' to {}", path.display()))
}

/// As [`write`], with the operating system's own error.
pub(super) fn try_write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
}

pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).host(|| format!("read {}", path.display()))
}

/// A file with one number; `max` is `None`.
pub(super) fn number(path: &Path) -> Result<Option<u64>> {
    let text = read(path)?;
    match text.trim() {
        "max" => Ok(None),
        digits => digits
            .parse()
            .map(Some)
            .map_err(|error| Error::host(format!("read {}", path.display())).with_source(error)),
    }
}

/// The value of a line `KEY VALUE`.
pub(super) fn keyed(path: &Path, key: &str) -> Result<Option<u64>> {
    Ok(value_of(&read(path)?, key))
}

pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// The processes of one group, without those of the groups below it.
pub(super) fn processes(directory: &Path) -> Vec<i32> {
    let numbers =
        |text: String| -> Vec<i32> { text.lines().filter_map(|line| line.parse().ok()).collect() };
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => numbers(text),
        // A threaded group of v2 tells of threads alone; a thread's number reaches its process.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            fs::read_to_string(directory.join("cgroup.threads"))
                .map(numbers)
                .unwrap_or_default()
        }
        Err(_) => Vec::new(),
    }
}

/// A group's directory with all below it, the deepest first.
pub(super) fn descendants(path: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for child in children(path) {
        all.extend(descendants(&child));
    }
    all.push(path.to_owned());
    all
}

fn children(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

/// Removes a group that has neither processes nor groups in it; whether it is gone.
pub(super) fn remove_empty(path: &Path) -> bool {
    match fs::remove_dir(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Removes a group without processes and the groups in it.
pub(super) fn remove(path: &Path, deadline: Instant) -> Result<()> {
    loop {
        let error = match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        // On a read-only mount this is said even of what is not there.
        if error.raw_os_error() == Some(libc::EROFS) && !path.exists() {
            return Ok(());
        }
        let doing = || format!("remove the control group {}", path.display());
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error).host(doing);
        }
        let mut removed = false;
        for child in children(path) {
            remove(&child, deadline)?;
            removed = true;
        }
        if !removed {
            // A process that has ended is counted for a moment longer.
            wait_until(deadline, || Error::host(doing()).with_source(error))?;
        }
    }
}
