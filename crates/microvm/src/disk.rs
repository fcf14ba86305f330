//! A sandbox's own disk: sparse, with an ext4 file system that was made once and is copied.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_model::{ByteSize, Error, Result};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::cache;

/// What a sandbox can write at most where nothing is asked for; only what is written takes room.
pub const DEFAULT_SIZE: ByteSize = ByteSize(10 << 30);

/// A quarter of it is the journal's, and 48 MiB are left for files; mkfs.ext4 refuses half of it.
pub const MINIMUM_SIZE: ByteSize = ByteSize::from_mib(64);

/// Half of what ext4 on the host can hold in one file.
pub const MAXIMUM_SIZE: ByteSize = ByteSize(8 << 40);

/// Whether a disk of this size can be made.
///
/// # Errors
/// `InvalidInput` where it is too small or too large.
pub fn check_size(size: ByteSize) -> Result<()> {
    if size < MINIMUM_SIZE {
        return Err(Error::invalid(format!(
            "a micro VM's disk is at least {MINIMUM_SIZE}, not {size}: 16MiB of it are its journal"
        )));
    }
    if size > MAXIMUM_SIZE {
        return Err(Error::invalid(format!(
            "a micro VM's disk is at most {MAXIMUM_SIZE}, not {size}"
        )));
    }
    Ok(())
}

/// The disk's path in `writable`; it is made where it does not exist, and kept where it does.
///
/// # Errors
/// `InvalidInput` as [`check_size`] has it; `Conflict` where the disk that exists has another size.
pub(crate) fn ensure(writable: &Path, size: Option<ByteSize>, cache_dir: &Path) -> Result<PathBuf> {
    // Whole MiB, so that the file system has no rest.
    let size = size.map(|size| ByteSize::from_mib(size.mib()));
    let disk = writable.join("disk.ext4");
    if let Ok(metadata) = fs::metadata(&disk) {
        let present = ByteSize(metadata.len());
        return match size {
            Some(size) if size != present => Err(Error::conflict(format!(
                "the sandbox has a disk of {present}, and one of {size} is asked for: a disk keeps \
                 its size, remove the sandbox and create it again"
            ))),
            _ => Ok(disk),
        };
    }
    let size = size.unwrap_or(DEFAULT_SIZE);
    check_size(size)?;
    let template = template(size, cache_dir)?;
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

fn template(size: ByteSize, cache_dir: &Path) -> Result<PathBuf> {
    let path = cache_dir.join(format!("disk-{}MiB.ext4", size.mib()));
    if path.exists() {
        return Ok(path);
    }
    cache::make_once(&path, |temporary| -> io::Result<()> {
        File::create(temporary)?.set_len(size.bytes())?;
        make_file_system(temporary, size)
    })
    .map_err(|error| {
        let hint = "make the template of a micro VM's disk: is the package e2fsprogs installed?";
        Error::host(hint).with_source(error)
    })?;
    Ok(path)
}

fn make_file_system(path: &Path, size: ByteSize) -> io::Result<()> {
    // Large files take few inodes' room; a small disk needs as many as a package manager makes.
    let bytes_per_inode = if size < DEFAULT_SIZE {
        "16384"
    } else {
        "65536"
    };
    // The directories that the guest's overlay needs: to make them at each start costs the guest more.
    let content = path.with_extension("content");
    for directory in ["upper", "work"] {
        fs::create_dir_all(content.join(directory))?;
    }
    // `lazy_*`: nothing is written that reads as zeros anyway.
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-m", "0", "-J", "size=16"])
        .args(["-i", bytes_per_inode])
        .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
        .arg("-d")
        .arg(&content)
        .arg(path)
        .stdin(Stdio::null())
        .output();
    fs::remove_dir_all(&content)?;
    let output = output?;
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
    fn a_disk_has_the_size_that_is_asked_for_and_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let (writable, cache) = (
            directory.path().join("root"),
            directory.path().join("cache"),
        );
        let size = ByteSize((64 << 20) + 1);
        let disk = ensure(&writable, Some(size), &cache).unwrap();
        assert_eq!(fs::metadata(&disk).unwrap().len(), 65 << 20);
        assert!(cache.join("disk-65MiB.ext4").is_file());
        assert_eq!(ensure(&writable, Some(size), &cache).unwrap(), disk);
        assert_eq!(ensure(&writable, None, &cache).unwrap(), disk);
        let larger = Some(ByteSize::from_mib(128));
        let error = ensure(&writable, larger, &cache).unwrap_err();
        assert_eq!(error.kind(), bulkhead_model::ErrorKind::Conflict);
        assert!(error.to_string().contains("65MiB"), "{error}");
    }

    #[test]
    fn a_size_has_bounds() {
        for (size, bound) in [
            (ByteSize(0), "at least 64MiB"),
            (ByteSize((64 << 20) - 1), "at least 64MiB"),
            (ByteSize(u64::MAX), "at most 8TiB"),
        ] {
            let error = check_size(size).unwrap_err();
            assert!(error.to_string().contains(bound), "{error}");
        }
        check_size(MINIMUM_SIZE).unwrap();
        check_size(MAXIMUM_SIZE).unwrap();
    }

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
