//! Reads one sandbox's log, over as many connections as it takes.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bulkhead_api::Client;
use bulkhead_api::client::{LogOptions, Output};
use bulkhead_api::multiplex::Stream;
use tokio::sync::mpsc;

use super::{Line, Settings};
use crate::failure::Result;
use crate::session::Session;
use crate::time::Timestamp;

/// Up to where a sandbox's log was read. Lines may share a time, so that those with the last one
/// are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The time of the last line, as it was written.
    last: String,
    at: Option<Timestamp>,
    count: usize,
}

impl Position {
    fn advance(&mut self, time: &str) {
        if self.last == time {
            self.count += 1;
        } else {
            self.last = time.to_owned();
            self.at = Timestamp::parse(time);
            self.count = 1;
        }
    }
}

/// Leaves out the lines that were shown before the connection was lost.
struct Overlap {
    shown: Position,
    passed: usize,
}

impl Overlap {
    fn is_shown(&mut self, time: &str) -> bool {
        let Some(last) = self.shown.at else {
            return false;
        };
        if time == self.shown.last {
            self.passed += 1;
            return self.passed <= self.shown.count;
        }
        Timestamp::parse(time).is_some_and(|time| time < last)
    }
}

/// Reads one sandbox's log.
pub(super) struct Reader {
    pub(super) session: Rc<Session>,
    pub(super) settings: Rc<Settings>,
    pub(super) id: String,
    pub(super) index: usize,
    pub(super) lines: mpsc::Sender<Line>,
    pub(super) position: Position,
}

impl Reader {
    pub(super) async fn run(mut self) -> (usize, Position, Result<()>) {
        let result = self.read_to_the_end().await;
        (self.index, self.position, result)
    }

    async fn read_to_the_end(&mut self) -> Result<()> {
        loop {
            match self.read_connection().await {
                Ok(()) if !self.settings.follow => return Ok(()),
                // The end of the log, unless the daemon ended first and said goodbye.
                Ok(()) => match self.still_runs().await {
                    Ok(true) => tokio::time::sleep(Duration::from_millis(100)).await,
                    Ok(false) => return Ok(()),
                    Err(error) if error.is_disconnected() => self.session.ensure_daemon().await?,
                    Err(error) if error.is_not_found() => return Ok(()),
                    Err(error) => return Err(error.into()),
                },
                Err(error) if error.is_disconnected() && self.settings.follow => {
                    self.session.ensure_daemon().await?;
                }
                // It was removed while it was followed.
                Err(error) if error.is_not_found() && self.position.at.is_some() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn still_runs(&self) -> bulkhead_api::Result<bool> {
        let client = Client::connect(&self.session.paths.socket).await?;
        let inspected = client.inspect_container(&self.id).await?;
        let state = inspected.state.unwrap_or_default();
        Ok(state.running == Some(true) || state.restarting == Some(true))
    }

    async fn read_connection(&mut self) -> bulkhead_api::Result<()> {
        let client = Client::connect(&self.session.paths.socket).await?;
        let inspected = client.inspect_container(&self.id).await?;
        let terminal = inspected
            .config
            .and_then(|config| config.tty)
            .unwrap_or(false);
        let again = self.position.at;
        let options = LogOptions {
            follow: self.settings.follow,
            stdout: true,
            stderr: true,
            timestamps: true,
            since: match again {
                Some(at) => Some(at.to_parameter()),
                None => self.settings.since.clone(),
            },
            until: self.settings.until.clone(),
            tail: match again {
                Some(_) => None,
                None => self.settings.tail.clone(),
            },
            terminal,
        };
        let output = client.container_logs(&self.id, &options).await?;
        self.read_output(output).await
    }

    async fn read_output(&mut self, mut output: Output) -> bulkhead_api::Result<()> {
        let mut overlap = Overlap {
            shown: self.position.clone(),
            passed: 0,
        };
        let mut partial: HashMap<Stream, Vec<u8>> = HashMap::new();
        while let Some(chunk) = output.next().await? {
            let buffer = partial.entry(chunk.stream).or_default();
            buffer.extend_from_slice(&chunk.data);
            let mut begin = 0;
            while let Some(length) = buffer[begin..].iter().position(|&byte| byte == b'\n') {
                let line = &buffer[begin..begin + length];
                self.deliver(line, chunk.stream, &mut overlap).await;
                begin += length + 1;
            }
            buffer.drain(..begin);
        }
        for (stream, line) in partial {
            if !line.is_empty() {
                self.deliver(&line, stream, &mut overlap).await;
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, line: &[u8], stream: Stream, overlap: &mut Overlap) {
        let (time, text) = split_time(line);
        if let Some(time) = time {
            if overlap.is_shown(time) {
                return;
            }
            self.position.advance(time);
        }
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let text = match time {
            Some(time) if self.settings.timestamps => [time.as_bytes(), b" ", text].concat(),
            _ => text.to_vec(),
        };
        let sandbox = self.index;
        // The viewer outlives its readers.
        let _ = self
            .lines
            .send(Line {
                sandbox,
                stream,
                text,
            })
            .await;
    }
}

/// The time at the beginning of a line, and the rest.
fn split_time(line: &[u8]) -> (Option<&str>, &[u8]) {
    let Some(at) = line.iter().take(40).position(|&byte| byte == b' ') else {
        // A line without text has no space either.
        let time = std::str::from_utf8(line).ok();
        return match time.filter(|time| Timestamp::parse(time).is_some()) {
            Some(time) => (Some(time), &[]),
            None => (None, line),
        };
    };
    match std::str::from_utf8(&line[..at]) {
        Ok(time) if Timestamp::parse(time).is_some() => (Some(time), &line[at + 1..]),
        _ => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_is_left_out_once() {
        let times = [
            "2026-01-01T00:00:01Z",
            "2026-01-01T00:00:02.5Z",
            "2026-01-01T00:00:02.5Z",
        ];
        let mut position = Position::default();
        for time in times {
            position.advance(time);
        }
        assert_eq!(position.count, 2);

        let mut overlap = Overlap {
            shown: position,
            passed: 0,
        };
        // The daemon sends those with the last time again, and one more of that very time.
        assert!(overlap.is_shown("2026-01-01T00:00:02.4Z"));
        assert!(overlap.is_shown("2026-01-01T00:00:02.5Z"));
        assert!(overlap.is_shown("2026-01-01T00:00:02.5Z"));
        assert!(!overlap.is_shown("2026-01-01T00:00:02.5Z"));
        assert!(!overlap.is_shown("2026-01-01T00:00:03Z"));

        let mut fresh = Overlap {
            shown: Position::default(),
            passed: 0,
        };
        assert!(!fresh.is_shown("2026-01-01T00:00:01Z"));
    }

    #[test]
    fn lines_come_apart_from_their_times() {
        let time = "2026-01-01T00:00:01.000000001Z";
        let line = format!("{time} hello world");
        assert_eq!(
            split_time(line.as_bytes()),
            (Some(time), &b"hello world"[..])
        );
        let empty = format!("{time} ");
        assert_eq!(split_time(empty.as_bytes()), (Some(time), &b""[..]));
        assert_eq!(split_time(time.as_bytes()), (Some(time), &b""[..]));
        assert_eq!(split_time(b"no time here"), (None, &b"no time here"[..]));
    }
}
