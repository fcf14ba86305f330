//! The images of a machine, on disk.
//!
//! ```text
//! DIR/oci-layout, index.json     an OCI image layout: names and their manifests
//! DIR/blobs/sha256/<digest>      manifests and configurations
//! DIR/layers/<12 digits>/        unpacked layers, in overlayfs' own form
//! DIR/layers/empty/              what an image without layers has
//! DIR/layer-info/<12 digits>     DiffID and sizes of a layer
//! DIR/build-cache/, cache-mounts/, file-digests
//! DIR/temporary/                 operations under way; nothing here is ever shown
//! DIR/index.lock                 held while the index is changed
//! DIR/activity.lock              held shared by operations under way, alone while removing
//! ```
//! The archives of layers are not kept: a layer made here has the DiffID of the archive that its
//! directory packs to (`pack_layer`), so an export can make the archive again.
//!
//! Any number of threads and processes may have the store open.

mod files;
mod import;
mod index;
mod layer;
mod remove;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bulkhead_model::{ByteSize, Error, Result};

pub use crate::archive::Limits;
use crate::config::{Descriptor, History, ImageConfig, Manifest};
use crate::failure::Context;
use crate::{Digest, ImageId, Reference};
pub(crate) use files::{Temporary, open_lock, write_cache, write_whole};
pub(crate) use layer::LayerInfo;
pub use remove::{DiskUsage, InUse, Removed};

/// How many names a message about an unknown image lists.
const SUGGESTIONS: usize = 3;

/// A directory of images. Cheap to clone; clones share their caches.
#[derive(Debug, Clone)]
pub struct ImageStore {
    directory: Arc<PathBuf>,
    limits: Limits,
    /// What manifests lead to. A digest names content that never changes.
    loaded: Arc<Mutex<HashMap<Digest, Arc<Loaded>>>>,
}

/// An image, with all that is needed to run it.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    pub id: ImageId,
    /// Sorted; none if it is dangling.
    pub references: Vec<Reference>,
    pub config: ImageConfig,
    /// Topmost first; never empty (an image without layers has an empty directory).
    pub layers: Vec<PathBuf>,
    /// Names the content of all layers together: 64 hexadecimal digits.
    pub chain_id: String,
    /// Of the files in all layers.
    pub size: ByteSize,
    pub created: SystemTime,
}

#[derive(Debug)]
struct Loaded {
    id: ImageId,
    config: ImageConfig,
    layers: Vec<LayerInfo>,
}

/// Keeps others from removing what an operation under way has made and not yet named.
#[derive(Debug)]
pub(crate) struct Lease {
    _lock: File,
}

impl ImageStore {
    /// Opens the store in `directory`, which is made if it does not exist, and removes what
    /// killed operations left behind.
    ///
    /// # Errors
    /// `Host` if the directory cannot be written.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        for part in [
            "blobs/sha256",
            "layers/empty",
            "layer-info",
            "build-cache",
            "cache-mounts",
            "temporary",
        ] {
            let path = directory.join(part);
            std::fs::create_dir_all(&path)
                .context(|| format!("make the image store's directory {}", path.display()))?;
        }
        let directory = directory
            .canonicalize()
            .context(|| format!("open the image store {}", directory.display()))?;
        let layout = directory.join("oci-layout");
        if !layout.exists() {
            write_whole(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        let store = Self {
            directory: Arc::new(directory),
            limits: Limits::default(),
            loaded: Arc::default(),
        };
        store.sweep(false)?;
        Ok(store)
    }

    /// The same store with other limits for what archives may unpack to.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    fn path(&self, part: &str) -> PathBuf {
        self.directory.join(part)
    }

    /// Finds an image by name, by id, or by the first digits of its id.
    ///
    /// # Errors
    /// `NotFound`, with the nearest names; `Conflict` if the digits fit several images.
    pub fn resolve(&self, reference_or_id: &str) -> Result<Image> {
        self.reading(|index| self.image(index, self.find(index, reference_or_id)?))
    }

    /// All images, newest first.
    pub fn list(&self) -> Result<Vec<Image>> {
        let mut images = self.reading(|index| {
            let manifests = index.manifests();
            let images = manifests
                .into_iter()
                .map(|manifest| self.image(index, manifest));
            images.collect::<Result<Vec<_>>>()
        })?;
        images.sort_by(|a, b| b.created.cmp(&a.created).then(a.id.cmp(&b.id)));
        Ok(images)
    }

    /// How an image came to be, oldest first, with the size of each step's layer.
    pub fn history(&self, reference_or_id: &str) -> Result<Vec<(History, ByteSize)>> {
        let loaded = self.reading(|index| self.load(self.find(index, reference_or_id)?))?;
        let mut layers = loaded.layers.iter();
        let mut history = Vec::new();
        for step in &loaded.config.history {
            let size = if step.empty_layer {
                0
            } else {
                layers.next().map_or(0, |layer| layer.content_size)
            };
            history.push((step.clone(), ByteSize(size)));
        }
        Ok(history)
    }

    /// Gives an image one more name; an image that had the name before loses it.
    pub fn tag(&self, source: &str, name: &str) -> Result<()> {
        let reference = named(name)?;
        self.change_index(|index| {
            let manifest = self.find(index, source)?;
            index.name(manifest, &reference);
            Ok(())
        })
    }

    /// Takes from `path` in the merged `layers` (topmost first) everything into the existing
    /// directory `destination`: content, and the directory's own owner, mode and times, as Docker
    /// fills a new named volume. Gives false, and does nothing, if `path` is no directory there.
    ///
    /// # Errors
    /// `Conflict` if the destination is not empty.
    pub fn copy_up(&self, layers: &[PathBuf], path: &str, destination: &Path) -> Result<bool> {
        use std::os::fd::AsFd;
        let merged = crate::merged::mount(layers, None)?;
        let Ok(source) = merged.directory(Path::new(path)) else {
            return Ok(false);
        };
        let to = crate::rooted::Rooted::open(destination)?;
        let to = to
            .directory(Path::new(""))
            .context(|| format!("open {}", destination.display()))?;
        if !crate::tree::names(to.as_fd())?.is_empty() {
            return Err(Error::conflict(format!(
                "{} is not empty, so nothing is copied into it",
                destination.display()
            )));
        }
        let mut copier = crate::tree::Copier {
            keep_links: true,
            ..Default::default()
        };
        copier.content(source.as_fd(), to.as_fd())?;
        copier.directory_metadata(source.as_fd(), to.as_fd())?;
        Ok(true)
    }

    /// Makes an image of layers that are in the store, and gives it `references`.
    pub(crate) fn publish(
        &self,
        config: &ImageConfig,
        references: &[Reference],
        _lease: &Lease,
    ) -> Result<ImageId> {
        let config_blob = self.write_blob(&encode(config)?)?;
        let mut layers = Vec::new();
        for diff_id in &config.rootfs.diff_ids {
            let info = self.layer(diff_id)?;
            layers.push(Descriptor {
                media_type: crate::config::MEDIA_TYPE_LAYER.to_owned(),
                digest: *diff_id,
                size: info.archive_size,
                annotations: Default::default(),
            });
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: crate::config::MEDIA_TYPE_MANIFEST.to_owned(),
            config: Descriptor {
                media_type: crate::config::MEDIA_TYPE_CONFIG.to_owned(),
                digest: config_blob.0,
                size: config_blob.1,
                annotations: Default::default(),
            },
            layers,
            other: Default::default(),
        };
        let (digest, size) = self.write_blob(&encode(&manifest)?)?;
        let descriptor = Descriptor {
            media_type: manifest.media_type,
            digest,
            size,
            annotations: Default::default(),
        };
        if !self.index()?.has(&digest, references) {
            self.change_index(|index| {
                index.add(&descriptor, references);
                Ok(())
            })?;
        }
        Ok(config_blob.0)
    }

    /// Says that an operation is under way. Waits while somebody removes.
    pub(crate) fn lease(&self) -> Result<Lease> {
        let lock = files::open_lock(&self.path("activity.lock"))?;
        lock.lock_shared()
            .context(|| "wait for the image store's activity lock")?;
        Ok(Lease { _lock: lock })
    }

    pub(crate) fn temporary(&self, _lease: &Lease) -> Result<Temporary> {
        Temporary::new(&self.path("temporary"))
    }

    /// Reads with the index; again if the index changed meanwhile, because what it named may have
    /// been removed.
    fn reading<T>(&self, read: impl Fn(&index::StoreIndex) -> Result<T>) -> Result<T> {
        let mut index = self.index()?;
        loop {
            let result = read(&index);
            if result.is_ok() {
                return result;
            }
            let now = self.index()?;
            if now == index {
                return result;
            }
            index = now;
        }
    }

    fn find(&self, index: &index::StoreIndex, text: &str) -> Result<Digest> {
        if let Ok(id) = text.parse::<ImageId>()
            && let Some(manifest) = self.by_id(index, |other| *other == id)?.first()
        {
            return Ok(*manifest);
        }
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference
            && let Some(manifest) = index.named(reference)
        {
            return Ok(manifest);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let found = self.by_id(index, |id| id.hex().starts_with(digits))?;
            match found.as_slice() {
                [] => {}
                [only] => return Ok(*only),
                several => {
                    return Err(Error::conflict(format!(
                        "'{text}' fits {} images: give more digits of the id",
                        several.len()
                    )));
                }
            }
        }
        // A name that cannot be one is the better message than one that is not there.
        reference?;
        Err(Error::not_found(format!(
            "no image '{text}'{}: make it with 'bulkhead build -t {text} DIR' or bring it in with 'bulkhead import FILE {text}'",
            self.suggest(index, text)
        )))
    }

    fn by_id(
        &self,
        index: &index::StoreIndex,
        wanted: impl Fn(&ImageId) -> bool,
    ) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for manifest in index.manifests() {
            if wanted(&self.load(manifest)?.id) {
                found.push(manifest);
            }
        }
        Ok(found)
    }

    fn suggest(&self, index: &index::StoreIndex, text: &str) -> String {
        let wanted = Reference::parse(text).map_or_else(|_| text.to_owned(), |r| r.familiar());
        let repository = wanted.split(':').next().unwrap_or_default();
        let mut names: Vec<(usize, String)> = index
            .references()
            .map(|reference| {
                let name = reference.familiar();
                let same_repository = name.split(':').next() == Some(repository);
                let distance = if same_repository {
                    0
                } else {
                    crate::dockerfile::edit_distance(&name, &wanted)
                };
                (distance, name)
            })
            .filter(|(distance, _)| *distance <= 2 + wanted.len() / 3)
            .collect();
        names.sort();
        names.dedup();
        let names: Vec<String> = names
            .into_iter()
            .take(SUGGESTIONS)
            .map(|(_, name)| format!("'{name}'"))
            .collect();
        if names.is_empty() {
            String::new()
        } else {
            format!(" (there is {})", names.join(", "))
        }
    }

    fn image(&self, index: &index::StoreIndex, manifest: Digest) -> Result<Image> {
        let loaded = self.load(manifest)?;
        Ok(Image {
            id: loaded.id,
            references: index.references_of(&manifest),
            layers: self.stack(&loaded.layers),
            chain_id: loaded.config.rootfs.chain_id(),
            size: ByteSize(loaded.layers.iter().map(|layer| layer.content_size).sum()),
            created: loaded.config.created_time(),
            config: loaded.config.clone(),
        })
    }

    fn load(&self, manifest: Digest) -> Result<Arc<Loaded>> {
        let lock = || self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = lock().get(&manifest) {
            return Ok(Arc::clone(loaded));
        }
        let document: Manifest = self.read_blob(&manifest)?;
        let config: ImageConfig = self.read_blob(&document.config.digest)?;
        let layers = config
            .rootfs
            .diff_ids
            .iter()
            .map(|diff_id| self.layer(diff_id))
            .collect::<Result<_>>()?;
        let loaded = Arc::new(Loaded {
            id: document.config.digest,
            config,
            layers,
        });
        lock().insert(manifest, Arc::clone(&loaded));
        Ok(loaded)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    fn read_blob<T: serde::de::DeserializeOwned>(&self, digest: &Digest) -> Result<T> {
        let path = self.blob_path(digest);
        let bytes = std::fs::read(&path).context(|| format!("read {}", path.display()))?;
        if Digest::of(&bytes) != *digest {
            return Err(Error::host(format!(
                "{} does not have its digest: the image store is damaged, remove the image and make it again",
                path.display()
            )));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::host(format!("read {}", path.display())).with_source(error))
    }

    fn write_blob(&self, bytes: &[u8]) -> Result<(Digest, u64)> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            write_whole(&path, bytes)?;
        }
        Ok((digest, bytes.len() as u64))
    }
}

/// A name that an image can be given.
///
/// # Errors
/// `InvalidInput` if it is no name, or has a digest.
pub(crate) fn named(name: &str) -> Result<Reference> {
    let reference = Reference::parse(name)?;
    if reference.digest().is_some() {
        return Err(Error::invalid(format!(
            "an image cannot be named by a digest: '{name}'"
        )));
    }
    Ok(reference)
}

pub(crate) fn encode(document: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document)
        .map_err(|error| Error::host("write a JSON document").with_source(error))
}
