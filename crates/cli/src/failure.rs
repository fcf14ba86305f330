use std::fmt;

/// The result of a verb or a part of one.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a verb failed: what to print, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Printed after `bulkhead: `; empty where everything is said already.
    message: String,
    code: u8,
    /// The message says itself that it is an error, and where.
    diagnostics: bool,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
            diagnostics: false,
        }
    }

    /// Ends the program without a word.
    pub fn silent(code: u8) -> Self {
        Self {
            message: String::new(),
            code,
            diagnostics: false,
        }
    }

    /// Errors in a file, with their places.
    pub fn diagnostics(text: impl Into<String>) -> Self {
        Self {
            diagnostics: true,
            ..Self::new(text)
        }
    }

    /// As it is printed on stderr; `None` if there is nothing to say.
    pub fn report(&self) -> Option<String> {
        match self.message.as_str() {
            "" => None,
            text if self.diagnostics => Some(text.to_owned()),
            text => Some(format!("bulkhead: {text}")),
        }
    }

    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    #[cfg(test)]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl From<bulkhead_api::Error> for Failure {
    fn from(error: bulkhead_api::Error) -> Self {
        Failure::new(error.to_string())
    }
}

impl From<bulkhead_model::Error> for Failure {
    fn from(error: bulkhead_model::Error) -> Self {
        Failure::new(error.to_string())
    }
}

/// Only for writes to stdout: a reader that has gone away ends the program as a signal would.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure::silent(141);
        }
        Failure::new(format!("write the output: {error}"))
    }
}
