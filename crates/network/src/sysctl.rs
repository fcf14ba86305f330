//! Reads and writes kernel parameters, of the calling thread's network namespace.

use bulkhead_model::{Error, Result};

/// Writes a parameter, by its path below `/proc/sys`, unless it has the value already.
///
/// # Errors
/// `Host`, with the parameter's name.
pub(crate) fn write(path: &str, value: &str) -> Result<()> {
    if read(path).is_some_and(|current| current == value) {
        return Ok(());
    }
    std::fs::write(format!("/proc/sys/{path}"), value).map_err(|error| {
        let name = path.replace('/', ".");
        Error::host(format!(
            "set kernel parameter {name}={value} (is /proc/sys writable?)"
        ))
        .with_source(error)
    })
}

/// `None` if this kernel has no such parameter.
pub(crate) fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
    Some(text.trim().to_owned())
}
