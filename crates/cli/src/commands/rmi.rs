use clap::Args;

use crate::failure::Result;
use crate::output;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Rmi {
    /// Remove images with several names, too
    #[arg(short, long)]
    force: bool,
    /// Names or ids of images
    #[arg(required = true)]
    images: Vec<String>,
}

pub async fn run(session: &Session, arguments: Rmi) -> Result<u8> {
    let client = session.client().await?;
    let mut first_failure = None;
    for image in &arguments.images {
        match client.remove_image(image, arguments.force).await {
            Ok(items) => {
                for item in items {
                    if let Some(name) = item.untagged {
                        output::line(format!("Untagged: {name}"))?;
                    }
                    if let Some(id) = item.deleted {
                        output::line(format!("Deleted: {id}"))?;
                    }
                }
            }
            Err(error) => {
                output::note(format!("bulkhead: {error}"));
                first_failure.get_or_insert(1);
            }
        }
    }
    Ok(first_failure.unwrap_or(0))
}
