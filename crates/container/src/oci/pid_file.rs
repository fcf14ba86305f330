//! The file that tells the caller a process's number.
//!
//! Invariant: others, who watch it, find it whole or not at all, and whatever kills the runtime
//! leaves nothing beside it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use bulkhead_model::Result;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

use crate::failure::Context;

pub(super) fn write(path: &Path, pid: u32) -> Result<()> {
    let text = pid.to_string();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let written = match open(directory, flags, Mode::from_raw_mode(0o644)) {
        Ok(file) => link(file.into(), &text, path),
        // A filesystem that has no files without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => rename(&text, path),
        Err(error) => Err(error.into()),
    };
    written.host(|| format!("write the pid file {}", path.display()))
}

/// Gives a file without a name its name, when all is in it.
fn link(mut file: File, text: &str, path: &Path) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = || linkat(CWD, &unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW);
    match link() {
        // One of an earlier process.
        Err(Errno::EXIST) => {
            fs::remove_file(path)?;
            Ok(link()?)
        }
        result => Ok(result?),
    }
}

fn rename(text: &str, path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| {
            // The failure itself is the one to tell about.
            let _ = fs::remove_file(&temporary);
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_replace_the_file_and_leave_nothing_else() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("pid");
        for (number, way) in [
            (1, write as fn(&Path, u32) -> Result<()>),
            (22, write),
            (333, |path, pid| {
                rename(&pid.to_string(), path).host(String::new)
            }),
        ] {
            way(&path, number).expect("write");
            assert_eq!(fs::read_to_string(&path).expect("read"), number.to_string());
        }
        assert_eq!(fs::read_dir(&directory).expect("list").count(), 1);
        fs::create_dir(directory.path().join("taken")).expect("directory");
        let taken = directory.path().join("taken");
        write(&taken, 1).expect_err("it is a directory");
        rename("1", &taken).expect_err("it is a directory");
        assert_eq!(fs::read_dir(&directory).expect("list").count(), 2);
    }
}
