//! What is wrong with a Compose file, and where.
//!
//! Invariant: columns and lengths count characters, never bytes, so that a caret stands under
//! what it means whatever the line holds.

use std::fmt;
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// One finding. `Display` renders it over several lines, without a final line break:
///
/// ```text
/// error: unknown key 'comand' in service 'web'
///   --> compose.yaml:7:5
///    |
///  7 |     comand: true
///    |     ^^^^^^ did you mean 'command'?
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// As the caller named it; `None` if no file is to blame.
    pub file: Option<PathBuf>,
    /// From 1; 0 if it is about the whole file.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters, within the line; at least 1.
    pub length: usize,
    /// One line: what is wrong.
    pub message: String,
    /// The line's text, without its end.
    pub source_line: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A finding that no file is to blame for.
    pub(crate) fn global(severity: Severity, message: impl Into<String>) -> Self {
        Self {
            severity,
            file: None,
            line: 0,
            column: 0,
            length: 0,
            message: message.into(),
            source_line: String::new(),
            help: None,
        }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.severity, one_line(&self.message))?;
        let help = self.help.as_deref().map(one_line);
        let Some(file) = &self.file else {
            return match help {
                Some(help) => write!(formatter, "\n  = help: {help}"),
                None => Ok(()),
            };
        };
        if self.line == 0 {
            write!(formatter, "\n  --> {}", file.display())?;
            return match help {
                Some(help) => write!(formatter, "\n  = help: {help}"),
                None => Ok(()),
            };
        }
        if self.source_line.is_empty() && self.column > 1 {
            // A line that is too long to be shown.
            write!(
                formatter,
                "\n  --> {}:{}:{}",
                file.display(),
                self.line,
                self.column
            )?;
            return match help {
                Some(help) => write!(formatter, "\n  = help: {help}"),
                None => Ok(()),
            };
        }
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        write!(
            formatter,
            "\n {gutter}--> {}:{}:{}\n {gutter} |\n {number} | {}\n {gutter} | {}{}",
            file.display(),
            self.line,
            self.column,
            printable(&self.source_line),
            padding(&self.source_line, self.column.saturating_sub(1)),
            "^".repeat(self.caret_width()),
        )?;
        match help {
            Some(help) => write!(formatter, " {help}"),
            None => Ok(()),
        }
    }
}

impl Diagnostic {
    /// How many terminal cells the marked text takes; never beyond the end of the line.
    fn caret_width(&self) -> usize {
        self.source_line
            .chars()
            .skip(self.column.saturating_sub(1))
            .take(self.length)
            .map(cells)
            .sum::<usize>()
            .max(1)
    }
}

/// The blanks below the first `characters` of `line`: a tab stays a tab and a wide character
/// becomes two blanks, so that the caret is not shifted.
fn padding(line: &str, characters: usize) -> String {
    let mut text = String::new();
    for character in line.chars().take(characters) {
        match character {
            '\t' => text.push('\t'),
            other => text.extend(std::iter::repeat_n(' ', cells(other))),
        }
    }
    text
}

/// Terminal cells of a character: nothing for combining marks, two for East Asian wide
/// characters and emoji (the blocks that terminals agree on).
fn cells(character: char) -> usize {
    match character as u32 {
        0x300..=0x36f | 0x1ab0..=0x1aff | 0x20d0..=0x20ff | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// A file's text must not steer the terminal: control characters are shown as `\u{fffd}`.
fn printable(text: &str) -> String {
    let visible = |character: char| match character {
        '\t' => '\t',
        control if control.is_control() => '\u{fffd}',
        other => other,
    };
    text.chars().map(visible).collect()
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect()
}

/// Why a project could not be loaded: errors and warnings, in the order of their position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

impl fmt::Display for Diagnostics {
    /// All of them, with an empty line between.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n\n")?;
            }
            diagnostic.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_is_not_shifted_by_tabs_and_wide_characters() {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            file: Some("c.yaml".into()),
            line: 12,
            column: 4,
            length: 2,
            message: "wrong".into(),
            source_line: "\t日é\u{1b}xy".into(),
            help: Some("write it right".into()),
        };
        assert_eq!(
            diagnostic.to_string(),
            "error: wrong\n   --> c.yaml:12:4\n    |\n 12 | \t日é\u{fffd}xy\n    | \t   ^^ write it right"
        );
    }
}
