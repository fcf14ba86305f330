//! A sandbox's own disk: sparse, with an ext4 file system that was made once and is copied.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_model::{ByteSize, Error, Result};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::cache;

/// What a sandbox can write at most; only what is written takes room.
const SIZE: ByteSize = ByteSize(10 << 30);

/// The disk's path in `writable`; it is made where it does not exist, and kept where it does.
pub(crate) fn ensure(writable: &Path, cache_dir: &Path) -> Result<PathBuf> {
    let disk = writable.join("disk.ext4");
    if disk.exists() {
        return Ok(disk);
    }
    let template = template(cache_dir)?;
    let copied = fs::create_dir_all(writable).and_then(|()| {
        let partial = writable.join("disk.ext4.partial");
        copy_sparse(&template, &partial)?;
        fs::rename(&partial, &disk)
    });
    copied.map_err(|error| {
        Error::host(format!("make the disk {}", disk.display())).with_source(error)
    })?;
    Ok(disk)
}

fn template(cache_dir: &Path) -> Result<PathBuf> {
    let path = cache_dir.join(format!("disk-{}.ext4", SIZE));
    if path.exists() {
        return Ok(path);
    }
    cache::make_once(&path, |temporary| -> io::Result<()> {
        File::create(temporary)?.set_len(SIZE.bytes())?;
        make_file_system(temporary)
    })
    .map_err(|error| {
        let hint = "make the template of a micro VM's disk: is the package e2fsprogs installed?";
        Error::host(hint).with_source(error)
    })?;
    Ok(path)
}

fn make_file_system(path: &Path) -> io::Result<()> {
    // `lazy_*`: nothing is written that reads as zeros anyway.
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-i", "65536", "-J", "size=16"])
        .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
        .arg(path)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("mkfs.ext4: {}", reason.trim())));
    }
    Ok(())
}

/// Copies a file and leaves its holes out.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(to)?;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut position = 0;
    while position < length {
        let start = match rustix::fs::seek(&source, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(&source, SeekFrom::Hole(start))?;
        let (mut read_at, mut write_at) = (start, start);
        while read_at < end {
            let count = usize::try_from(end - read_at).unwrap_or(usize::MAX);
            let copied = rustix::fs::copy_file_range(
                &source,
                Some(&mut read_at),
                &target,
                Some(&mut write_at),
                count,
            )?;
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        position = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_stay_holes() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let mut file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.seek(io::SeekFrom::Start(32 << 20)).unwrap();
        file.write_all(b"data").unwrap();
        copy_sparse(&from, &to).unwrap();
        let mut copy = File::open(&to).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), 64 << 20);
        assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20);
        copy.seek(io::SeekFrom::Start(32 << 20)).unwrap();
        let mut data = [0; 4];
        copy.read_exact(&mut data).unwrap();
        assert_eq!(&data, b"data");
    }
}
