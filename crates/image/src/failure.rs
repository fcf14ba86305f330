//! Turns failures of the operating system into the workspace's error, with what was being done.

use std::fmt::Display;
use std::io;

use bulkhead_model::{Error, ErrorKind, Result};

/// Adds what was being done to an I/O failure.
pub(crate) trait Context<T> {
    fn context<C: Display>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context<C: Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| from_io(error, context()))
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context<C: Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| from_io(error.into(), context()))
    }
}

/// An error of ours may travel through `io::Error` (a limit met inside a reader); its kind and
/// message are then kept.
pub(crate) fn from_io(error: io::Error, context: impl Display) -> Error {
    match error.downcast::<Error>() {
        Ok(inner) => Error::new(inner.kind(), context.to_string()).with_source(inner),
        Err(error) => {
            let kind = match error.kind() {
                io::ErrorKind::InvalidData
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
                _ => ErrorKind::Host,
            };
            Error::new(kind, context.to_string()).with_source(error)
        }
    }
}
