use std::fmt;
use std::str::FromStr;

use bulkhead_model::{Error, Result};

use crate::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";

/// The name of an image, with every default filled in: `debian` is
/// `docker.io/library/debian:latest`.
///
/// `Display` writes it in full; [`Reference::familiar`] as users write it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a name as Docker does.
    ///
    /// # Errors
    /// `InvalidInput` that says which part is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("invalid image name '{text}': {why}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before it belongs to a port.
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].find(':') {
            Some(colon) => (
                &rest[..name_end + colon],
                Some(&rest[name_end + colon + 1..]),
            ),
            None => (rest, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        if !is_host(registry) {
            return Err(wrong("the registry is no host name"));
        }
        if repository.is_empty() {
            return Err(wrong("the name is empty"));
        }
        if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong("the repository has to be in lower case"));
        }
        if !repository.split('/').all(is_path_component) {
            return Err(wrong(
                "use lower-case letters, digits and single separators ('.', '_', '-', '/')",
            ));
        }
        if repository.len() > 255 {
            return Err(wrong("it is longer than 255 characters"));
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(wrong(
                "a tag is 1 to 128 letters, digits, '_', '.' and '-', and starts with none of the last two",
            ));
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }

    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in its registry: `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `None` only where a digest was given and no tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The shortest text that means the same, but with its tag: `debian:latest`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let prefix = format!("{DEFAULT_REGISTRY}/");
        match full.strip_prefix(&prefix) {
            Some(rest) => rest.strip_prefix("library/").unwrap_or(rest).to_owned(),
            None => full,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(registry: &str) -> bool {
    let (host, port) = registry.split_once(':').unwrap_or((registry, "0"));
    port.parse::<u16>().is_ok()
        && host.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let bytes = component.as_bytes();
    alphanumeric(bytes.first().copied())
        && alphanumeric(bytes.last().copied())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
        && !component.contains("..")
        && !component.contains("___")
}

fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && !matches!(bytes[0], b'.' | b'-')
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in_as_docker_does() {
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            (
                "debian:bookworm-slim",
                "docker.io/library/debian:bookworm-slim",
                "debian:bookworm-slim",
            ),
            (
                "docker.io/library/debian:a",
                "docker.io/library/debian:a",
                "debian:a",
            ),
            (
                "index.docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("localhost/app:1", "localhost/app:1", "localhost/app:1"),
            (
                "host:5000/app",
                "host:5000/app:latest",
                "host:5000/app:latest",
            ),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ] {
            let reference = Reference::parse(text).expect(text);
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(Reference::parse(full).expect(full), reference);
        }
    }

    #[test]
    fn a_digest_stands_without_a_tag() {
        let digest = Digest::of("x");
        let reference = Reference::parse(&format!("debian@{digest}")).unwrap();
        assert_eq!(reference.tag(), None);
        assert_eq!(reference.digest(), Some(&digest));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for wrong in [
            "",
            ":",
            "a:",
            "Debian",
            "a//b",
            "/a",
            "a:b:c",
            "-a",
            "a..b",
            "a b",
            "a@sha256:1",
            "../etc",
            "a/../b",
            "a:.x",
        ] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
    }
}
