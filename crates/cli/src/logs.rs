//! Shows the logs of sandboxes, side by side and for as long as they run, also while the daemon
//! is killed and started again: every line has a time, and what was shown is known by it.

use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;

use bulkhead_api::client::{Filters, LogOptions, Output};
use bulkhead_api::docker::{EventMessage, labels};
use bulkhead_api::multiplex::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::failure::{Failure, Result};
use crate::names::Sandbox;
use crate::output::{Look, paint_number};
use crate::session::Session;
use crate::time::Timestamp;

/// What to show and how.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub follow: bool,
    pub since: Option<String>,
    pub until: Option<String>,
    pub tail: Option<String>,
    pub timestamps: bool,
    /// The name of the sandbox before each line.
    pub prefix: bool,
    pub color: bool,
    /// Also show sandboxes of this project that are started later.
    pub project: Option<String>,
    /// Only those of these services; empty for all.
    pub services: Vec<String>,
}

/// The colours of the prefixes, in turn.
const COLORS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

/// A line, without its end.
struct Line {
    sandbox: usize,
    stream: Stream,
    text: Vec<u8>,
}

/// Shows the logs until they end; with `follow`, until no sandbox runs any more.
pub async fn show(session: &Rc<Session>, sandboxes: &[Sandbox], settings: Settings) -> Result<()> {
    let (lines, received) = mpsc::channel(256);
    let mut viewer = Viewer {
        session: session.clone(),
        settings: Rc::new(settings),
        known: Vec::new(),
        positions: HashMap::new(),
        readers: JoinSet::new(),
        lines,
        received,
        colors: Vec::new(),
    };
    for sandbox in sandboxes {
        viewer.add(sandbox.clone());
    }
    viewer.run().await
}

/// Up to where a sandbox's log was read. Lines may share a time, so that those with the last one
/// are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Position {
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

struct Viewer {
    session: Rc<Session>,
    settings: Rc<Settings>,
    known: Vec<Sandbox>,
    /// Of those that are not read at the moment.
    positions: HashMap<usize, Position>,
    readers: JoinSet<(usize, Position, Result<()>)>,
    lines: mpsc::Sender<Line>,
    received: mpsc::Receiver<Line>,
    /// The services that have a colour.
    colors: Vec<String>,
}

impl Viewer {
    fn add(&mut self, sandbox: Sandbox) {
        let index = self.known.len();
        self.known.push(sandbox);
        self.read(index, Position::default());
    }

    fn read(&mut self, index: usize, position: Position) {
        let reader = Reader {
            session: self.session.clone(),
            settings: self.settings.clone(),
            id: self.known[index].id.clone(),
            index,
            lines: self.lines.clone(),
            position,
        };
        self.readers.spawn_local(reader.run());
    }

    async fn run(&mut self) -> Result<()> {
        let mut starts = match (&self.settings.project, self.settings.follow) {
            (Some(project), true) => Some(watch_starts(self.session.clone(), project.clone())),
            _ => None,
        };
        loop {
            tokio::select! {
                biased;
                Some(line) = self.received.recv() => self.print_all(line)?,
                Some(id) = next_start(&mut starts) => self.started(&id).await?,
                ended = self.readers.join_next() => match ended {
                    Some(Ok((index, position, result))) => {
                        result?;
                        self.positions.insert(index, position);
                    }
                    Some(Err(error)) => return Err(Failure::new(format!("read a log: {error}"))),
                    None => return self.drain(),
                },
            }
        }
    }

    fn drain(&mut self) -> Result<()> {
        while let Ok(line) = self.received.try_recv() {
            self.print_all(line)?;
        }
        Ok(())
    }

    /// A sandbox of the project runs (again).
    async fn started(&mut self, id: &str) -> Result<()> {
        if let Some(index) = self.known.iter().position(|sandbox| sandbox.id == id) {
            if let Some(position) = self.positions.remove(&index) {
                self.read(index, position);
            }
            return Ok(());
        }
        let client = self.session.client().await?;
        let project = self.settings.project.as_deref();
        for sandbox in crate::names::list(client, project, true).await? {
            let wanted = self.settings.services.is_empty()
                || sandbox
                    .service
                    .as_ref()
                    .is_some_and(|service| self.settings.services.contains(service));
            if sandbox.id == id && wanted && !sandbox.oneoff {
                self.add(sandbox);
            }
        }
        Ok(())
    }

    /// Prints the line and those that already wait behind it, with one write.
    fn print_all(&mut self, first: Line) -> Result<()> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(line) = next {
            // With prefixes all of it is one text; without, the streams stay what they are.
            let to_stderr = line.stream == Stream::Stderr && !self.settings.prefix;
            let formatted = self.format(&line);
            match to_stderr {
                true => stderr.extend_from_slice(&formatted),
                false => stdout.extend_from_slice(&formatted),
            }
            let full = stdout.len() + stderr.len() > 256 << 10;
            next = if full {
                None
            } else {
                self.received.try_recv().ok()
            };
        }
        let mut output = io::stdout().lock();
        output.write_all(&stdout)?;
        output.flush()?;
        io::stderr().lock().write_all(&stderr)?;
        Ok(())
    }

    fn format(&mut self, line: &Line) -> Vec<u8> {
        let mut text = Vec::new();
        if self.settings.prefix {
            let width = self
                .known
                .iter()
                .map(|sandbox| sandbox.short_name().len())
                .max()
                .unwrap_or(0);
            let sandbox = &self.known[line.sandbox];
            let service = sandbox.service.as_ref().unwrap_or(&sandbox.name);
            let color = match self.colors.iter().position(|known| known == service) {
                Some(at) => at,
                None => {
                    self.colors.push(service.clone());
                    self.colors.len() - 1
                }
            };
            let prefix = format!("{:width$}  | ", sandbox.short_name());
            let look = Look {
                terminal: true,
                color: self.settings.color,
            };
            text.extend(paint_number(&prefix, COLORS[color % COLORS.len()], look).into_bytes());
        }
        text.extend_from_slice(&line.text);
        text.push(b'\n');
        text
    }
}

/// Reads one sandbox's log.
struct Reader {
    session: Rc<Session>,
    settings: Rc<Settings>,
    id: String,
    index: usize,
    lines: mpsc::Sender<Line>,
    position: Position,
}

impl Reader {
    async fn run(mut self) -> (usize, Position, Result<()>) {
        let result = self.read_to_the_end().await;
        (self.index, self.position, result)
    }

    async fn read_to_the_end(&mut self) -> Result<()> {
        loop {
            match self.read_connection().await {
                Ok(()) if !self.settings.follow => return Ok(()),
                // The end of the log, unless the daemon ended first and said goodbye.
                Ok(()) => match self.still_runs().await {
                    Ok(true) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
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
        let client = bulkhead_api::Client::connect(&self.session.paths.socket).await?;
        let inspected = client.inspect_container(&self.id).await?;
        let state = inspected.state.unwrap_or_default();
        Ok(state.running == Some(true) || state.restarting == Some(true))
    }

    async fn read_connection(&mut self) -> bulkhead_api::Result<()> {
        let client = bulkhead_api::Client::connect(&self.session.paths.socket).await?;
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

async fn next_start(starts: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match starts {
        Some(starts) => starts.recv().await,
        None => None,
    }
}

/// The ids of a project's sandboxes, whenever one is started.
fn watch_starts(session: Rc<Session>, project: String) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::task::spawn_local(async move {
        let label = format!("{}={project}", labels::PROJECT);
        let filters = Filters::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), vec!["start".to_owned()]),
            ("label".to_owned(), vec![label]),
        ]);
        let mut since = Timestamp::now().to_parameter();
        loop {
            let watched = async {
                let client = bulkhead_api::Client::connect(&session.paths.socket).await?;
                let mut events = client.events(Some(&since), None, &filters).await?;
                while let Some(event) = events.next().await? {
                    if let Some(nanoseconds) = event.time_nano {
                        let (whole, part) =
                            (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
                        since = format!("{whole}.{part:09}");
                    }
                    if let Some(id) = started_id(event)
                        && sender.send(id).await.is_err()
                    {
                        return Ok(());
                    }
                }
                Ok::<(), bulkhead_api::Error>(())
            };
            let result = watched.await;
            if sender.is_closed() || matches!(&result, Err(error) if !error.is_disconnected()) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    });
    receiver
}

fn started_id(event: EventMessage) -> Option<String> {
    (event.action.as_deref() == Some("start")).then_some(event.actor?.id)?
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
