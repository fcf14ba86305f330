use std::time::Duration;

use bulkhead_api::client::Filters;
use bulkhead_api::docker::{EventMessage, labels};
use clap::Args;
use tokio::time::Instant;

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
    // A daemon that keeps no old events does not end the answer at a time that has passed.
    let rest = until.as_deref().map(|until| {
        let until: f64 = until.parse().unwrap_or_default();
        let now = Timestamp::now();
        let rest = until - now.seconds as f64 - f64::from(now.nanoseconds) / 1e9;
        Duration::try_from_secs_f64(rest).unwrap_or_default() + Duration::from_millis(100)
    });
    let end = rest.map(|rest| Instant::now() + rest);
    loop {
        let event = match end {
            None => events.next().await?,
            Some(end) => match tokio::time::timeout_at(end, events.next()).await {
                Ok(event) => event?,
                Err(_) => None,
            },
        };
        let Some(event) = event else {
            return Ok(0);
        };
        match arguments.format {
            Format::Json => output::line(serde_json::to_string(&event).unwrap_or_default())?,
            Format::Table => output::line(line(&event))?,
        }
    }
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
