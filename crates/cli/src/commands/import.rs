use std::io::Read;
use std::path::PathBuf;

use bulkhead_api::client::{BodySender, ImportOptions, body_channel};
use clap::Args;

use super::tag::split_reference;
use crate::failure::{Failure, Result};
use crate::output;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Import {
    /// Dockerfile instruction that sets the image's configuration
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// Note in the image's history
    #[arg(short, long)]
    message: Option<String>,
    /// Archive of a root filesystem (tar, also compressed); - for stdin
    file: PathBuf,
    /// Name of the image, NAME[:TAG]
    name: String,
}

pub async fn run(session: &Session, arguments: Import) -> Result<u8> {
    let path = arguments.file.clone();
    let wrong = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let reader: Box<dyn Read + Send> = match arguments.file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(&arguments.file).map_err(wrong)?),
    };
    let (repository, tag) = split_reference(&arguments.name);
    let options = ImportOptions {
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        message: arguments.message.clone(),
        changes: arguments.changes.clone(),
    };
    let client = session.client().await?;
    let (sender, receiver) = body_channel();
    std::thread::spawn(move || send(reader, &sender));
    let mut progress = client.import_image(&options, receiver).await?;
    let mut id = None;
    while let Some(line) = progress.next().await? {
        if let Some(message) = line
            .error_detail
            .and_then(|error| error.message)
            .or(line.error)
        {
            return Err(Failure::new(message));
        }
        id = line
            .status
            .filter(|status| status.starts_with("sha256:"))
            .or(id);
    }
    match id {
        Some(id) => output::line(id)?,
        None => output::note(format!("bulkhead: imported {}", arguments.name)),
    }
    Ok(0)
}

/// Sends all that the reader gives; an error breaks the request off.
pub fn send(mut reader: impl Read, sender: &BodySender) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let piece = match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => Ok(buffer[..length].to_vec().into()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let last = piece.is_err();
        if sender.blocking_send(piece).is_err() || last {
            return;
        }
    }
}
