//! One read-only EROFS image per OCI image, shared by all guests that run it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_model::{Error, Result};
use rustix::mount::{MountFlags, mount};

use crate::cache;
use crate::launch::{Launcher, enter_private_mounts, text};

/// The image of these layers (the topmost first), made where the cache does not have it.
///
/// # Errors
/// `Unsupported` where `mkfs.erofs` is missing; `Host` if it fails. No mount and no partial image
/// is left behind.
pub fn ensure(
    layers: &[PathBuf],
    chain_id: &str,
    cache_dir: &Path,
    launcher: &Launcher,
) -> Result<PathBuf> {
    if chain_id.is_empty() || !chain_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Error::invalid(format!(
            "'{chain_id}' does not name the content of an image"
        )));
    }
    let path = cache_dir.join("rootfs").join(format!("{chain_id}.erofs"));
    if path.exists() {
        return Ok(path);
    }
    let wrapped = cache::make_once(&path, |temporary| -> std::io::Result<()> {
        build(layers, temporary, launcher).map_err(std::io::Error::other)
    });
    match wrapped {
        Ok(()) => Ok(path),
        Err(error) => match error.downcast::<Error>() {
            Ok(error) => Err(error),
            Err(error) => Err(Error::host(format!("make {}", path.display())).with_source(error)),
        },
    }
}

fn build(layers: &[PathBuf], image: &Path, launcher: &Launcher) -> Result<()> {
    let mount_point = image.with_extension("mount");
    fs::create_dir_all(&mount_point).map_err(|error| {
        Error::host(format!("make {}", mount_point.display())).with_source(error)
    })?;
    let output = launcher
        .command("rootfs")
        .arg(image)
        .arg(&mount_point)
        .args(layers)
        .stdin(Stdio::null())
        .output();
    // The overlay was mounted in a namespace that is gone; the directory is empty here.
    let _ = fs::remove_dir(&mount_point);
    let output = output.map_err(|error| {
        Error::host(format!("run {}", launcher.program.display())).with_source(error)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(Error::host(format!(
        "make the root filesystem image for the micro VM: {}",
        reason.trim()
    )))
}

/// The launcher's side: `IMAGE MOUNT_POINT LAYER…`.
pub(crate) fn build_main(arguments: Vec<String>) -> Result<()> {
    let [image, mount_point, layers @ ..] = arguments.as_slice() else {
        return Err(Error::invalid("the launcher is not for calling by hand"));
    };
    let mut source = PathBuf::from(mount_point);
    match layers {
        [] => {}
        [layer] => source = PathBuf::from(layer),
        layers => {
            let failed = |errno: rustix::io::Errno| {
                Error::host("mount the image's layers").with_source(errno)
            };
            enter_private_mounts().map_err(failed)?;
            // A colon or a backslash in a path would be read as a separator.
            let lower = layers
                .iter()
                .map(|layer| layer.replace('\\', "\\\\").replace(':', "\\:"))
                .collect::<Vec<_>>()
                .join(":");
            let options = std::ffi::CString::new(format!("lowerdir={lower}"))
                .map_err(|error| Error::invalid("a layer's path").with_source(error))?;
            mount(
                "overlay",
                mount_point,
                "overlay",
                MountFlags::RDONLY,
                options.as_c_str(),
            )
            .map_err(failed)?;
        }
    }
    // Overlay's own marks mean something in a guest that puts an overlay over the image.
    let status = Command::new("mkfs.erofs")
        .args(["--quiet", "-Enoinline_data"])
        .arg(image)
        .arg(text(&source)?)
        .stdout(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::host(format!("mkfs.erofs ended with {status}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::unsupported(
            "micro VMs need mkfs.erofs: install the package erofs-utils",
        )),
        Err(error) => Err(Error::host("run mkfs.erofs").with_source(error)),
    }
}
