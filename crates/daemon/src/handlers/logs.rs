//! A sandbox's log, from its file, followed as it grows.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bulkhead_engine::Engine;
use bulkhead_model::Error;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use super::query::is_true;
use super::stream::{content_type, multiplexed};
use crate::app::App;
use crate::error::ApiResult;

/// How often a followed file is looked at.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct Entry {
    log: String,
    stream: String,
    time: String,
}

#[derive(Clone, Copy)]
struct Options {
    stdout: bool,
    stderr: bool,
    timestamps: bool,
    terminal: bool,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
}

pub(crate) async fn logs(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> ApiResult<Response> {
    let record = app.engine.get(&id)?;
    let options = Options {
        stdout: is_true(query.get("stdout")),
        stderr: is_true(query.get("stderr")),
        timestamps: is_true(query.get("timestamps")),
        terminal: record.config.process.terminal.is_some(),
        since: parse_time(query.get("since"))?,
        until: parse_time(query.get("until"))?,
    };
    if !options.stdout && !options.stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream").into());
    }
    let tail = match query.get("tail").map(String::as_str) {
        None | Some("" | "all") => None,
        Some(text) => Some(text.parse::<usize>().map_err(|_| {
            Error::invalid(format!(
                "tail '{text}' is neither a number of lines nor 'all'"
            ))
        })?),
    };
    let follow = is_true(query.get("follow"));
    let path = app.engine.log_file(&record.id);
    let engine = app.engine.clone();
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let sent = send_log(engine, record.id, path, options, tail, follow, &sender).await;
        if let Err(error) = sent
            && sender.send(Err(error)).await.is_err()
        {
            tracing::trace!("the client is gone");
        }
    });
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    Ok((
        [(header::CONTENT_TYPE, content_type(options.terminal))],
        body,
    )
        .into_response())
}

/// Seconds since 1970 with an optional fraction, or RFC 3339; 0 and nothing are no limit.
pub(super) fn parse_time(text: Option<&String>) -> Result<Option<SystemTime>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty() && *text != "0") else {
        return Ok(None);
    };
    let wrong = || {
        Error::invalid(format!(
            "'{text}' is no time: use seconds since 1970 or RFC 3339"
        ))
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Ok(seconds) = whole.parse::<u64>() {
        let digits: String = fraction
            .chars()
            .chain(std::iter::repeat('0'))
            .take(9)
            .collect();
        let nanoseconds = digits.parse::<u32>().map_err(|_| wrong())?;
        return SystemTime::UNIX_EPOCH
            .checked_add(Duration::new(seconds, nanoseconds))
            .map(Some)
            .ok_or_else(wrong);
    }
    humantime::parse_rfc3339(text)
        .map(Some)
        .map_err(|_| wrong())
}

async fn send_log(
    engine: Engine,
    id: String,
    path: PathBuf,
    options: Options,
    tail: Option<usize>,
    follow: bool,
    sender: &mpsc::Sender<Result<Bytes, Error>>,
) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::host("read a log").with_source(error);
    let mut skip = match tail {
        None => 0,
        Some(tail) => {
            let path = path.clone();
            let counted = tokio::task::spawn_blocking(move || count_entries(&path, options)).await;
            counted
                .map_err(|error| Error::host("read a log").with_source(error))?
                .map_err(failed)?
                .saturating_sub(tail)
        }
    };
    let mut reader = loop {
        match tokio::fs::File::open(&path).await {
            Ok(file) => break BufReader::with_capacity(64 * 1024, file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Never started; somebody who follows waits for the start.
                if !follow || engine.get(&id).is_err() {
                    return Ok(());
                }
                tokio::time::sleep(FOLLOW_PAUSE).await;
            }
            Err(error) => return Err(failed(error)),
        }
    };
    let mut line = Vec::new();
    loop {
        // Whether it runs is asked before the file is read to its end: what is written between
        // the two is still seen.
        let running = engine.get(&id).is_ok_and(|record| record.state.is_active());
        loop {
            let read = reader.read_until(b'\n', &mut line).await.map_err(failed)?;
            if read == 0 || !line.ends_with(b"\n") {
                break;
            }
            let entry = serde_json::from_slice::<Entry>(&line);
            line.clear();
            let Some((entry, time)) = entry.ok().and_then(|entry| shown(entry, options)) else {
                continue;
            };
            if skip > 0 {
                skip -= 1;
                continue;
            }
            if options.until.is_some_and(|until| time > until) {
                return Ok(());
            }
            if sender.send(Ok(render(&entry, options))).await.is_err() {
                return Ok(());
            }
        }
        let over = options.until.is_some_and(|until| SystemTime::now() > until);
        if !follow || !running || over || sender.is_closed() {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
}

fn shown(entry: Entry, options: Options) -> Option<(Entry, SystemTime)> {
    let wanted = if entry.stream == "stderr" {
        options.stderr
    } else {
        options.stdout
    };
    let time = humantime::parse_rfc3339(&entry.time).ok()?;
    let recent = options.since.is_none_or(|since| time >= since);
    (wanted && recent).then_some((entry, time))
}

fn render(entry: &Entry, options: Options) -> Bytes {
    let text = if options.timestamps {
        format!("{} {}", entry.time, entry.log)
    } else {
        entry.log.clone()
    };
    if options.terminal {
        return Bytes::from(text);
    }
    multiplexed(
        if entry.stream == "stderr" { 2 } else { 1 },
        text.as_bytes(),
    )
}

fn count_entries(path: &std::path::Path, options: Options) -> std::io::Result<usize> {
    use std::io::BufRead;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut count = 0;
    for line in std::io::BufReader::new(file).split(b'\n') {
        let entry = serde_json::from_slice::<Entry>(&line?);
        if entry.is_ok_and(|entry| shown(entry, options).is_some()) {
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_both_forms() {
        let time = |text: &str| parse_time(Some(&text.to_owned())).expect(text);
        let expected = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 500_000_000);
        assert_eq!(time("1700000000.5"), Some(expected));
        assert_eq!(time("2023-11-14T22:13:20.5Z"), Some(expected));
        assert_eq!(time("0"), None);
        assert!(parse_time(Some(&"soon".to_owned())).is_err());
    }
}
