use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};

/// Where an instance keeps its files; `--root DIR` moves everything below one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What must not survive a reboot: sockets, run directories.
    pub run: PathBuf,
    /// What must: records, volumes, what sandboxes have written.
    pub state: PathBuf,
    /// What can be made again: images, the guest kernel.
    pub cache: PathBuf,
}

impl Paths {
    /// The system's own places, or those below `root`. `cache` overrides the cache's.
    pub fn new(root: Option<&Path>, cache: Option<&Path>) -> Self {
        let mut paths = match root {
            None => Self {
                run: "/run/bulkhead".into(),
                state: "/var/lib/bulkhead".into(),
                cache: "/var/cache/bulkhead".into(),
            },
            Some(root) => Self {
                run: root.join("run"),
                state: root.join("lib"),
                cache: root.join("cache"),
            },
        };
        if let Some(cache) = cache {
            paths.cache = cache.to_owned();
        }
        paths
    }

    pub fn socket(&self) -> PathBuf {
        self.run.join("bulkhead.sock")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.run.join("daemon.lock")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.state.join("state.db")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    pub(crate) fn kernels(&self) -> PathBuf {
        self.cache.join("kernel")
    }

    pub(crate) fn data_plane(&self) -> PathBuf {
        self.run.join("dataplane")
    }

    pub(crate) fn builds(&self) -> PathBuf {
        self.state.join("builds")
    }

    pub(crate) fn sandbox_run(&self, id: &str) -> PathBuf {
        self.run.join("sandboxes").join(id.get(..12).unwrap_or(id))
    }

    pub(crate) fn status_file(&self, id: &str) -> PathBuf {
        self.state.join("sandboxes").join(id).join("status.json")
    }

    /// The cgroup below which this instance's sandboxes are.
    pub(crate) fn cgroup_parent(&self) -> String {
        if self.state == Path::new("/var/lib/bulkhead") {
            return "bulkhead".to_owned();
        }
        let digest = bulkhead_network::Instance::new(&self.state).bridge_name("");
        format!(
            "bulkhead-{}",
            digest.trim_start_matches(bulkhead_network::BRIDGE_PREFIX)
        )
    }

    /// The newest guest kernel that `make kernel` has put into the cache, this instance's own or
    /// the machine's.
    pub(crate) fn guest_kernel(&self) -> Option<PathBuf> {
        let shared = Path::new("/var/cache/bulkhead/kernel");
        [self.kernels().as_path(), shared]
            .into_iter()
            .find_map(|directory| {
                let entries = std::fs::read_dir(directory).ok()?;
                entries
                    .flatten()
                    .filter(|entry| entry.file_name().to_string_lossy().starts_with("vmlinux-"))
                    .max_by_key(|entry| entry.metadata().and_then(|meta| meta.modified()).ok())
                    .map(|entry| entry.path())
            })
    }

    pub(crate) fn make(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        use std::os::unix::fs::PermissionsExt;
        // Members of the socket's group pass through the run directory. Nobody but root gets to
        // root filesystems: programs in them may be set-user-ID (CVE-2021-41091).
        for (directory, mode) in [
            (&self.run, 0o711),
            (&self.state, 0o710),
            (&self.cache, 0o711),
            (&self.images(), 0o700),
            (&self.data_plane(), 0o700),
            (&self.run.join("sandboxes"), 0o711),
            (&self.state.join("sandboxes"), 0o711),
            (&self.state.join("volumes"), 0o711),
        ] {
            let failed = |error: std::io::Error| {
                Error::host(format!(
                    "make directory {}: is the file system full or read-only?",
                    directory.display()
                ))
                .with_source(error)
            };
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(directory)
                .map_err(failed)?;
            if mode != 0o711 {
                std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode))
                    .map_err(failed)?;
            }
        }
        Ok(())
    }
}
