//! Shows the logs of sandboxes, side by side and for as long as they run, also while the daemon
//! is killed and started again: every line has a time, and what was shown is known by it.

mod reader;

use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;

use bulkhead_api::client::Filters;
use bulkhead_api::docker::{EventMessage, labels};
use bulkhead_api::multiplex::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::failure::{Failure, Result};
use crate::names::Sandbox;
use crate::output::{Look, paint_number};
use crate::session::Session;
use crate::time::Timestamp;
use reader::{Position, Reader};

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
