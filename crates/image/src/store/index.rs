use bulkhead_model::{Error, Result};

use super::{ImageStore, encode, files, write_whole};
use crate::config::{Descriptor, Index};
use crate::failure::Context;
use crate::{Digest, Reference};

/// Holds an image's name in full (containerd's annotation; the OCI one holds the tag alone).
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// OCI image specification, "Pre-Defined Annotation Keys".
const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// The index file: one descriptor per name, and one without a name for each dangling image.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct StoreIndex {
    document: Index,
}

impl StoreIndex {
    /// Every image's manifest, once.
    pub fn manifests(&self) -> Vec<Digest> {
        let mut manifests: Vec<Digest> = self
            .document
            .manifests
            .iter()
            .map(|entry| entry.digest)
            .collect();
        manifests.sort();
        manifests.dedup();
        manifests
    }

    pub fn references(&self) -> impl Iterator<Item = Reference> + '_ {
        self.document.manifests.iter().filter_map(reference)
    }

    pub fn references_of(&self, manifest: &Digest) -> Vec<Reference> {
        let mut references: Vec<Reference> = self
            .document
            .manifests
            .iter()
            .filter(|entry| entry.digest == *manifest)
            .filter_map(reference)
            .collect();
        references.sort();
        references
    }

    /// The manifest that has the name. A digest in it has to fit.
    pub fn named(&self, wanted: &Reference) -> Option<Digest> {
        self.document
            .manifests
            .iter()
            .find(|entry| {
                let Some(reference) = reference(entry) else {
                    return false;
                };
                let same_name = (reference.registry(), reference.repository())
                    == (wanted.registry(), wanted.repository());
                same_name
                    && wanted.tag().is_none_or(|tag| reference.tag() == Some(tag))
                    && wanted.digest().is_none_or(|digest| entry.digest == *digest)
            })
            .map(|entry| entry.digest)
    }

    /// Whether the manifest is there and has all `references`.
    pub fn has(&self, manifest: &Digest, references: &[Reference]) -> bool {
        self.document
            .manifests
            .iter()
            .any(|entry| entry.digest == *manifest)
            && references
                .iter()
                .all(|reference| self.named(reference) == Some(*manifest))
    }

    pub fn add(&mut self, manifest: &Descriptor, references: &[Reference]) {
        if !self
            .document
            .manifests
            .iter()
            .any(|entry| entry.digest == manifest.digest)
        {
            self.document.manifests.push(manifest.clone());
        }
        for reference in references {
            self.name(manifest.digest, reference);
        }
    }

    /// Names a manifest that is in the index; whatever had the name before loses it.
    pub fn name(&mut self, manifest: Digest, name: &Reference) {
        self.unname(name);
        let Some(mut entry) = self
            .document
            .manifests
            .iter()
            .find(|entry| entry.digest == manifest)
            .cloned()
        else {
            return;
        };
        self.document
            .manifests
            .retain(|other| other.digest != manifest || reference(other).is_some());
        entry.annotations.clear();
        entry
            .annotations
            .insert(NAME_ANNOTATION.to_owned(), name.to_string());
        entry.annotations.insert(
            TAG_ANNOTATION.to_owned(),
            name.tag().unwrap_or_default().to_owned(),
        );
        self.document.manifests.push(entry);
    }

    /// Takes a name away. An image without any other stays, dangling.
    pub fn unname(&mut self, name: &Reference) {
        let Some(position) = self
            .document
            .manifests
            .iter()
            .position(|entry| reference(entry).as_ref() == Some(name))
        else {
            return;
        };
        let mut entry = self.document.manifests.remove(position);
        if !self
            .document
            .manifests
            .iter()
            .any(|other| other.digest == entry.digest)
        {
            entry.annotations.clear();
            self.document.manifests.push(entry);
        }
    }

    /// Takes the image away, with all its names.
    pub fn remove(&mut self, manifest: &Digest) {
        self.document
            .manifests
            .retain(|entry| entry.digest != *manifest);
    }
}

fn reference(entry: &Descriptor) -> Option<Reference> {
    Reference::parse(entry.annotations.get(NAME_ANNOTATION)?).ok()
}

impl ImageStore {
    pub(super) fn index(&self) -> Result<StoreIndex> {
        let path = self.path("index.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(StoreIndex::default());
            }
            Err(error) => return Err(error).context(|| format!("read {}", path.display())),
        };
        let document = serde_json::from_slice(&bytes).map_err(|error| {
            Error::host(format!("the image index {} is damaged", path.display())).with_source(error)
        })?;
        Ok(StoreIndex { document })
    }

    /// Changes the index, alone: reads it, lets `change` work on it, and replaces the file.
    pub(super) fn change_index<T>(
        &self,
        change: impl FnOnce(&mut StoreIndex) -> Result<T>,
    ) -> Result<T> {
        let lock = files::open_lock(&self.path("index.lock"))?;
        lock.lock().context(|| "wait for the image index's lock")?;
        let mut index = self.index()?;
        let before = index.document.clone();
        let result = change(&mut index)?;
        if index.document != before {
            write_whole(&self.path("index.json"), &encode(&index.document)?)?;
        }
        Ok(result)
    }
}
