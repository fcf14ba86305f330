//! Turns errors of the operating system into errors of the model, and carries the latter from
//! the helper to the process that waits for it.

use std::io;

use bulkhead_model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Adds what was being done to an operating system's error.
pub(crate) trait Context<T> {
    fn host(self, doing: impl FnOnce() -> String) -> Result<T>;
    fn kind(self, kind: ErrorKind, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn host(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.kind(ErrorKind::Host, doing)
    }

    fn kind(self, kind: ErrorKind, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(kind, doing()).with_source(error.into()))
    }
}

/// An error in the form in which it leaves the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: FailureKind,
    text: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum FailureKind {
    InvalidInput,
    NotFound,
    Conflict,
    CommandNotFound,
    CommandNotExecutable,
    Unsupported,
    Host,
    Channel,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::InvalidInput => FailureKind::InvalidInput,
            ErrorKind::NotFound => FailureKind::NotFound,
            ErrorKind::Conflict => FailureKind::Conflict,
            ErrorKind::CommandNotFound => FailureKind::CommandNotFound,
            ErrorKind::CommandNotExecutable => FailureKind::CommandNotExecutable,
            ErrorKind::Unsupported => FailureKind::Unsupported,
            ErrorKind::Host => FailureKind::Host,
            ErrorKind::Channel => FailureKind::Channel,
        };
        Self {
            kind,
            text: error.to_string(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure.kind {
            FailureKind::InvalidInput => ErrorKind::InvalidInput,
            FailureKind::NotFound => ErrorKind::NotFound,
            FailureKind::Conflict => ErrorKind::Conflict,
            FailureKind::CommandNotFound => ErrorKind::CommandNotFound,
            FailureKind::CommandNotExecutable => ErrorKind::CommandNotExecutable,
            FailureKind::Unsupported => ErrorKind::Unsupported,
            FailureKind::Host => ErrorKind::Host,
            FailureKind::Channel => ErrorKind::Channel,
        };
        Error::new(kind, failure.text)
    }
}
