use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use bulkhead_model::{ByteSize, Error, Result};

use super::{ImageStore, files};
use crate::build::BuildCache;
use crate::config::Manifest;
use crate::failure::Context;
use crate::{Digest, ImageId, Reference, tree};

/// Says whether a sandbox uses an image.
pub type InUse<'a> = &'a dyn Fn(&ImageId) -> bool;

/// One thing that a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name, as users write it.
    Untagged(String),
    /// An image or a layer, by its digest.
    Deleted(String),
}

impl fmt::Display for Removed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Removed::Untagged(name) => write!(formatter, "untagged: {name}"),
            Removed::Deleted(digest) => write!(formatter, "deleted: {digest}"),
        }
    }
}

/// What the store takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUsage {
    pub images: u64,
    /// Of all layers that images have, each counted once.
    pub image_size: ByteSize,
    pub dangling: u64,
    /// Of layers that only the build cache keeps.
    pub build_cache_size: ByteSize,
    pub layers: u64,
}

impl ImageStore {
    /// Takes a name from an image, and removes the image with its last name. Given an id, takes
    /// all names. Layers that other images or the build cache use stay.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if a sandbox uses the image that would be removed, or if an id is
    /// given and the image has several names, both unless `force` is given. A forced removal takes
    /// the names of an image in use and keeps its content, dangling.
    pub fn remove(
        &self,
        reference_or_id: &str,
        force: bool,
        in_use: InUse<'_>,
    ) -> Result<Vec<Removed>> {
        let removed = self.change_index(|index| {
            let manifest = self.find(index, reference_or_id)?;
            let id = self.load(manifest)?.id;
            let names = index.references_of(&manifest);
            let name = Reference::parse(reference_or_id)
                .ok()
                .filter(|name| names.contains(name));
            let used = in_use(&id);
            let last = name.is_none() || names.len() == 1;
            if last && used && !force {
                return Err(Error::conflict(format!(
                    "image '{reference_or_id}' is used by a sandbox: remove the sandbox first, or take only the name away with --force"
                )));
            }
            if name.is_none() && names.len() > 1 && !force {
                let names: Vec<_> = names.iter().map(Reference::familiar).collect();
                return Err(Error::conflict(format!(
                    "image '{reference_or_id}' has several names ({}): remove them by name, or all with --force",
                    names.join(", ")
                )));
            }
            let mut removed = Vec::new();
            let taken = match name {
                Some(name) => vec![name],
                None => names,
            };
            for name in taken {
                index.unname(&name);
                removed.push(Removed::Untagged(name.familiar()));
            }
            if last && !used {
                index.remove(&manifest);
                removed.push(Removed::Deleted(id.to_string()));
            }
            Ok(removed)
        })?;
        let mut removed = removed;
        if matches!(removed.last(), Some(Removed::Deleted(_))) {
            removed.extend(self.sweep(false)?);
        }
        Ok(removed)
    }

    /// Removes dangling images that no sandbox uses (with `all`: all images that no sandbox
    /// uses), and with `build_cache` what only the build cache keeps.
    pub fn prune(&self, all: bool, build_cache: bool, in_use: InUse<'_>) -> Result<Vec<Removed>> {
        let mut removed = self.change_index(|index| {
            let mut removed = Vec::new();
            for manifest in index.manifests() {
                let names = index.references_of(&manifest);
                let id = self.load(manifest)?.id;
                if (names.is_empty() || all) && !in_use(&id) {
                    index.remove(&manifest);
                    removed.extend(names.iter().map(|name| Removed::Untagged(name.familiar())));
                    removed.push(Removed::Deleted(id.to_string()));
                }
            }
            Ok(removed)
        })?;
        removed.extend(self.sweep(build_cache)?);
        Ok(removed)
    }

    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let index = self.index()?;
        let mut usage = DiskUsage::default();
        let mut used = HashSet::new();
        for manifest in index.manifests() {
            usage.images += 1;
            usage.dangling += u64::from(index.references_of(&manifest).is_empty());
            for layer in &self.load(manifest)?.layers {
                if used.insert(layer.name.clone()) {
                    usage.image_size.0 += layer.content_size;
                    usage.layers += 1;
                }
            }
        }
        for name in entries(&self.path("layers"))? {
            if !used.contains(&name)
                && let Some(layer) = self.layer_named(&name)
            {
                usage.build_cache_size.0 += layer.content_size;
                usage.layers += 1;
            }
        }
        Ok(usage)
    }

    /// Removes everything that nothing refers to: leftovers of killed operations, blobs, layers.
    /// Does nothing while an operation is under way; the next sweep does it then.
    pub(super) fn sweep(&self, build_cache: bool) -> Result<Vec<Removed>> {
        let lock = files::open_lock(&self.path("activity.lock"))?;
        if lock.try_lock().is_err() {
            return Ok(Vec::new());
        }
        if build_cache {
            for part in ["cache-mounts", "build-cache"] {
                for name in entries(&self.path(part))? {
                    tree::remove_path(&self.path(part).join(name))?;
                }
            }
        }
        for name in entries(&self.path("temporary"))? {
            tree::remove_path(&self.path("temporary").join(name))?;
        }
        self.remove_unfinished_files()?;
        let index = self.index()?;
        let mut blobs = HashSet::new();
        let mut layers: HashSet<Digest> = BuildCache::new(self).layers()?;
        for manifest in index.manifests() {
            let document: Manifest = self.read_blob(&manifest)?;
            blobs.insert(manifest.hex());
            blobs.insert(document.config.digest.hex());
            layers.extend(self.load(manifest)?.config.rootfs.diff_ids.iter());
        }
        for name in entries(&self.path("blobs/sha256"))? {
            if !blobs.contains(&name) {
                tree::remove_path(&self.path("blobs/sha256").join(name))?;
            }
        }
        let mut removed = Vec::new();
        for name in entries(&self.path("layers"))? {
            let info = self.layer_named(&name);
            if name == "empty"
                || info
                    .as_ref()
                    .is_some_and(|info| layers.contains(&info.diff_id))
            {
                continue;
            }
            // Out of sight by one rename, then removed file by file.
            let doomed = files::Temporary::new(&self.path("temporary"))?;
            std::fs::rename(self.layer_path(&name), doomed.path().join("layer"))
                .context(|| format!("remove layer {name}"))?;
            if let Some(info) = info {
                removed.push(Removed::Deleted(info.diff_id.to_string()));
            }
        }
        for name in entries(&self.path("layer-info"))? {
            if !self.layer_path(&name).is_dir() {
                tree::remove_path(&self.path("layer-info").join(name))?;
            }
        }
        self.loaded
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|manifest, _| blobs.contains(&manifest.hex()));
        Ok(removed)
    }

    /// Removes what killed writers of the store's own files left.
    fn remove_unfinished_files(&self) -> Result<()> {
        let index_lock = files::open_lock(&self.path("index.lock"))?;
        index_lock
            .lock()
            .context(|| "wait for the image index's lock")?;
        for name in entries(self.directory())? {
            if name.ends_with(".new") {
                tree::remove_path(&self.path(&name))?;
            }
        }
        Ok(())
    }
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    let what = || format!("list {}", directory.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).context(what)? {
        if let Ok(name) = entry.context(what)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}
