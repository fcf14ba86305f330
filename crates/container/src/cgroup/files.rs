//! Reads and writes the small text files of a control group.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};

use crate::failure::Context;

pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .host(|| format!("write '{value}' to {}", path.display()))
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

/// A group's directory with all below it, the deepest first.
pub(super) fn descendants(path: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        all.extend(descendants(&entry.path()));
    }
    all.push(path.to_owned());
    all
}
