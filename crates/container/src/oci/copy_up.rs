//! `tmpcopyup`: a tmpfs that starts with a copy of the directory that it covers (config.md, "Linux
//! mount options").
//!
//! Invariant: both trees are walked by descriptors and no link is followed, as an image decides
//! what is in them.

use std::ffi::CStr;
use std::fs::File;
use std::io::copy;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_model::Result;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, mkdirat, mknodat,
    openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::failure::Context;

/// Copies what is in `from` into `to`, with owners, modes, times and extended attributes.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // By itself the handle of a new mount is good for looking up paths alone.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(to, ".", flags, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|to| directory(from, to.as_fd()))
        .host(|| "tmpcopyup: copy the directory that the tmpfs covers".into())
}

fn directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> std::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = openat(from, ".", flags, Mode::empty())?;
    for entry in Dir::read_from(&readable)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            one(readable.as_fd(), to, entry.file_name())?;
        }
    }
    let status = fstat(&readable)?;
    attributes(&readable, to, &status)
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> std::io::Result<()> {
    let status = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
    let open = |at: BorrowedFd<'_>, flags: OFlags| {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(at, name, flags, Mode::from_raw_mode(0o600))
    };
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let (from, to) = (
                open(from, OFlags::RDONLY | OFlags::DIRECTORY)?,
                open(to, OFlags::RDONLY | OFlags::DIRECTORY)?,
            );
            return directory(from.as_fd(), to.as_fd());
        }
        FileType::RegularFile => {
            let source = open(from, OFlags::RDONLY | OFlags::NONBLOCK)?;
            let target = open(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
            let (mut reader, mut writer) = (File::from(source), File::from(target));
            copy(&mut reader, &mut writer)?;
            return attributes(&OwnedFd::from(reader), writer.as_fd(), &status);
        }
        FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
        kind => mknodat(to, name, kind, mode, status.st_rdev)?,
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let (owner, group) = owners(&status);
    chownat(to, name, owner, group, flags)?;
    Ok(utimensat(to, name, &times(&status), flags)?)
}

fn attributes(from: &OwnedFd, to: BorrowedFd<'_>, status: &Stat) -> std::io::Result<()> {
    let (owner, group) = owners(status);
    fchown(to, owner, group)?;
    fchmod(to, Mode::from_raw_mode(status.st_mode & 0o7777))?;
    let mut names = vec![0; 64 << 10];
    let length = match flistxattr(from, &mut names) {
        Err(Errno::NOTSUP) => 0,
        result => result?,
    };
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 << 10];
        let size = fgetxattr(from, name, &mut value)?;
        match fsetxattr(to, name, &value[..size], XattrFlags::empty()) {
            // A tmpfs has the attributes that the kernel was built with, and a user namespace's
            // root may not set all of them.
            Err(Errno::NOTSUP | Errno::PERM) => {}
            result => result?,
        }
    }
    Ok(futimens(to, &times(status))?)
}

fn owners(status: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(status.st_uid)),
        Some(Gid::from_raw(status.st_gid)),
    )
}

fn times(status: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as i64,
    };
    Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    }
}
