use std::io::Write;
use std::rc::Rc;

use clap::Args;

use crate::failure::{Failure, Result};
use crate::logs::{self, Settings};
use crate::names;
use crate::output::{self, Look};
use crate::session::Session;
use crate::time::{Timestamp, parse_moment};

#[derive(Debug, Args)]
pub struct Logs {
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// How many lines of each from the end, or all
    #[arg(short = 'n', long, default_value = "all", value_name = "LINES")]
    tail: String,
    /// From this time on: 10m, 2026-01-31T12:00:00Z or seconds since 1970
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// No colours
    #[arg(long)]
    no_color: bool,
    /// Do not put the sandbox's name before each line
    #[arg(long)]
    no_log_prefix: bool,
    /// What the kernel of one micro VM has said, also after the guest has died
    #[arg(
        long,
        conflicts_with_all = [
            "follow", "tail", "since", "until", "timestamps", "no_color", "no_log_prefix",
        ]
    )]
    console: bool,
    /// Which replica of a service
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// Services or sandboxes; the whole project's if none is named
    names: Vec<String>,
}

pub async fn run(session: &Rc<Session>, arguments: Logs) -> Result<u8> {
    if arguments.console {
        return console(session, &arguments).await;
    }
    if arguments.tail != "all" && arguments.tail.parse::<u64>().is_err() {
        return Err(Failure::new(format!(
            "--tail {}: write a number of lines, or all",
            arguments.tail
        )));
    }
    let now = Timestamp::now();
    let moment = |flag, text: &Option<String>| match text {
        Some(text) => parse_moment(flag, text, now).map(Some),
        None => Ok(None),
    };
    let mut sandboxes = names::select(session, &arguments.names).await?;
    if let Some(index) = arguments.index {
        sandboxes.retain(|sandbox| sandbox.number == index);
    }
    // What belongs to no service is one stream of its own, as with `docker logs`.
    let of_services = sandboxes.iter().any(|sandbox| sandbox.service.is_some());
    let prefix = !arguments.no_log_prefix && (of_services || sandboxes.len() > 1);
    let look = Look::of_stdout();
    let settings = Settings {
        follow: arguments.follow,
        since: moment("--since", &arguments.since)?,
        until: moment("--until", &arguments.until)?,
        tail: (arguments.tail != "all").then_some(arguments.tail),
        timestamps: arguments.timestamps,
        prefix,
        color: look.color && !arguments.no_color,
        project: match of_services && arguments.index.is_none() {
            true => sandboxes.iter().find_map(|sandbox| sandbox.project.clone()),
            false => None,
        },
        services: match arguments.names.is_empty() {
            true => Vec::new(),
            false => sandboxes
                .iter()
                .filter_map(|sandbox| sandbox.service.clone())
                .collect(),
        },
    };
    logs::show(session, &sandboxes, settings).await?;
    Ok(0)
}

async fn console(session: &Session, arguments: &Logs) -> Result<u8> {
    let [name] = arguments.names.as_slice() else {
        return Err(Failure::new("--console: name one sandbox"));
    };
    let sandbox = names::select_one(session, name, arguments.index).await?;
    let text = session.client().await?.sandbox_console(&sandbox.id).await?;
    if text.is_empty() {
        output::note("note: the guest's kernel has said nothing: it reports errors only");
    }
    let mut stdout = output::stdout();
    stdout.write_all(&text)?;
    stdout.flush()?;
    Ok(0)
}
