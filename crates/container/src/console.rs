//! The terminal of a process, from the container's own devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_model::{Error, Result, TerminalSize};
use rustix::fs::{FileType, Mode, OFlags, fstat, fstatfs, major, minor, openat};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::failure::Context;
use crate::mounts;
use crate::resolve;

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS: i64 = 0x1cd1;

/// The two ends of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

impl Terminal {
    /// Opens a terminal of the devpts behind `devpts`, which a container may have replaced.
    pub(crate) fn open(devpts: impl AsFd, size: TerminalSize) -> Result<Self> {
        let doing = || "make a terminal".to_owned();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let master = openat(devpts, "ptmx", flags, Mode::empty()).host(doing)?;
        let status = fstat(&master).host(doing)?;
        let is_ptmx = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
            && (major(status.st_rdev), minor(status.st_rdev)) == (5, 2);
        if !is_ptmx || fstatfs(&master).host(doing)?.f_type as i64 != DEVPTS {
            return Err(Error::host(
                "make a terminal: /dev/pts/ptmx in the container is none",
            ));
        }
        unlockpt(&master).host(doing)?;
        // By descriptor: the path of the other end could be anything in the container.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).host(doing)?;
        let terminal = Self { master, slave };
        resize(terminal.master.as_fd(), size)?;
        Ok(terminal)
    }

    /// Binds the terminal to `/dev/console`.
    pub(crate) fn bind_console(&self, dev: &OwnedFd, devpts: &OwnedFd) -> Result<()> {
        let doing = || "bind the terminal to /dev/console".to_owned();
        let name = rustix::pty::ptsname(&self.master, Vec::new()).host(doing)?;
        let name = name.to_string_lossy();
        let number = name.rsplit('/').next().unwrap_or_default();
        let copy = mounts::clone_mount(devpts, number).host(doing)?;
        // The number may lead elsewhere by now: what is bound must be this terminal
        // (CVE-2025-52565).
        let (bound, ours) = (fstat(&copy).host(doing)?, fstat(&self.slave).host(doing)?);
        if (bound.st_dev, bound.st_ino) != (ours.st_dev, ours.st_ino) {
            return Err(Error::host(
                "bind the terminal to /dev/console: it was exchanged",
            ));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = match openat(dev, "console", flags, Mode::from_raw_mode(0o600)) {
            // In an image that brings a `/dev` of its own.
            Err(Errno::EXIST) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(dev, "console", flags, Mode::empty())
            }
            result => result,
        }
        .host(doing)?;
        resolve::attach(copy, target).host(doing)
    }
}

pub(crate) fn resize(master: BorrowedFd<'_>, size: TerminalSize) -> Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).host(|| "set the terminal's size".into())
}
