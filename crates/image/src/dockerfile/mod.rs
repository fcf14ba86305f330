//! Dockerfiles: reading them, with errors that point at the place.
//!
//! The parser is our own: published ones give no place for what is inside an instruction, and no
//! suggestion for a misspelt one.

mod apply;
mod diagnostic;
mod flags;
mod instruction;
mod parser;
mod source;
mod words;

pub(crate) use apply::{apply, apply_changes, join, set_variable, shell, variable, with_shell};
pub use diagnostic::{Diagnostic, Place};
pub use instruction::{Command, CommandLine, Copy, Health, Instruction, Run, RunMount, Word};
pub(crate) use parser::parse_on_build;
pub use parser::{Dockerfile, Stage};
pub use source::Heredoc;
pub(crate) use source::Marker;
pub(crate) use words::{expand, expand_text};

/// How many letters have to be inserted, removed, replaced or exchanged with their neighbour to
/// make one text of the other.
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
