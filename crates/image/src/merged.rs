//! The merged view of layers, as the kernel's overlayfs gives it.
//!
//! The overlay is mounted detached (`fsmount(2)`): it is in no mount namespace, it is reached by
//! its descriptor alone, and it is gone when the descriptor is closed, also by `kill -9`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::failure::Context;
use crate::rooted::Rooted;

/// What kernels before 6.5 take: all lower directories in one string of 255 bytes.
const OLD_KERNEL_STRING: usize = 255;

/// Mounts `layers` (topmost first) on each other, writable into `upper` if it is given with its
/// work directory.
///
/// # Errors
/// `Unsupported` if the kernel is too old for that many layers; `Host` if it cannot mount at all.
pub(crate) fn mount(layers: &[PathBuf], upper: Option<(&Path, &Path)>) -> Result<Rooted> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .context(|| "open overlayfs (is the kernel's overlay module there?)")?;
    // Layers are given by descriptor: their paths may be longer than an option may be.
    let mut held = Vec::new();
    for layer in layers {
        held.push(open_path(layer)?);
    }
    if let [only] = layers
        && upper.is_none()
    {
        // Without an upper directory overlayfs wants two; the same one twice is refused.
        let empty = only.parent().map(|parent| parent.join("empty"));
        let Some(empty) = empty.filter(|empty| empty.is_dir() && empty != only) else {
            return Ok(Rooted::from_fd(held.remove(0)));
        };
        held.push(open_path(&empty)?);
    }
    let through = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut appended = true;
    for (index, fd) in held.iter().enumerate() {
        if let Err(error) = fsconfig_set_string(overlay.as_fd(), "lowerdir+", through(fd)) {
            if index > 0 {
                return Err(error)
                    .context(|| format!("add a layer to the overlay{}", log(&overlay)));
            }
            appended = false;
            break;
        }
    }
    if !appended {
        let all = held.iter().map(through).collect::<Vec<_>>().join(":");
        if all.len() > OLD_KERNEL_STRING {
            return Err(Error::unsupported(format!(
                "mount an overlay of {} layers: this kernel takes about {}; use Linux 6.5 or newer, or an image with fewer layers",
                held.len(),
                OLD_KERNEL_STRING / 18
            )));
        }
        fsconfig_set_string(overlay.as_fd(), "lowerdir", all)
            .context(|| format!("set the overlay's layers{}", log(&overlay)))?;
    }
    let mut upper_fds = Vec::new();
    if let Some((upper, work)) = upper {
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            let fd = open_path(path)?;
            fsconfig_set_string(overlay.as_fd(), key, through(&fd))
                .context(|| format!("set the overlay's {key}{}", log(&overlay)))?;
            upper_fds.push(fd);
        }
        // A layer holds whole files and directories, with no reference to what is below it.
        for key in ["redirect_dir", "metacopy", "index"] {
            fsconfig_set_string(overlay.as_fd(), key, "off")
                .context(|| format!("set the overlay's {key}"))?;
        }
    } else {
        fsconfig_set_flag(overlay.as_fd(), "ro").context(|| "make the overlay read-only")?;
    }
    fsconfig_create(overlay.as_fd()).context(|| {
        format!(
            "mount an overlay of {} layers{}",
            layers.len(),
            log(&overlay)
        )
    })?;
    let mount = fsmount(
        overlay.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .context(|| "mount the overlay detached")?;
    Ok(Rooted::from_fd(mount))
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| format!("open layer {}", path.display()))
}

/// What the kernel says about the last failure.
fn log(overlay: &OwnedFd) -> String {
    let mut text = [0; 256];
    match rustix::io::read(overlay, &mut text) {
        Ok(length) => format!(" ({})", String::from_utf8_lossy(&text[..length]).trim()),
        Err(_) => String::new(),
    }
}
