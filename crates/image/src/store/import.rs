use std::io::Read;

use bulkhead_model::{Error, Result};

use super::{ImageStore, named};
use crate::ImageId;
use crate::archive::{Unpack, decompress, unpack};
use crate::config::{History, ImageConfig, now};
use crate::dockerfile::apply_changes;
use crate::rooted::Rooted;

impl ImageStore {
    /// Makes an image of one layer from a root filesystem's archive: tar, plain or compressed
    /// with gzip, zstd or xz.
    ///
    /// `changes` are Dockerfile instructions that change the configuration (`CMD`, `ENV`, …), as
    /// `docker import --change` takes them.
    ///
    /// # Errors
    /// `InvalidInput` for a wrong name or change, and for an archive that is broken, too large or
    /// leads outside. Nothing is left behind.
    pub fn import(
        &self,
        reader: impl Read,
        reference: Option<&str>,
        changes: &[String],
        message: Option<&str>,
    ) -> Result<ImageId> {
        let references: Vec<_> = reference.map(named).transpose()?.into_iter().collect();
        let mut config = ImageConfig::empty();
        apply_changes(&mut config.config, changes)?;
        let lease = self.lease()?;
        let temporary = self.temporary(&lease)?;
        let root = temporary.directory("root")?;
        let rooted = Rooted::open(&root)?;
        let how = Unpack {
            limits: self.limits(),
            whiteouts: true,
            ..Unpack::default()
        };
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&root, mode)
            .map_err(|error| Error::host("set the root's mode").with_source(error))?;
        unpack(decompress(reader)?, &rooted, how)?;
        drop(rooted);
        let layer = self.commit_directory(&root, &lease)?;
        let created = now();
        config.created = Some(created.clone());
        config.rootfs.diff_ids = vec![layer.diff_id];
        config.history = vec![History {
            created: Some(created),
            comment: Some(message.unwrap_or("imported").to_owned()),
            ..History::default()
        }];
        self.publish(&config, &references, &lease)
    }

    /// Makes an image from a directory in overlayfs' form (the upper directory of a stopped
    /// sandbox, or of a build step) on top of `parent`, or of nothing. The directory is moved
    /// into the store; it has to be on the same filesystem and no longer mounted.
    ///
    /// # Errors
    /// `NotFound` if there is no such parent; `Conflict` if the directory was mounted with
    /// `redirect_dir` or `metacopy` on.
    pub fn commit_layer(
        &self,
        upper: &std::path::Path,
        parent: Option<&str>,
        config: crate::config::ContainerConfig,
        references: &[String],
        history: History,
    ) -> Result<ImageId> {
        let references = references
            .iter()
            .map(|name| named(name))
            .collect::<Result<Vec<_>>>()?;
        let lease = self.lease()?;
        let mut image = match parent {
            Some(parent) => self.resolve(parent)?.config,
            None => ImageConfig::empty(),
        };
        let layer = self.commit_directory(upper, &lease)?;
        let created = history.created.clone().unwrap_or_else(now);
        image.created = Some(created.clone());
        image.config = config;
        image.rootfs.diff_ids.push(layer.diff_id);
        image.history.push(History {
            created: Some(created),
            ..history
        });
        self.publish(&image, &references, &lease)
    }
}
