use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

/// How many lines of output a failure repeats.
const LAST_LINES: usize = 20;
/// A longer line of output comes in pieces.
const LONGEST_LINE: usize = 16 << 10;

/// What happens during a build, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// Step `number` of `total` (from 1) starts.
    Started {
        number: usize,
        total: usize,
        /// The instruction on one line.
        text: String,
        /// The stage's name or number, if there are several.
        stage: Option<String>,
    },
    /// It need not be carried out: its result is known.
    Cached {
        number: usize,
    },
    /// A line of what it prints, without the line end.
    Output {
        number: usize,
        line: String,
    },
    Done {
        number: usize,
        duration: Duration,
    },
    Failed {
        number: usize,
        /// `None` if it was no command that failed.
        exit_code: Option<i32>,
        /// What it printed last.
        last_lines: Vec<String>,
        file: String,
        line: usize,
    },
    Warning {
        text: String,
    },
}

/// Cuts what a command prints into lines.
pub(super) struct Lines<'a> {
    number: usize,
    progress: &'a dyn Fn(BuildEvent),
    line: Vec<u8>,
    pub last: VecDeque<String>,
}

impl<'a> Lines<'a> {
    pub fn new(number: usize, progress: &'a dyn Fn(BuildEvent)) -> Self {
        Self {
            number,
            progress,
            line: Vec::new(),
            last: VecDeque::new(),
        }
    }

    fn emit(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        let line = line.trim_end_matches('\r');
        self.line.clear();
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        (self.progress)(BuildEvent::Output {
            number: self.number,
            line: line.to_owned(),
        });
    }

    pub fn finish(&mut self) {
        if !self.line.is_empty() {
            self.emit();
        }
    }
}

impl Write for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(piece) => {
                    self.line.extend_from_slice(piece);
                    self.emit();
                }
                None => self.line.extend_from_slice(piece),
            }
            if self.line.len() > LONGEST_LINE {
                self.emit();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
