//! From the lines of a file to logical lines: continuations joined, comments left out,
//! here-documents taken up, and every character's place remembered.

use super::diagnostic::{Diagnostic, Place};

/// A Dockerfile's text, for showing lines in errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub file: String,
    pub lines: Vec<String>,
    /// `\`, or what the directive `escape` says.
    pub escape: char,
}

/// One instruction's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogicalLine {
    /// Joined, without the here-documents' content.
    pub text: String,
    /// Where pieces of `text` come from: offset in it, index of the line, bytes into that line.
    pieces: Vec<(usize, usize, usize)>,
    pub heredocs: Vec<Heredoc>,
}

/// A here-document: `<<NAME` and the lines up to `NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    pub content: String,
    /// Variables are expanded in it: its name was not quoted.
    pub expand: bool,
}

impl Source {
    pub fn new(file: &str, text: &str) -> Result<Self, Diagnostic> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut source = Self {
            file: file.to_owned(),
            lines: text.lines().map(str::to_owned).collect(),
            escape: '\\',
        };
        source.directives()?;
        Ok(source)
    }

    /// Parser directives are comments `# name=value` before anything else.
    fn directives(&mut self) -> Result<(), Diagnostic> {
        for (index, line) in self.lines.iter().enumerate() {
            let Some(comment) = line.trim().strip_prefix('#') else {
                break;
            };
            let Some((name, value)) = comment.split_once('=') else {
                break;
            };
            match (name.trim().to_ascii_lowercase().as_str(), value.trim()) {
                ("escape", "\\") => {}
                ("escape", "`") => self.escape = '`',
                ("escape", other) => {
                    let column = line.find(other).filter(|_| !other.is_empty());
                    let place = self.place_in(index, column.unwrap_or(0), other.len());
                    return Err(self.diagnostic(
                        place,
                        format!("invalid escape character '{other}'"),
                        "use \\ or `",
                    ));
                }
                // The syntax is always ours.
                ("syntax" | "check", _) => {}
                _ => break,
            }
        }
        Ok(())
    }

    pub fn diagnostic(
        &self,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            file: self.file.clone(),
            place,
            source_line: self
                .lines
                .get(place.line.saturating_sub(1))
                .cloned()
                .unwrap_or_default(),
            message: message.into(),
            help: help.into(),
        }
    }

    /// The place of `length` bytes at byte `offset` of a line.
    fn place_in(&self, index: usize, offset: usize, length: usize) -> Place {
        let line = self.lines.get(index).map_or("", String::as_str);
        let before = line.get(..offset).unwrap_or(line);
        let at = line.get(offset..).unwrap_or_default();
        let end = (0..=length.min(at.len()))
            .rev()
            .find(|end| at.is_char_boundary(*end));
        Place {
            line: index + 1,
            column: before.chars().count() + 1,
            length: at[..end.unwrap_or(0)].chars().count().max(1),
        }
    }

    /// The place of `length` bytes at byte `offset` of a logical line.
    pub fn place(&self, line: &LogicalLine, offset: usize, length: usize) -> Place {
        let piece = line
            .pieces
            .iter()
            .rev()
            .find(|(start, _, _)| *start <= offset);
        let (start, index, skipped) = piece.copied().unwrap_or_default();
        self.place_in(index, offset - start.min(offset) + skipped, length)
    }

    pub fn logical_lines(&self) -> Result<Vec<LogicalLine>, Diagnostic> {
        let mut logical_lines = Vec::new();
        let mut index = 0;
        while index < self.lines.len() {
            let mut logical = LogicalLine {
                text: String::new(),
                pieces: Vec::new(),
                heredocs: Vec::new(),
            };
            while let Some(line) = self.lines.get(index) {
                let trimmed = line.trim_start();
                index += 1;
                if trimmed.is_empty() || trimmed.starts_with('#') {
                    // Between continued lines these count as not there.
                    if logical.pieces.is_empty() {
                        break;
                    }
                    continue;
                }
                let skipped = if logical.pieces.is_empty() {
                    line.len() - trimmed.len()
                } else {
                    0
                };
                logical
                    .pieces
                    .push((logical.text.len(), index - 1, skipped));
                match self.continued(&line[skipped..]) {
                    Some(rest) => logical.text.push_str(rest),
                    None => {
                        logical.text.push_str(line[skipped..].trim_end());
                        break;
                    }
                }
            }
            if logical.pieces.is_empty() {
                continue;
            }
            index = self.heredocs(&mut logical, index)?;
            logical_lines.push(logical);
        }
        Ok(logical_lines)
    }

    /// The line without its continuation character, if it has one; two in a row are none.
    fn continued<'a>(&self, line: &'a str) -> Option<&'a str> {
        let rest = line
            .trim_end_matches([' ', '\t'])
            .strip_suffix(self.escape)?;
        (!rest.ends_with(self.escape)).then_some(rest)
    }

    /// Takes the here-documents that the line announces from the lines at `index`; gives the
    /// index of the line after them.
    fn heredocs(&self, logical: &mut LogicalLine, mut index: usize) -> Result<usize, Diagnostic> {
        let text = logical.text.clone();
        let name_end = text.find(char::is_whitespace).unwrap_or(text.len());
        let instruction = text[..name_end].to_ascii_uppercase();
        let rest = text[name_end..].trim_start();
        if !matches!(instruction.as_str(), "RUN" | "COPY" | "ADD") || rest.starts_with('[') {
            return Ok(index);
        }
        for word in super::words::split(&text, name_end, self.escape) {
            let Some(marker) = Marker::parse(&text[word.clone()]) else {
                continue;
            };
            let mut content = String::new();
            loop {
                let Some(line) = self.lines.get(index) else {
                    let place = self.place(logical, word.start, word.len());
                    return Err(self.diagnostic(
                        place,
                        format!("the here-document '{}' does not end", marker.name),
                        format!("end it with a line that is just '{}'", marker.name),
                    ));
                };
                index += 1;
                let line = if marker.strip_tabs {
                    line.trim_start_matches('\t')
                } else {
                    line
                };
                if line == marker.name {
                    break;
                }
                content.push_str(line);
                content.push('\n');
            }
            logical.heredocs.push(Heredoc {
                name: marker.name,
                content,
                expand: marker.expand,
            });
        }
        Ok(index)
    }
}

/// `<<NAME`, `<<-NAME`, `<<"NAME"`.
pub(crate) struct Marker {
    pub name: String,
    pub strip_tabs: bool,
    pub expand: bool,
}

impl Marker {
    pub fn parse(word: &str) -> Option<Self> {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let rest = word[digits..].strip_prefix("<<")?;
        let (strip_tabs, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let unquoted = ['"', '\'']
            .iter()
            .find_map(|quote| rest.strip_prefix(*quote)?.strip_suffix(*quote));
        let name = unquoted.unwrap_or(rest);
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        (!name.is_empty() && name.chars().all(plain)).then(|| Self {
            name: name.to_owned(),
            strip_tabs,
            expand: unquoted.is_none(),
        })
    }
}
