//! What is printed, and where to: data to stdout, everything else to stderr.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

/// Buffered stdout. A closed pipe is an error to be passed on, not a panic.
pub fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::new(io::stdout().lock())
}

/// One line of data.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_ref().as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// One line for the user. That it cannot be shown is no reason to stop.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// What an output can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub terminal: bool,
    pub color: bool,
}

impl Look {
    pub fn of_stdout() -> Self {
        Self::new(io::stdout().is_terminal())
    }

    pub fn of_stderr() -> Self {
        Self::new(io::stderr().is_terminal())
    }

    fn new(terminal: bool) -> Self {
        let unwanted = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            terminal: terminal && !dumb,
            color: terminal && !dumb && !unwanted("NO_COLOR"),
        }
    }
}

/// The foreground colours, by their number in `ESC [ … m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Grey = 90,
}

pub fn paint(text: &str, color: Color, look: Look) -> String {
    paint_number(text, color as u8, look)
}

pub fn paint_number(text: &str, color: u8, look: Look) -> String {
    if look.color {
        format!("\x1b[{color}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
