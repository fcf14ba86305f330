use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{ImageStore, Lease, encode, write_whole};
use crate::Digest;
use crate::archive::pack_layer;
use crate::digest::Digester;
use crate::failure::Context;

/// Layers are named by this many digits of their DiffID: the paths of all layers of an image have
/// to fit the one page that mount options have.
const NAME_DIGITS: usize = 12;

/// What is known of a layer besides its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerInfo {
    /// Of its directory.
    #[serde(skip)]
    pub name: String,
    pub diff_id: Digest,
    /// Bytes of all regular files.
    pub content_size: u64,
    /// Bytes of the uncompressed archive.
    pub archive_size: u64,
}

impl ImageStore {
    pub(super) fn layer_path(&self, name: &str) -> PathBuf {
        self.path("layers").join(name)
    }

    /// A directory with nothing in it, for images without layers.
    pub(crate) fn empty_layer(&self) -> PathBuf {
        self.layer_path("empty")
    }

    fn layer_info_path(&self, name: &str) -> PathBuf {
        self.path("layer-info").join(name)
    }

    /// The layer with this DiffID.
    ///
    /// # Errors
    /// `NotFound` if it is not in the store.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Result<LayerInfo> {
        for name in names(diff_id) {
            if let Some(info) = self.layer_named(&name)
                && info.diff_id == *diff_id
            {
                return Ok(info);
            }
        }
        Err(Error::not_found(format!(
            "layer {diff_id} is not in the image store"
        )))
    }

    /// The layer in directory `name`; `None` if it is not whole.
    pub(super) fn layer_named(&self, name: &str) -> Option<LayerInfo> {
        let bytes = std::fs::read(self.layer_info_path(name)).ok()?;
        let mut info: LayerInfo = serde_json::from_slice(&bytes).ok()?;
        name.clone_into(&mut info.name);
        self.layer_path(name).is_dir().then_some(info)
    }

    /// The directories of layers given bottom first, topmost first.
    pub(crate) fn layer_paths(&self, diff_ids: &[Digest]) -> Result<Vec<PathBuf>> {
        let layers = diff_ids
            .iter()
            .map(|diff_id| self.layer(diff_id))
            .collect::<Result<Vec<_>>>()?;
        Ok(self.stack(&layers))
    }

    /// The directories to mount on each other, topmost first, for layers given bottom first.
    ///
    /// Steps with the same result have the same layer, and overlayfs refuses a directory that
    /// comes twice. The upper one alone is enough: it has every file, whiteout and opaque
    /// directory of the lower one, above all that lies between.
    pub(super) fn stack(&self, layers: &[LayerInfo]) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for layer in layers.iter().rev() {
            let path = self.layer_path(&layer.name);
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            paths.push(self.empty_layer());
        }
        paths
    }

    /// Makes a layer of `directory`, which is in overlayfs' form, on the store's filesystem and no
    /// longer mounted anywhere, by moving it into the store.
    pub(crate) fn commit_directory(&self, directory: &Path, _lease: &Lease) -> Result<LayerInfo> {
        let root = rustix::fs::open(
            directory,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .context(|| format!("open {}", directory.display()))?;
        use std::os::fd::AsFd;
        let mut digester = Digester::default();
        let packed = pack_layer(
            root.as_fd(),
            std::io::BufWriter::with_capacity(1 << 16, &mut digester),
        )?;
        let diff_id = digester.finish();
        if let Ok(known) = self.layer(&diff_id) {
            return Ok(known);
        }
        // Its files reach the disk before its name does.
        rustix::fs::syncfs(&root).context(|| "sync the image store")?;
        drop(root);
        for name in names(&diff_id) {
            if let Some(other) = self.layer_named(&name)
                && other.diff_id != diff_id
            {
                continue;
            }
            let info = LayerInfo {
                name: name.clone(),
                diff_id,
                content_size: packed.content_size,
                archive_size: packed.archive_size,
            };
            write_whole(&self.layer_info_path(&name), &encode(&info)?)?;
            let path = self.layer_path(&name);
            match std::fs::rename(directory, &path) {
                Ok(()) => {}
                // Somebody else made the same layer in the meantime.
                Err(_) if self.layer(&diff_id).is_ok() => return self.layer(&diff_id),
                Err(error) => {
                    return Err(error)
                        .context(|| format!("move {} to {}", directory.display(), path.display()));
                }
            }
            std::fs::File::open(self.path("layers"))
                .and_then(|layers| layers.sync_all())
                .context(|| "sync the image store")?;
            return Ok(info);
        }
        Err(Error::host(format!("no name is free for layer {diff_id}")))
    }
}

/// The directory names a layer can have, the usual one first.
fn names(diff_id: &Digest) -> [String; 2] {
    let hex = diff_id.hex();
    [hex[..NAME_DIGITS].to_owned(), hex]
}
