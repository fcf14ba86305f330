//! Without pivot_root(2) the host's mounts stay in the container's mount namespace, below its
//! root. The host's procfs and sysfs among them would let a user namespace of the container mount
//! its own, with nothing masked: the kernel allows that where a whole one is mounted already.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use bulkhead_model::Result;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};

use crate::failure::Context;

/// Takes away every whole procfs and sysfs that is not below `root`; nothing is done to the host's
/// own. Legal as long as paths are the host's; `/proc` is gone afterwards.
pub(super) fn hide_proc_and_sys(root: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .host(|| "read /proc/self/mountinfo".into())?;
    // The last are on top.
    for place in whole(&mounts).into_iter().rev() {
        if place.starts_with(root) {
            continue;
        }
        let doing = || format!("take the host's mount {} away", place.display());
        let alone = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        match mount_change(&place, alone) {
            // It went with one that it was on, or something lies over it.
            Err(Errno::INVAL | Errno::NOENT) => continue,
            result => result.host(doing)?,
        }
        match unmount(&place, UnmountFlags::DETACH) {
            // It is locked, as it came from outside of the user namespace: cover it.
            Err(Errno::INVAL | Errno::PERM) => {
                mount("tmpfs", &place, "tmpfs", MountFlags::empty(), None).host(doing)?;
            }
            result => result.host(doing)?,
        }
    }
    Ok(())
}

/// The places where a procfs or sysfs is mounted whole (proc(5), `mountinfo`).
fn whole(mounts: &str) -> Vec<PathBuf> {
    let place = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let kind = filesystem.split(' ').next()?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (matches!(kind, "proc" | "sysfs") && root == "/").then(|| unescape(place))
    };
    mounts.lines().filter_map(place).collect()
}

/// Blanks and their like are written as `\040`.
fn unescape(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'\\').then(|| after.get(..3)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_procfs_and_sysfs_are_found() {
        let mounts = "\
1 0 8:1 / / rw - ext4 /dev/vda rw
2 1 0:5 / /proc rw shared:1 - proc proc rw
3 2 0:5 /sys /x rw - proc proc rw
4 1 0:6 / /my\\040sys ro - sysfs sysfs ro
5 1 0:7 / /sys/fs/cgroup rw - tmpfs tmpfs rw
";
        assert_eq!(whole(mounts), ["/proc", "/my sys"].map(PathBuf::from));
    }
}
