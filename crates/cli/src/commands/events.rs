use bulkhead_api::client::Filters;
use bulkhead_api::docker::{EventMessage, labels};
use clap::Args;

use super::Format;
use crate::failure::{Failure, Result};
use crate::output;
use crate::session::Session;
use crate::time::{Timestamp, parse_moment};

#[derive(Debug, Args)]
pub struct Events {
    /// From this time on
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only events for which NAME is VALUE
    #[arg(long = "filter", value_name = "NAME=VALUE")]
    filters: Vec<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Services or sandboxes
    names: Vec<String>,
}

pub async fn run(session: &Session, arguments: Events) -> Result<u8> {
    let now = Timestamp::now();
    let moment = |flag, text: &Option<String>| match text {
        Some(text) => parse_moment(flag, text, now).map(Some),
        None => Ok(None),
    };
    let since = moment("--since", &arguments.since)?;
    let until = moment("--until", &arguments.until)?;
    let mut filters = Filters::new();
    for filter in &arguments.filters {
        let (name, value) = filter
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("--filter {filter}: write it as NAME=VALUE")))?;
        filters.entry(name.into()).or_default().push(value.into());
    }
    if !arguments.names.is_empty() {
        for sandbox in crate::names::select(session, &arguments.names).await? {
            filters
                .entry("container".into())
                .or_default()
                .push(sandbox.id);
        }
    } else if let Some(project) = &session.globals.project_name {
        let label = format!("{}={project}", labels::PROJECT);
        filters.entry("label".into()).or_default().push(label);
    }
    let client = session.client().await?;
    let mut events = client
        .events(since.as_deref(), until.as_deref(), &filters)
        .await?;
    while let Some(event) = events.next().await? {
        match arguments.format {
            Format::Json => output::line(serde_json::to_string(&event).unwrap_or_default())?,
            Format::Table => output::line(line(&event))?,
        }
    }
    Ok(0)
}

/// `TIME TYPE ACTION ID (name=value, …)`.
fn line(event: &EventMessage) -> String {
    let actor = event.actor.clone().unwrap_or_default();
    let mut attributes: Vec<String> = actor
        .attributes
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    attributes.sort();
    let nanoseconds = event.time_nano.unwrap_or_default();
    let kind = event.typ.map(|typ| typ.to_string()).unwrap_or_default();
    format!(
        "{}.{:09} {kind} {} {} ({})",
        nanoseconds / 1_000_000_000,
        nanoseconds % 1_000_000_000,
        event.action.as_deref().unwrap_or_default(),
        actor.id.unwrap_or_default(),
        attributes.join(", ")
    )
}
