use bulkhead_api::Client;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::names;
use crate::output;
use crate::session::Session;
use crate::template;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ObjectType {
    Container,
    Image,
    Network,
    Volume,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// json, or a template such as {{.State.Pid}}
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only objects of this type
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    object_type: Option<ObjectType>,
    /// Services, sandboxes, images, networks or volumes
    #[arg(required = true)]
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Inspect) -> Result<u8> {
    let mut objects = Vec::new();
    for name in &arguments.names {
        objects.extend(inspect(session, name, arguments.object_type).await?);
    }
    match arguments.format.as_deref() {
        None | Some("json") => {
            let text = serde_json::to_string_pretty(&objects)
                .map_err(|error| Failure::new(format!("write as JSON: {error}")))?;
            output::line(text)?;
        }
        Some(format) => {
            for object in &objects {
                output::line(template::render(format, object)?)?;
            }
        }
    }
    Ok(0)
}

/// The objects of that name: sandboxes, else an image, else a network, else a volume.
async fn inspect(
    session: &Session,
    name: &str,
    object_type: Option<ObjectType>,
) -> Result<Vec<Value>> {
    let client = session.client().await?;
    let wanted = |this| object_type.is_none() || object_type == Some(this);
    let mut objects = Vec::new();
    if wanted(ObjectType::Container) {
        let project = match object_type {
            // A broken Compose file is no reason not to find an image.
            None => session.project_name().unwrap_or_default(),
            Some(_) => session.project_name()?,
        };
        let all = names::list(client, None, true).await?;
        for sandbox in names::find(&all, project.as_deref(), name).unwrap_or_default() {
            objects.push(inspect_sandbox(client, &sandbox.id).await?);
        }
    }
    if objects.is_empty() && wanted(ObjectType::Image) {
        objects.extend(found(client.inspect_image_raw(name).await)?);
    }
    if objects.is_empty() && wanted(ObjectType::Network) {
        let network = found(client.inspect_network(name).await)?;
        objects.extend(network.and_then(|network| serde_json::to_value(network).ok()));
    }
    if objects.is_empty() && wanted(ObjectType::Volume) {
        let volume = found(client.inspect_volume(name).await)?;
        objects.extend(volume.and_then(|volume| serde_json::to_value(volume).ok()));
    }
    if objects.is_empty() {
        return Err(Failure::new(format!(
            "no sandbox, image, network or volume is named '{name}'"
        )));
    }
    Ok(objects)
}

/// What Docker's API says of a sandbox and, in the key `Bulkhead`, what it cannot say.
async fn inspect_sandbox(client: &Client, id: &str) -> Result<Value> {
    let mut object = client.inspect_container_raw(id).await?;
    // A daemon of Docker's own knows no more.
    if let Some(details) = found(client.sandbox_details(id).await)? {
        object["Bulkhead"] = json!({
            "Kind": details.kind,
            "Accelerator": details.accelerator,
            "AcceleratorReason": details.accelerator_reason,
        });
    }
    Ok(object)
}

fn found<T>(result: bulkhead_api::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(object) => Ok(Some(object)),
        // A name that no object can have is not found either.
        Err(error) if matches!(error.status(), Some(400 | 404)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
