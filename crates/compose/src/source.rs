//! The files that were read, and positions in them.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::diagnostic::{Diagnostic, Severity};

/// Where something stands. Small, so that every node has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Span {
    /// Index in [`Sources`].
    pub file: u32,
    /// From 1; 0: the whole file.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// In characters; 1 or more.
    pub length: u32,
}

/// One file, as text.
#[derive(Debug)]
pub(crate) struct Source {
    /// As it is shown to the user.
    pub display: PathBuf,
    pub text: String,
    /// Byte offsets at which the lines begin.
    lines: Vec<usize>,
}

impl Source {
    pub fn new(display: PathBuf, text: String) -> Self {
        let starts = text.match_indices('\n').map(|(offset, _)| offset + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self {
            display,
            text,
            lines,
        }
    }

    /// The text of a line (from 1) without its end.
    pub fn line(&self, number: u32) -> &str {
        let index = (number as usize).wrapping_sub(1);
        let Some(start) = self.lines.get(index) else {
            return "";
        };
        let end = self
            .lines
            .get(index + 1)
            .copied()
            .unwrap_or(self.text.len());
        self.text[*start..end].trim_end_matches(['\n', '\r'])
    }
}

/// All files of one load, and what was found in them.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    files: Vec<Source>,
    found: Vec<(Span, Diagnostic)>,
    errors: usize,
    warnings: usize,
    /// Values that could not be made; what follows from that is not worth a word.
    failed: HashSet<Span>,
}

/// How many errors, and how many warnings, are kept; nobody reads more.
const MAXIMUM_FINDINGS: usize = 200;
/// Lines longer than this are not shown.
const MAXIMUM_SHOWN: usize = 1000;

impl Sources {
    pub fn add(&mut self, source: Source) -> u32 {
        self.files.push(source);
        (self.files.len() - 1) as u32
    }

    pub fn get(&self, file: u32) -> Option<&Source> {
        self.files.get(file as usize)
    }

    pub fn error(&mut self, span: Span, message: impl Into<String>) {
        self.report(Severity::Error, span, message.into(), None);
    }

    pub fn error_with_help(
        &mut self,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Severity::Error, span, message.into(), Some(help.into()));
    }

    pub fn warning(&mut self, span: Span, message: impl Into<String>) {
        self.report(Severity::Warning, span, message.into(), None);
    }

    pub fn warning_with_help(
        &mut self,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Severity::Warning, span, message.into(), Some(help.into()));
    }

    /// A finding without a position.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        match diagnostic.severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        self.found.push((Span::default(), diagnostic));
    }

    /// Says nothing more about what stands at `span`.
    pub fn silence(&mut self, span: Span) {
        self.failed.insert(span);
    }

    /// Whether further findings of this severity are dropped.
    pub fn is_full(&self, severity: Severity) -> bool {
        match severity {
            Severity::Error => self.errors >= MAXIMUM_FINDINGS,
            Severity::Warning => self.warnings >= MAXIMUM_FINDINGS,
        }
    }

    pub fn report(
        &mut self,
        severity: Severity,
        span: Span,
        message: String,
        help: Option<String>,
    ) {
        if self.is_full(severity) || self.failed.contains(&span) {
            return;
        }
        match severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        let source = self.get(span.file);
        let line = source.map_or("", |source| source.line(span.line));
        let room = (line.chars().count() as u32 + 1).saturating_sub(span.column);
        let diagnostic = Diagnostic {
            severity,
            file: source.map(|source| source.display.clone()),
            line: span.line as usize,
            column: span.column as usize,
            length: span.length.min(room).max(1) as usize,
            message,
            source_line: match line.len() {
                0..=MAXIMUM_SHOWN => line.to_owned(),
                _ => String::new(),
            },
            help,
        };
        self.found.push((span, diagnostic));
    }

    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Everything that was found, in the order of the positions, each once.
    pub fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.found
            .sort_by_key(|(span, diagnostic)| (*span, diagnostic.severity));
        let mut sorted: Vec<Diagnostic> = Vec::with_capacity(self.found.len());
        for (_, diagnostic) in self.found {
            if !sorted.contains(&diagnostic) {
                sorted.push(diagnostic);
            }
        }
        sorted
    }
}

/// The first place from `span` on where `needle` stands.
pub(crate) fn find_in(source: &Source, span: Span, needle: &str) -> Option<Span> {
    let mut column = span.column.saturating_sub(1) as usize;
    // Far enough for any block scalar that a person reads.
    for number in span.line..span.line.saturating_add(200) {
        if number as usize > source.lines.len() {
            return None;
        }
        let line = source.line(number);
        let start = line
            .char_indices()
            .nth(column)
            .map_or(line.len(), |(offset, _)| offset);
        if let Some(offset) = line[start..].find(needle) {
            return Some(Span {
                file: span.file,
                line: number,
                column: line[..start + offset].chars().count() as u32 + 1,
                length: needle.chars().count().max(1) as u32,
            });
        }
        column = 0;
    }
    None
}
