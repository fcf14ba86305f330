//! Named volumes: directories that outlive sandboxes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_model::{Error, Result};

use crate::config::MountRequestSource;
use crate::engine::{Engine, Inner, random_id};
use crate::entry::lock;
use crate::events::{Action, Subject};
use crate::lifecycle::remove_tree;
use crate::networks::blocking;
use crate::record::VolumeRecord;

/// How the directory of a volume begins that is being removed: no volume's name does.
pub(crate) const DOOMED: &str = ".removed-";

impl Engine {
    pub fn volumes(&self) -> Vec<VolumeRecord> {
        lock(&self.inner.volumes).values().cloned().collect()
    }

    /// # Errors
    /// `NotFound`.
    pub fn volume(&self, name: &str) -> Result<VolumeRecord> {
        lock(&self.inner.volumes)
            .get(name)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    /// The directory that holds a volume's files.
    pub fn volume_path(&self, name: &str) -> PathBuf {
        self.inner.volume_path(name)
    }

    /// Makes a volume, or finds the one that is there.
    ///
    /// # Errors
    /// `InvalidInput` if the name is none.
    pub async fn create_volume(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<VolumeRecord> {
        self.inner.use_volume(name, labels, None).await?;
        self.volume(name)
    }

    /// # Errors
    /// `NotFound`; `Conflict` if a sandbox uses it.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        self.volume(name)?;
        let user = self.list().into_iter().find(|record| {
            record.anonymous_volumes.iter().any(|used| used == name)
                || record.config.mounts.iter().any(|mount| {
                    matches!(&mount.source, MountRequestSource::Volume { name: used, .. } if used == name)
                })
        });
        if let Some(record) = user {
            return Err(Error::conflict(format!(
                "remove {name}: volume is in use by sandbox {}: remove that first",
                record.config.name
            )));
        }
        self.inner.drop_volume(name).await
    }
}

impl Inner {
    pub(crate) fn volume_path(&self, name: &str) -> PathBuf {
        self.settings
            .state_dir
            .join("volumes")
            .join(name)
            .join("_data")
    }

    /// The directory of a volume, made if it is not there and, the first time that an image is
    /// given, filled with the files that the image has at that path.
    pub(crate) async fn use_volume(
        self: &Arc<Self>,
        name: &str,
        labels: BTreeMap<String, String>,
        image: Option<(&[PathBuf], &str)>,
    ) -> Result<PathBuf> {
        check_name(name, "volume")?;
        let path = self.volume_path(name);
        let _guard = self.volume_guard.lock().await;
        let known = lock(&self.volumes).get(name).cloned();
        let is_new = known.is_none();
        let mut record = known.unwrap_or_else(|| VolumeRecord {
            name: name.to_owned(),
            labels,
            created_at: SystemTime::now(),
            filled: false,
        });
        // Also if it is known: the end of an earlier process may have come in between.
        {
            let path = path.clone();
            blocking(move || {
                std::fs::create_dir_all(&path).map_err(|error| {
                    Error::host(format!("make directory {}", path.display())).with_source(error)
                })
            })
            .await?;
        }
        if let Some((layers, target)) = image
            && !record.filled
        {
            let (layers, target, path) = (layers.to_vec(), target.to_owned(), path.clone());
            let images = Arc::clone(&self.images);
            blocking(move || {
                let failed = |error: std::io::Error| {
                    Error::host(format!("fill {}", path.display())).with_source(error)
                };
                let empty = std::fs::read_dir(&path).map_err(failed)?.next().is_none();
                if empty {
                    // Filled elsewhere and then put in place: half a copy is never taken for one.
                    let copy = path.with_file_name("_copy");
                    match std::fs::remove_dir_all(&copy) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(failed(error));
                        }
                        _ => {}
                    }
                    std::fs::create_dir(&copy).map_err(failed)?;
                    images.copy_up(&layers, &target, &copy)?;
                    std::fs::rename(&copy, &path).map_err(failed)?;
                }
                Ok(())
            })
            .await?;
            record.filled = true;
            self.store.save_volume(&record)?;
            lock(&self.volumes).insert(name.to_owned(), record.clone());
        } else if is_new {
            self.store.save_volume(&record)?;
            lock(&self.volumes).insert(name.to_owned(), record.clone());
        }
        if is_new {
            self.emit(Subject::Volume, Action::Create, name, record.labels);
        }
        Ok(path)
    }

    pub(crate) async fn drop_volume(&self, name: &str) -> Result<()> {
        let _guard = self.volume_guard.lock().await;
        // In this order, half a volume is never taken for one: what is left is removed later.
        let directory = self.settings.state_dir.join("volumes").join(name);
        let doomed = directory.with_file_name(format!("{DOOMED}{}", random_id()?));
        match std::fs::rename(&directory, &doomed) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(
                    Error::host(format!("remove {}", directory.display())).with_source(error)
                );
            }
            _ => {}
        }
        self.store.delete_volume(name)?;
        lock(&self.volumes).remove(name);
        remove_tree(&doomed).await?;
        self.emit(Subject::Volume, Action::Remove, name, BTreeMap::new());
        Ok(())
    }
}

/// Names become paths and words of commands.
pub(crate) fn check_name(name: &str, what: &str) -> Result<()> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest && name.len() <= 255 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "\"{name}\" is no {what} name: use letters, digits, '_', '.' and '-', the first a letter or digit"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_directory() {
        for name in ["data", "shop_pgdata", "a.b-c_1", &"x".repeat(255)] {
            check_name(name, "volume").expect(name);
        }
        let long = "x".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            ".removed-1",
            "-x",
            "a b",
            "a\0",
            "\u{e4}",
            &long,
        ] {
            assert!(check_name(name, "volume").is_err(), "{name}");
        }
        assert!(check_name(&format!("{DOOMED}1"), "volume").is_err());
    }
}
