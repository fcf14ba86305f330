use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use bulkhead_model::Result;

use super::OUTSIDE;
use super::glob::matches_component;
use crate::failure::Context;

/// The patterns of a `.dockerignore` file. The last pattern that fits a path, or a directory
/// above it, decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    components: Vec<String>,
    /// It was written with `!`: what fits is not ignored after all.
    exception: bool,
}

impl Ignore {
    pub fn parse(text: &str) -> Self {
        let mut patterns = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (exception, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let mut components: Vec<String> = Vec::new();
            for component in Path::new(pattern).components() {
                match component {
                    Component::Normal(name) => {
                        components.push(name.to_string_lossy().into_owned());
                    }
                    Component::ParentDir => {
                        components.pop();
                    }
                    _ => {}
                }
            }
            // "." and "/" alone mean nothing, as in Docker.
            if !components.is_empty() {
                patterns.push(Pattern {
                    components,
                    exception,
                });
            }
        }
        Self { patterns }
    }

    /// Reads the file that belongs to a Dockerfile: `<Dockerfile>.dockerignore` beside it, or else
    /// `.dockerignore` in the context. Without either nothing is ignored.
    ///
    /// # Errors
    /// `Host` if a file is there and cannot be read.
    pub fn of_context(context: &Path, dockerfile: &Path) -> Result<Self> {
        let mut beside = dockerfile.as_os_str().to_owned();
        beside.push(".dockerignore");
        let mut text = String::new();
        for path in [PathBuf::from(beside), context.join(".dockerignore")] {
            match std::fs::read(&path) {
                Ok(bytes) => {
                    text = String::from_utf8_lossy(&bytes).into_owned();
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(|| format!("read {}", path.display())),
            }
        }
        if dockerfile.file_name() == Some(OUTSIDE.as_ref()) {
            // It came along from elsewhere, and is no part of the context.
            text.push_str(&format!("\n{OUTSIDE}\n{OUTSIDE}.dockerignore\n"));
        }
        Ok(Self::parse(&text))
    }

    /// Whether a path, relative to the context, is left out of it.
    pub fn ignores(&self, path: &Path) -> bool {
        let path: Vec<&[u8]> = path
            .components()
            .map(|component| component.as_os_str().as_bytes())
            .collect();
        let mut ignored = false;
        for pattern in &self.patterns {
            let fits = |depth: usize| matches(&pattern.components, &path[..depth]);
            if ignored == pattern.exception && (1..=path.len()).any(fits) {
                ignored = !pattern.exception;
            }
        }
        ignored
    }

    /// Whether something below an ignored directory may be in the context.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }
}

/// Whether a pattern fits a whole path. `**` is any number of components, at the end at least one.
fn matches(pattern: &[String], path: &[&[u8]]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((first, rest)) if first == "**" => {
            if rest.is_empty() {
                !path.is_empty()
            } else {
                (0..=path.len()).any(|skipped| matches(rest, &path[skipped..]))
            }
        }
        Some((first, rest)) => match path.split_first() {
            Some((component, below)) => {
                matches_component(first.as_bytes(), component) && matches(rest, below)
            }
            None => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_docker_says() {
        for (patterns, path, ignored) in [
            ("node_modules", "node_modules", true),
            ("node_modules", "node_modules/a/b", true),
            ("node_modules", "sub/node_modules", false),
            ("**/node_modules", "sub/node_modules/x", true),
            ("**/node_modules", "node_modules", true),
            ("*.md", "README.md", true),
            ("*.md", "docs/README.md", false),
            ("*.md\n!README.md", "README.md", false),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                "README-secret.md",
                true,
            ),
            ("a/**", "a", false),
            ("a/**", "a/b", true),
            ("/a", "a", true),
            ("a/", "a/b", true),
            ("./a", "a", true),
            ("a/../b", "b", true),
            ("*/temp*", "some/temporary.txt", true),
            ("*/*/temp*", "some/sub/temporary.txt", true),
            ("temp?", "tempa", true),
            ("# comment\n\n  a  ", "a", true),
            ("*\n!src", "src/main.rs", false),
            ("*\n!src", "other", true),
            (".", "a", false),
            ("**", "a/b", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/b/b/c", true),
        ] {
            assert_eq!(
                Ignore::parse(patterns).ignores(Path::new(path)),
                ignored,
                "{patterns:?} {path}"
            );
        }
    }
}
