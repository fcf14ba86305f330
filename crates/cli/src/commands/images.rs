use bulkhead_api::client::Filters;
use clap::Args;
use serde_json::json;

use super::Format;
use super::tag::split_reference;
use crate::failure::Result;
use crate::output;
use crate::session::Session;
use crate::table::{Table, decimal_size, short_id};
use crate::time;

#[derive(Debug, Args)]
pub struct Images {
    /// Show images that are only parts of others, too
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Only images of this name
    name: Option<String>,
}

pub async fn run(session: &Session, arguments: Images) -> Result<u8> {
    let mut filters = Filters::new();
    if let Some(name) = &arguments.name {
        filters.insert("reference".into(), vec![name.clone()]);
    }
    let client = session.client().await?;
    let images = client.list_images(arguments.all, &filters).await?;
    if arguments.quiet {
        for image in &images {
            output::line(short_id(&image.id))?;
        }
        return Ok(0);
    }
    let mut table = Table::new(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    let mut objects = Vec::new();
    for image in &images {
        let untagged = ["<none>:<none>".to_owned()];
        let names = match image.repo_tags.as_slice() {
            [] => &untagged[..],
            names => names,
        };
        for name in names {
            let (repository, tag) = split_reference(name);
            let tag = tag.unwrap_or("<none>");
            let size = u64::try_from(image.size).unwrap_or(0);
            objects.push(json!({
                "Repository": repository,
                "Tag": tag,
                "ID": image.id,
                "CreatedAt": image.created,
                "SizeBytes": size,
                "Size": decimal_size(size),
            }));
            table.row(vec![
                repository.to_owned(),
                tag.to_owned(),
                short_id(&image.id).to_owned(),
                time::ago(image.created),
                decimal_size(size),
            ]);
        }
    }
    match arguments.format {
        Format::Json => super::print_json(&objects)?,
        Format::Table => table.print()?,
    }
    Ok(0)
}
