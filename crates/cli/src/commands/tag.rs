use clap::Args;

use crate::failure::{Failure, Result};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Tag {
    /// Name or id of the image
    image: String,
    /// The new name, NAME[:TAG]
    name: String,
}

pub async fn run(session: &Session, arguments: Tag) -> Result<u8> {
    let (repository, tag) = split_reference(&arguments.name);
    if repository.is_empty() {
        return Err(Failure::new(format!(
            "'{}' is no image name",
            arguments.name
        )));
    }
    let client = session.client().await?;
    client
        .tag_image(&arguments.image, repository, tag.unwrap_or("latest"))
        .await?;
    Ok(0)
}

/// Name and tag of an image reference; the colon of a registry's port is not the tag's.
pub fn split_reference(reference: &str) -> (&str, Option<&str>) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (reference, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_port_is_no_tag() {
        for (reference, expected) in [
            ("web", ("web", None)),
            ("web:1", ("web", Some("1"))),
            ("localhost:5000/web", ("localhost:5000/web", None)),
            ("localhost:5000/web:1", ("localhost:5000/web", Some("1"))),
        ] {
            assert_eq!(split_reference(reference), expected);
        }
    }
}
