//! What `up`, `down` and `build` show while they work: on a terminal one line an object, redrawn
//! in place; elsewhere one line an event. All of it goes to stderr.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use bulkhead_api::bulkhead::{ProgressEvent, ProgressLine, Stage};
use bulkhead_api::client::JsonLines;

use crate::failure::{Failure, Result};
use crate::output::{self, Color, Look, paint};
use crate::terminal;

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// How often a terminal is redrawn.
pub const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// One service, network or volume, and what has happened to it.
#[derive(Debug)]
struct Row {
    name: String,
    /// The latest stage of each sandbox; one without a name for other objects.
    stages: Vec<(Option<String>, Stage)>,
    message: Option<String>,
    begun: Instant,
    finished: Option<Instant>,
}

impl Row {
    /// The stage that the row shows: a failure, else that of the sandbox that is least far.
    fn stage(&self) -> Stage {
        let stages = || self.stages.iter().map(|(_, stage)| *stage);
        if stages().any(|stage| stage == Stage::Failed) {
            return Stage::Failed;
        }
        // What was removed to make way for another no longer counts.
        let remaining = stages().filter(|stage| *stage != Stage::Removed);
        remaining
            .min_by_key(|stage| rank(*stage))
            .unwrap_or(Stage::Removed)
    }

    fn update(&mut self, event: &ProgressEvent, now: Instant) {
        match self
            .stages
            .iter_mut()
            .find(|(name, _)| *name == event.sandbox)
        {
            Some((_, stage)) => *stage = event.stage,
            None => self.stages.push((event.sandbox.clone(), event.stage)),
        }
        // A sandbox with a name replaces what was said of the service as a whole.
        if event.sandbox.is_some() {
            self.stages.retain(|(name, _)| name.is_some());
        }
        self.message = event.message.clone();
        self.finished = is_final(self.stage()).then_some(now);
    }
}

fn rank(stage: Stage) -> u8 {
    match stage {
        Stage::Failed => 0,
        Stage::Pulling | Stage::Building => 1,
        Stage::Stopping => 2,
        Stage::Stopped => 3,
        Stage::Removing => 4,
        Stage::Creating => 5,
        Stage::Created => 6,
        Stage::Waiting => 7,
        Stage::Starting => 8,
        Stage::Started => 9,
        Stage::Running => 10,
        Stage::Healthy => 11,
        Stage::Removed => 12,
    }
}

/// Whether nothing more need follow.
fn is_final(stage: Stage) -> bool {
    matches!(
        stage,
        Stage::Created
            | Stage::Started
            | Stage::Healthy
            | Stage::Running
            | Stage::Stopped
            | Stage::Removed
            | Stage::Failed
    )
}

/// The rows, and how they are shown.
#[derive(Debug)]
pub struct Progress {
    look: Look,
    rows: Vec<Row>,
    /// How many lines of the terminal are ours to draw over.
    drawn: usize,
    quiet: bool,
    /// Said once, when one of these services starts.
    notice: Option<(BTreeSet<String>, String)>,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        Self::with_look(Look::of_stderr(), quiet)
    }

    fn with_look(look: Look, quiet: bool) -> Self {
        Self {
            look,
            rows: Vec::new(),
            drawn: 0,
            quiet,
            notice: None,
        }
    }

    /// Has this line said when the first of these services starts, however quiet the rest is.
    pub fn announce(&mut self, services: BTreeSet<String>, line: String) {
        self.notice = Some((services, line));
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Shows what has happened.
    pub fn event(&mut self, event: &ProgressEvent) {
        if event.stage == Stage::Starting
            && let Some((_, line)) = self.notice.take_if(|(services, _)| {
                let service = event.service.as_ref();
                service.is_some_and(|service| services.contains(service))
            })
        {
            self.say(&line);
        }
        let name = row_name(event);
        let now = Instant::now();
        let row = match self.rows.iter().position(|row| row.name == name) {
            Some(at) => &mut self.rows[at],
            None => {
                self.rows.push(Row {
                    name,
                    stages: Vec::new(),
                    message: None,
                    begun: now,
                    finished: None,
                });
                self.rows.last_mut().expect("a row was just pushed")
            }
        };
        let known = row
            .stages
            .iter()
            .any(|(name, stage)| *name == event.sandbox && *stage == event.stage);
        row.update(event, now);
        if self.quiet {
            return;
        }
        if self.look.terminal {
            self.redraw();
        } else if !known {
            output::note(plain_line(event));
        }
    }

    /// Shows how time passes; for terminals only.
    pub fn redraw(&mut self) {
        if self.quiet || !self.look.terminal || self.rows.is_empty() {
            return;
        }
        let (rows, columns) = terminal::stderr_size();
        let mut lines = self.render(Instant::now(), columns);
        // What has scrolled out of sight cannot be drawn over.
        lines.drain(..lines.len().saturating_sub(rows.saturating_sub(1)));
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &lines {
            text.push_str("\r\x1b[2K");
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = lines.len();
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes());
        let _ = stderr.flush();
    }

    /// A line above those that are redrawn.
    fn say(&mut self, line: &str) {
        if self.drawn > 0 {
            output::note(format!("\x1b[{}A\r\x1b[J{line}", self.drawn));
            self.drawn = 0;
        } else {
            output::note(line);
        }
    }

    /// Leaves the lines on the terminal as they are; what comes next goes below them.
    pub fn finish(&mut self) {
        self.redraw();
        self.drawn = 0;
        self.rows.clear();
    }

    fn render(&self, now: Instant, columns: usize) -> Vec<String> {
        let width = self
            .rows
            .iter()
            .map(|row| row.name.chars().count())
            .max()
            .unwrap_or(0);
        let line = |row: &Row| {
            let elapsed = row.finished.unwrap_or(now).duration_since(row.begun);
            let stage = row.stage();
            let (mark, color) = match stage {
                Stage::Failed => ("✘", Color::Red),
                stage if is_final(stage) => ("✔", Color::Green),
                _ => {
                    let turn = elapsed.as_millis() / REDRAW_INTERVAL.as_millis();
                    (SPINNER[turn as usize % SPINNER.len()], Color::Yellow)
                }
            };
            let replicas: Vec<Stage> = row
                .stages
                .iter()
                .map(|(_, stage)| *stage)
                .filter(|stage| *stage != Stage::Removed)
                .collect();
            let mut what = stage.to_string();
            if replicas.len() > 1 && !is_final(stage) {
                let done = replicas.iter().filter(|stage| is_final(**stage)).count();
                what = format!("{what} {done}/{}", replicas.len());
            }
            if let Some(message) = row.message.as_deref().and_then(|text| text.lines().next()) {
                what = format!("{what}: {message}");
            }
            let padding = width - row.name.chars().count();
            let time = format!("{:.1}s", elapsed.as_secs_f64());
            let space = columns.saturating_sub(width + time.len() + 7);
            let what: String = what.chars().take(space).collect();
            format!(
                " {} {}{:padding$}  {} {}",
                paint(mark, color, self.look),
                row.name,
                "",
                paint(&what, color, self.look),
                paint(&time, Color::Grey, self.look),
            )
        };
        self.rows.iter().map(line).collect()
    }
}

/// Shows the events until the last line, which says how it ended.
///
/// # Errors
/// The daemon's failure, or that it went away before the last line.
pub async fn follow(mut lines: JsonLines<ProgressLine>, progress: &mut Progress) -> Result<()> {
    let mut redraw = tokio::time::interval(REDRAW_INTERVAL);
    loop {
        tokio::select! {
            line = lines.next() => match line? {
                Some(ProgressLine::Event(event)) => progress.event(&event),
                Some(ProgressLine::Done { done }) => {
                    return match done.error {
                        None => Ok(()),
                        Some(failure) => Err(Failure::new(failure.message)),
                    };
                }
                None => {
                    return Err(Failure::new(
                        "the daemon went away before it was done; run the command again",
                    ));
                }
            },
            _ = redraw.tick() => progress.redraw(),
        }
    }
}

/// A service's name, or an object's.
fn row_name(event: &ProgressEvent) -> String {
    match (&event.service, &event.object, &event.sandbox) {
        (Some(service), _, _) => service.clone(),
        (None, Some(object), _) => object.clone(),
        (None, None, Some(sandbox)) => sandbox.clone(),
        (None, None, None) => String::new(),
    }
}

fn plain_line(event: &ProgressEvent) -> String {
    let name = match (&event.sandbox, &event.object, &event.service) {
        (Some(name), _, _) | (None, Some(name), _) | (None, None, Some(name)) => name.as_str(),
        (None, None, None) => "",
    };
    match event.message.as_deref() {
        Some(message) if !message.is_empty() => {
            format!("{name}: {}: {}", event.stage, message.trim_end())
        }
        _ => format!("{name}: {}", event.stage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look {
        terminal: false,
        color: false,
    };

    fn event(service: &str, sandbox: Option<&str>, stage: Stage) -> ProgressEvent {
        ProgressEvent {
            service: Some(service.into()),
            sandbox: sandbox.map(str::to_owned),
            stage,
            ..ProgressEvent::default()
        }
    }

    fn rendered(events: &[ProgressEvent], columns: usize) -> Vec<String> {
        let mut progress = Progress::with_look(PLAIN, true);
        for event in events {
            progress.event(event);
        }
        let now = progress.rows[0].begun + Duration::from_millis(1500);
        for row in &mut progress.rows {
            row.begun = now - Duration::from_millis(1500);
            row.finished = row.finished.map(|_| now);
        }
        progress.render(now, columns)
    }

    #[test]
    fn a_line_a_service_with_what_is_least_far() {
        let lines = rendered(
            &[
                event("db", Some("shop-db-1"), Stage::Healthy),
                event("web", None, Stage::Waiting),
                event("web", Some("shop-web-1"), Stage::Started),
                event("web", Some("shop-web-2"), Stage::Starting),
            ],
            80,
        );
        assert_eq!(lines, [" ✔ db   healthy 1.5s", " ⠴ web  starting 1/2 1.5s"]);
    }

    #[test]
    fn a_replaced_sandbox_does_not_count() {
        let lines = rendered(
            &[
                event("db", Some("shop-db-1"), Stage::Removed),
                event("db", Some("shop-db-1-new"), Stage::Started),
            ],
            80,
        );
        assert_eq!(lines, [" ✔ db  started 1.5s"]);
    }

    #[test]
    fn a_failure_is_shown_and_cut_to_the_width() {
        let mut failed = event("db", Some("shop-db-1"), Stage::Failed);
        failed.message = Some("port 5432 is in use by postgres (pid 12)\nmore".into());
        let lines = rendered(&[event("db", None, Stage::Starting), failed.clone()], 40);
        assert_eq!(lines, [" ✘ db  failed: port 5432 is in use 1.5s"]);
        assert!(lines[0].chars().count() < 40);
        assert_eq!(
            plain_line(&failed),
            "shop-db-1: failed: port 5432 is in use by postgres (pid 12)\nmore"
        );
    }
}
