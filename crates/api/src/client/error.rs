use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

/// The result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the socket.
    #[error("cannot connect to the daemon at {}: {source}", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    /// The daemon answered with an error of its own.
    #[error("{message}")]
    Daemon {
        /// The HTTP status.
        status: u16,
        message: String,
    },
    /// The connection ended before the answer did.
    #[error("the connection to the daemon was lost: {source}")]
    Lost {
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The answer is not what the API says.
    #[error("the daemon's answer to {request} cannot be understood: {source}")]
    Malformed {
        request: String,
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Error {
    /// The HTTP status, where the daemon gave one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Daemon { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether the daemon is not there (any more): a new one may answer the same request.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Lost { .. })
    }

    pub(super) fn lost(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Error::Lost {
            source: source.into(),
        }
    }
}
