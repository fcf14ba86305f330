//! One read-only EROFS image per OCI image, shared by all guests that run it.

use std::ffi::{CString, OsString};
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_model::{Error, Result};
use rustix::mount::{MountFlags, mount, mount_bind};

use crate::cache;
use crate::launch::{Launcher, enter_private_mounts};

/// Where the tree that becomes the image is mounted, below the mount point.
const TREE: &str = "tree";

/// Bytes in the longest name of a file on Linux.
const NAME_MAX: usize = 255;

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
    let wrapped = cache::make_once(&path, |temporary| -> io::Result<()> {
        build(layers, temporary, launcher).map_err(io::Error::other)
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
    // What was mounted was in a namespace that is gone; the directory is empty here.
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
    let image = std::path::absolute(image)
        .map_err(|error| Error::invalid(format!("find {image}")).with_source(error))?;
    mount_layers(Path::new(mount_point), layers)
        .map_err(|error| Error::host("mount the image's layers").with_source(error))?;
    // The launcher is in `mount_point` now.
    let whiteouts = idle_whiteouts(Path::new(TREE))
        .map_err(|error| Error::host("read the image's layers").with_source(error))?;
    let mut command = Command::new("mkfs.erofs");
    command.args(["--quiet", "-Enoinline_data"]);
    if !whiteouts.is_empty() {
        // The search for attributes to share leaves nothing out; this tolerance skips it.
        command.arg(format!("-x{}", i32::MAX));
    }
    for path in whiteouts {
        let mut option = OsString::from("--exclude-path=");
        option.push(path);
        command.arg(option);
    }
    let status = command.arg(image).arg(TREE).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(match name_of_full_length(Path::new(TREE)) {
            Some(name) => Error::unsupported(format!(
                "the name {} is {NAME_MAX} bytes long, which mkfs.erofs 1.5 cannot keep: shorten it, \
                 or use the runtime 'container'",
                Path::new("/").join(name).display()
            )),
            None => Error::host(format!("mkfs.erofs ended with {status}")),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::unsupported(
            "micro VMs need mkfs.erofs: install the package erofs-utils",
        )),
        Err(error) => Err(Error::host("run mkfs.erofs").with_source(error)),
    }
}

/// The path in the tree of a name that is as long as Linux allows. mkfs.erofs 1.5 cuts off its last
/// byte, does not find the file then, and does not say which.
fn name_of_full_length(tree: &Path) -> Option<PathBuf> {
    let has_full_length = |entry: &DirEntry| entry.file_name().len() == NAME_MAX;
    paths(tree, has_full_length).ok()?.into_iter().next()
}

/// Whiteouts that hide nothing, in directories of one layer alone: overlay lists them and does not
/// find them, and mkfs.erofs gives up at them.
fn idle_whiteouts(tree: &Path) -> io::Result<Vec<PathBuf>> {
    paths(tree, |entry| {
        let is_device = entry.file_type().is_ok_and(|kind| kind.is_char_device());
        let found = || fs::symlink_metadata(entry.path());
        is_device && found().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    })
}

/// Paths in the tree, relative to it, of the entries that are asked for.
fn paths(tree: &Path, is_asked_for: impl Fn(&DirEntry) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(tree.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            if is_asked_for(&entry) {
                found.push(path);
            } else if entry.file_type()?.is_dir() {
                directories.push(path);
            }
        }
    }
    Ok(found)
}

/// Mounts the layers at [`TREE`] below `mount_point`, in a mount namespace of this process alone,
/// and changes to `mount_point`.
///
/// Each layer is bound to a short name first: options fit one page however many layers there are,
/// and nothing in a path is read as a separator. The empty layer at the bottom lets overlay mount a
/// single layer too, so that its marks are carried out and not copied.
fn mount_layers(mount_point: &Path, layers: &[String]) -> io::Result<()> {
    const BOTTOM: &str = "bottom";
    enter_private_mounts()?;
    let sources = layers.iter().map(std::path::absolute);
    let sources: Vec<PathBuf> = sources.collect::<io::Result<_>>()?;
    mount(
        "tmpfs",
        mount_point,
        "tmpfs",
        MountFlags::empty(),
        c"mode=0755",
    )?;
    rustix::process::chdir(mount_point)?;
    fs::create_dir(TREE)?;
    if sources.is_empty() {
        return Ok(());
    }
    fs::create_dir(BOTTOM)?;
    let mut lower = String::new();
    for (index, source) in sources.iter().enumerate() {
        let name = index.to_string();
        fs::create_dir(&name)?;
        mount_bind(source, &name)?;
        lower.push_str(&name);
        lower.push(':');
    }
    let options = CString::new(format!("lowerdir={lower}{BOTTOM}"))?;
    let flags = MountFlags::RDONLY;
    Ok(mount(
        "overlay",
        TREE,
        "overlay",
        flags,
        options.as_c_str(),
    )?)
}
