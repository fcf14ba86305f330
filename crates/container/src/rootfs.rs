//! The root filesystem: an overlay of the image's layers, mounted in the container's own mount
//! namespace, so that nothing of it is on the host or outlives the container.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use bulkhead_model::{Error, Result, RootFilesystem};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};

use crate::failure::Context;
use crate::mounts::Tmpfs;
use crate::resolve::{self, Root};
use crate::sys;

/// The options of a mount must fit one page.
const MAXIMUM_OPTIONS: usize = 4000;

/// Mounts the root over its own writable directory: no mount point has to be made and removed.
pub(crate) fn mount_root(root: &RootFilesystem) -> Result<Root> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .host(|| "make the mounts private".into())?;
    let upper = root.writable.join("upper");
    if root.layers.is_empty() {
        mount_bind(&upper, &root.writable).host(|| "mount an empty root".into())?;
        return Root::open(&root.writable);
    }
    let options = options(
        root.layers
            .iter()
            .map(|layer| text(layer))
            .collect::<Result<Vec<_>>>()?,
        text(&upper)?,
        text(&root.writable.join("work"))?,
    );
    if options.len() <= MAXIMUM_OPTIONS && !needs_escape(root) {
        overlay(&options, &root.writable)?;
    } else {
        mount_many(root)?;
    }
    Root::open(&root.writable)
}

fn overlay(options: &str, target: &Path) -> Result<()> {
    let options = std::ffi::CString::new(options)
        .map_err(|error| Error::invalid("a layer's path contains a NUL byte").with_source(error))?;
    mount(
        "overlay",
        target,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .host(|| {
        format!(
            "mount the overlay root with {}: see dmesg for the kernel's reason",
            options.to_string_lossy()
        )
    })
}

fn options<S: AsRef<str>>(layers: Vec<S>, upper: &str, work: &str) -> String {
    let layers: Vec<&str> = layers.iter().map(AsRef::as_ref).collect();
    format!(
        "lowerdir={},upperdir={upper},workdir={work}",
        layers.join(":")
    )
}

/// Characters that mean something in the options.
fn needs_escape(root: &RootFilesystem) -> bool {
    let special = |path: &Path| path.to_string_lossy().contains([':', ',', '\\', '"']);
    special(&root.writable) || root.layers.iter().any(|layer| special(layer))
}

/// Binds every layer to a short name on a tmpfs first, for which any kernel will do.
fn mount_many(root: &RootFilesystem) -> Result<()> {
    let doing = || "gather the layers of the root".to_owned();
    let names: Vec<String> = (0..root.layers.len())
        .map(|index| index.to_string())
        .collect();
    let writable = fs::File::open(&root.writable).host(doing)?;
    let stage = Tmpfs::default().make()?;
    // Hides the writable directory, which stays reachable by its descriptor.
    let under = Root::open(&root.writable)?;
    resolve::attach(&stage, &under).host(doing)?;
    for (name, source) in names.iter().zip(&root.layers) {
        let target = root.writable.join(name);
        fs::create_dir(&target).host(doing)?;
        mount_bind(source, &target).host(|| format!("bind the layer {}", source.display()))?;
    }
    let own = root.writable.join("w");
    fs::create_dir(&own).host(doing)?;
    mount_bind(
        format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&writable)
        ),
        &own,
    )
    .host(doing)?;
    rustix::process::chdir(&root.writable).host(doing)?;
    overlay(&options(names, "w/upper", "w/work"), &root.writable)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::invalid(format!("the path {} is not UTF-8", path.display())))
}

/// Makes `root` the root of this mount namespace and lets go of the host's.
pub(crate) fn enter(root: &Root, read_only: bool) -> Result<()> {
    if read_only {
        sys::mount_setattr(root.as_fd(), false, sys::MOUNT_ATTR_RDONLY)
            .host(|| "make the root read-only".into())?;
    }
    let doing = || "change to the container's root".to_owned();
    rustix::process::fchdir(root).host(doing)?;
    // The old root ends up on top of the new one (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".").host(doing)?;
    unmount(".", UnmountFlags::DETACH).host(doing)?;
    rustix::process::chdir("/").host(doing)
}
