use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bulkhead_model::Result;
use serde::{Deserialize, Serialize};

use crate::failure::Context;
use crate::store::{ImageStore, encode, write_cache};
use crate::{Digest, tree};

/// Remembers what each build step made: one small file per key.
///
/// An entry whose file is damaged or whose layer is gone counts as none.
#[derive(Debug)]
pub(crate) struct BuildCache {
    store: ImageStore,
    directory: PathBuf,
}

/// What a step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedStep {
    /// When it was first made (RFC 3339), so that an unchanged rebuild gives the same image.
    pub created: String,
    /// `None` if it changed the configuration only.
    pub layer: Option<Digest>,
    /// The key from which the next step's is made: it may name the content where the entry's own
    /// key names where the content came from.
    pub next: Digest,
}

impl BuildCache {
    pub fn new(store: &ImageStore) -> Self {
        Self {
            store: store.clone(),
            directory: store.directory().join("build-cache"),
        }
    }

    pub fn get(&self, key: &Digest) -> Option<CachedStep> {
        let step = self.read(&self.directory.join(key.hex()))?;
        if let Some(layer) = &step.layer {
            self.store.layer(layer).ok()?;
        }
        Some(step)
    }

    pub fn put(&self, key: &Digest, step: &CachedStep) -> Result<()> {
        write_cache(&self.directory.join(key.hex()), &encode(step)?)
    }

    /// The layers that entries refer to. Entries that are damaged are removed.
    pub fn layers(&self) -> Result<HashSet<Digest>> {
        let mut layers = HashSet::new();
        let what = || "list the build cache";
        for entry in std::fs::read_dir(&self.directory).context(what)? {
            let path = entry.context(what)?.path();
            match self.read(&path) {
                Some(step) => layers.extend(step.layer),
                None => tree::remove_path(&path)?,
            }
        }
        Ok(layers)
    }

    fn read(&self, path: &Path) -> Option<CachedStep> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}
