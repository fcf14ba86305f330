use std::error::Error as StdError;
use std::fmt;

/// The result of an operation on a sandbox, an image or a network.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it was: decides exit codes and HTTP statuses, so that no caller has to
/// read a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller's input is wrong (400, exit code 125).
    InvalidInput,
    /// The named object does not exist (404).
    NotFound,
    /// The object is in a state that forbids the operation, or its name is taken (409).
    Conflict,
    /// The program to run does not exist in the sandbox (exit code 127).
    CommandNotFound,
    /// The program to run exists, but cannot be executed (exit code 126).
    CommandNotExecutable,
    /// This host, kind or version cannot do it; the message says what is missing and the remedy.
    Unsupported,
    /// Something on the host failed: a system call, a tool, a full disk (500).
    Host,
    /// The other side of a channel went away or broke the protocol (500).
    Channel,
}

/// A failure: its kind, what was being done, and why it failed.
///
/// `Display` gives one line for the user, lower case and without a full stop: what failed, why
/// and what to do.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    retryable: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            retryable: false,
            source: None,
        }
    }

    pub fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, context)
    }

    pub fn not_found(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, context)
    }

    pub fn conflict(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, context)
    }

    pub fn unsupported(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, context)
    }

    pub fn host(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Host, context)
    }

    pub fn channel(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Channel, context)
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Marks the failure as one that may pass by itself, so that a retry makes sense.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// What was being done, without the cause.
    pub fn context(&self) -> &str {
        &self.context
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.context)?;
        let mut source = self
            .source
            .as_ref()
            .map(|source| &**source as &dyn StdError);
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            // An error of ours prints its own chain.
            if error.is::<Error>() {
                break;
            }
            source = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_joins_the_chain_once() {
        let inner = Error::host("open /dev/kvm").with_source(std::io::Error::other("denied"));
        let outer = Error::unsupported("start the monitor").with_source(inner);
        assert_eq!(
            outer.to_string(),
            "start the monitor: open /dev/kvm: denied"
        );
        assert_eq!(outer.kind(), ErrorKind::Unsupported);
    }
}
