//! Finding and reading files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::parse::MAXIMUM_SIZE;
use crate::source::{Source, Sources, Span};

/// File names in the order of preference, and the overrides that belong to them.
const NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];
const OVERRIDES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// Finds the Compose files of `directory` or of the nearest parent that has one: the file, then
/// its override if there is one.
pub fn discover(directory: &Path) -> Option<Vec<PathBuf>> {
    let first = |directory: &Path, names: &[&str]| {
        names
            .iter()
            .map(|name| directory.join(name))
            .find(|path| path.is_file())
    };
    let directory = std::path::absolute(directory).ok()?;
    directory.ancestors().find_map(|directory| {
        let file = first(directory, &NAMES)?;
        Some(
            std::iter::once(file)
                .chain(first(directory, &OVERRIDES))
                .collect(),
        )
    })
}

/// `path` as the user would write it from `directory`.
pub(crate) fn shown(path: &Path, directory: &Path) -> PathBuf {
    path.strip_prefix(directory).unwrap_or(path).to_owned()
}

/// Reads a text file into `sources`. `Ok(None)`: it is no text or too large, which is reported.
pub(crate) fn read(
    path: &Path,
    display: PathBuf,
    sources: &mut Sources,
) -> io::Result<Option<u32>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAXIMUM_SIZE + 1)
        .read_to_end(&mut bytes)?;
    let too_large = bytes.len() as u64 > MAXIMUM_SIZE;
    let body = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let whole = |file| Span {
        file,
        ..Span::default()
    };
    if too_large {
        let file = sources.add(Source::new(display, String::new()));
        let message = format!("the file is larger than {} MiB", MAXIMUM_SIZE >> 20);
        sources.error(whole(file), message);
        return Ok(None);
    }
    match std::str::from_utf8(body) {
        Ok(text) => Ok(Some(sources.add(Source::new(display, text.to_owned())))),
        Err(error) => {
            let valid = String::from_utf8_lossy(&body[..error.valid_up_to()]).into_owned();
            let start = valid.rfind('\n').map_or(0, |offset| offset + 1);
            let (line, column) = (valid.matches('\n').count(), valid[start..].chars().count());
            let text = String::from_utf8_lossy(body).into_owned();
            let file = sources.add(Source::new(display, text));
            let span = Span {
                file,
                line: line as u32 + 1,
                column: column as u32 + 1,
                length: 1,
            };
            sources.error_with_help(span, "the file is not UTF-8", "save it as UTF-8");
            Ok(None)
        }
    }
}
