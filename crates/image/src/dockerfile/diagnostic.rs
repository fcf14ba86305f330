use std::fmt;

use bulkhead_model::Error;

/// A place in a Dockerfile. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub line: usize,
    pub column: usize,
    /// In characters, on that line.
    pub length: usize,
}

/// What is wrong in a Dockerfile, and where.
///
/// `Display` shows the line with a caret under the place:
/// ```text
/// unknown instruction 'RUNN'
///  --> Dockerfile:3:1
///   |
/// 3 | RUNN make
///   | ^^^^ did you mean 'RUN'?
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// As the user named it.
    pub file: String,
    pub place: Place,
    /// The whole line.
    pub source_line: String,
    pub message: String,
    /// What to do about it; empty if the message says it all.
    pub help: String,
}

impl Diagnostic {
    /// The text at fault.
    pub fn offending(&self) -> String {
        self.source_line
            .chars()
            .skip(self.place.column.saturating_sub(1))
            .take(self.place.length)
            .collect()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place {
            line,
            column,
            length,
        } = self.place;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        // A tab stays a tab, so that the caret stands under its text in any terminal.
        let indent: String = self
            .source_line
            .chars()
            .take(column.saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(formatter, "{}", self.message)?;
        writeln!(formatter, "{margin}--> {}:{line}:{column}", self.file)?;
        writeln!(formatter, "{margin} |")?;
        writeln!(formatter, "{number} | {}", self.source_line)?;
        write!(
            formatter,
            "{margin} | {indent}{}",
            "^".repeat(length.max(1))
        )?;
        if !self.help.is_empty() {
            write!(formatter, " {}", self.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

impl From<Diagnostic> for Error {
    fn from(diagnostic: Diagnostic) -> Self {
        Error::invalid(diagnostic.to_string())
    }
}

/// `did you mean …?`, or nothing if no candidate is near.
pub(crate) fn suggestion<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|candidate| (super::edit_distance(wrong, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map_or_else(String::new, |(_, candidate)| {
            format!("did you mean '{candidate}'?")
        })
}
