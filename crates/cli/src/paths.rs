//! Where the daemon's socket and files are.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Where a daemon listens, and whether it is one that this program may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// As given with `--root`, absolute.
    pub root: Option<PathBuf>,
    pub socket: PathBuf,
    /// The socket is the one that the daemon of `root` makes.
    pub socket_is_ours: bool,
    /// Directory of `daemon.log` and `state.db`.
    pub state: PathBuf,
    /// From `BULKHEAD_CACHE`: outranks `root` for the caches.
    pub cache: Option<PathBuf>,
}

impl Paths {
    /// `host` is from `--host`; `environment` is from `BULKHEAD_HOST`, then `DOCKER_HOST`, which
    /// `--root` outranks.
    ///
    /// # Errors
    /// A host that is no unix socket.
    pub fn resolve(
        root: Option<PathBuf>,
        host: Option<&str>,
        environment: Option<&str>,
    ) -> Result<Self> {
        let root = match root {
            Some(root) => Some(
                std::path::absolute(&root)
                    .map_err(|error| Failure::new(format!("--root {}: {error}", root.display())))?,
            ),
            None => None,
        };
        let (own_socket, state) = match &root {
            Some(root) => (root.join("run/bulkhead.sock"), root.join("lib")),
            None => (
                PathBuf::from("/run/bulkhead/bulkhead.sock"),
                PathBuf::from("/var/lib/bulkhead"),
            ),
        };
        let socket = match host.or(environment.filter(|_| root.is_none())) {
            Some(host) => socket_of(host)?,
            None => own_socket.clone(),
        };
        Ok(Self {
            socket_is_ours: socket == own_socket,
            root,
            socket,
            state,
            cache: None,
        })
    }

    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("daemon.log")
    }
}

fn socket_of(host: &str) -> Result<PathBuf> {
    let path = host.strip_prefix("unix://").unwrap_or(host);
    if path.contains("://") || !Path::new(path).is_absolute() {
        return Err(Failure::new(format!(
            "the daemon's address '{host}' is not a unix socket: \
             write it as unix:///run/bulkhead/bulkhead.sock"
        )));
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(root: Option<&str>, host: Option<&str>, environment: Option<&str>) -> Paths {
        Paths::resolve(root.map(PathBuf::from), host, environment).expect("paths")
    }

    #[test]
    fn the_nearest_setting_wins() {
        let standard = resolve(None, None, None);
        assert_eq!(standard.socket, Path::new("/run/bulkhead/bulkhead.sock"));
        assert!(standard.socket_is_ours);

        let moved = resolve(Some("/srv/b"), None, Some("unix:///x.sock"));
        assert_eq!(moved.socket, Path::new("/srv/b/run/bulkhead.sock"));
        assert_eq!(moved.daemon_log(), Path::new("/srv/b/lib/daemon.log"));
        assert!(moved.socket_is_ours);

        let environment = resolve(None, None, Some("unix:///x.sock"));
        assert_eq!(environment.socket, Path::new("/x.sock"));
        assert!(!environment.socket_is_ours);

        let host = resolve(Some("/srv/b"), Some("/y.sock"), None);
        assert_eq!(host.socket, Path::new("/y.sock"));
        assert!(!host.socket_is_ours);

        let same = resolve(None, Some("unix:///run/bulkhead/bulkhead.sock"), None);
        assert!(same.socket_is_ours);
    }

    #[test]
    fn only_unix_sockets_are_taken() {
        for host in ["tcp://1.2.3.4:2375", "relative.sock", "ssh://host"] {
            let error = Paths::resolve(None, Some(host), None).expect_err(host);
            assert!(error.message().contains(host), "{error}");
        }
    }
}
