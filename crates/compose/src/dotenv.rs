//! Files of `NAME=value` lines: `.env`, and `env_file` of a service.
//!
//! ```text
//! # comment              export is allowed
//! PLAIN=a value # comment
//! export SINGLE='as it stands, $NOT_FILLED_IN'
//! DOUBLE="escapes \n and ${VARIABLES}, over several lines"
//! INHERITED
//! ```

use crate::interpolate::{MAXIMUM_TOTAL, Unset, interpolate};
use crate::source::{Sources, Span, find_in};

/// Variables in the order of the file.
pub(crate) type Variables = Vec<(String, String)>;

/// How values are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Quotes, escapes, comments and variables.
    Compose,
    /// Everything after `=` as it stands (`docker run --env-file`).
    Raw,
}

/// Reads `file`. Variables are filled in from `lookup` and, before that, from earlier lines.
/// What is wrong is reported, and the rest is still read.
pub(crate) fn parse(
    file: u32,
    format: Format,
    lookup: &dyn Fn(&str) -> Option<String>,
    sources: &mut Sources,
) -> Variables {
    let Some(source) = sources.get(file) else {
        return Variables::new();
    };
    let text = source.text.clone();
    let mut reader = Reader {
        file,
        rest: &text,
        line: 1,
        variables: Variables::new(),
        room: MAXIMUM_TOTAL,
        lookup,
        sources,
    };
    while !reader.rest.is_empty() {
        reader.line(format);
    }
    reader.variables
}

struct Reader<'a> {
    file: u32,
    rest: &'a str,
    /// Number of the line that `rest` begins in.
    line: u32,
    variables: Variables,
    /// How many bytes the variables may still make.
    room: usize,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    sources: &'a mut Sources,
}

impl<'a> Reader<'a> {
    fn line(&mut self, format: Format) {
        let (line, number) = (self.rest.lines().next().unwrap_or_default(), self.line);
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            return self.advance(line.len());
        }
        let statement = match trimmed.strip_prefix("export") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
            _ => trimmed,
        };
        let separator = match format {
            Format::Raw => statement.find('='),
            Format::Compose => statement.find(['=', ':']),
        };
        let name = statement[..separator.unwrap_or(statement.len())].trim_end();
        if !is_name(name) {
            let span = self.span(number, name);
            self.sources.error_with_help(
                span,
                format!("invalid variable name '{name}'"),
                "write NAME=value",
            );
            return self.advance(line.len());
        }
        let Some(separator) = separator else {
            if let Some(value) = (self.lookup)(name) {
                self.variables.push((name.to_owned(), value));
            }
            return self.advance(line.len());
        };
        let offset = statement.as_ptr() as usize - line.as_ptr() as usize + separator + 1;
        if format == Format::Raw {
            let value = line[offset..].to_owned();
            self.variables.push((name.to_owned(), value));
            return self.advance(line.len());
        }
        let blanks = line[offset..].len() - line[offset..].trim_start_matches([' ', '\t']).len();
        let value = &self.rest[offset + blanks..];
        match value.chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(name, quote, offset + blanks, number),
            _ => {
                let value = without_comment(&line[offset + blanks..]);
                self.assign(name, value, number);
                self.advance(line.len());
            }
        }
    }

    /// A value in quotes, which may reach over several lines; `offset` is the quote's.
    fn quoted(&mut self, name: &str, quote: char, offset: usize, number: u32) {
        let inside = &self.rest[offset + 1..];
        let mut value = String::new();
        let mut characters = inside.char_indices();
        let mut end = None;
        while let Some((position, character)) = characters.next() {
            if character == quote {
                end = Some(position);
                break;
            }
            if character != '\\' {
                value.push(character);
                continue;
            }
            match (quote, characters.next().map(|(_, escaped)| escaped)) {
                ('"', Some('n')) => value.push('\n'),
                ('"', Some('r')) => value.push('\r'),
                ('"', Some('t')) => value.push('\t'),
                // Stays literal when the variables are filled in.
                ('"', Some('$')) => value.push_str("$$"),
                ('"', Some(escaped @ ('\\' | '"'))) => value.push(escaped),
                ('\'', Some('\'')) => value.push('\''),
                (_, Some(other)) => value.extend(['\\', other]),
                (_, None) => value.push('\\'),
            }
        }
        let Some(end) = end else {
            let line = self.rest.lines().next().unwrap_or_default();
            let span = self.span(number, &line[offset..]);
            self.sources.error(
                span,
                format!("the value of '{name}' has no closing {quote}"),
            );
            return self.advance(line.len());
        };
        if quote == '"' {
            self.assign(name, &value, number);
        } else {
            self.variables.push((name.to_owned(), value));
        }
        let after = offset + 1 + end + 1;
        let tail = self.rest[after..].lines().next().unwrap_or_default();
        if !without_comment(tail).trim().is_empty() {
            let line = number + self.rest[..after].matches('\n').count() as u32;
            let span = self.span(line, tail.trim());
            self.sources
                .error(span, "unexpected text after the closing quote");
        }
        self.advance(after + tail.len());
    }

    fn assign(&mut self, name: &str, value: &str, number: u32) {
        let found = {
            let lookup = |wanted: &str| {
                let earlier = self.variables.iter().rev().find(|(name, _)| name == wanted);
                (self.lookup)(wanted).or_else(|| earlier.map(|(_, value)| value.clone()))
            };
            interpolate(value, &lookup, &mut Unset::new())
        };
        match found {
            Ok(value) if value.len() > self.room => {
                self.room = 0;
                let span = self.span(number, name);
                self.sources
                    .error(span, "the variables make the file too long");
            }
            Ok(value) => {
                self.room -= value.len();
                self.variables.push((name.to_owned(), value));
            }
            Err(failure) => {
                let span = self.span(number, &failure.part);
                let help = failure.help.unwrap_or_default();
                self.sources.error_with_help(span, failure.message, help);
            }
        }
    }

    /// Goes on behind `length` bytes and the end of the line that follows them.
    fn advance(&mut self, length: usize) {
        let end = match self.rest[length..].find('\n') {
            Some(offset) => length + offset + 1,
            None => self.rest.len(),
        };
        self.line += self.rest[..end].matches('\n').count() as u32;
        self.rest = &self.rest[end..];
    }

    fn span(&self, line: u32, part: &str) -> Span {
        let start = Span {
            file: self.file,
            line,
            column: 1,
            length: 1,
        };
        self.sources
            .get(self.file)
            .and_then(|source| find_in(source, start, part))
            .unwrap_or(start)
    }
}

fn without_comment(text: &str) -> &str {
    if text.starts_with('#') {
        return "";
    }
    let end = [" #", "\t#"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min()
        .unwrap_or(text.len());
    text[..end].trim_end()
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    fn read(text: &str, format: Format) -> (Variables, Vec<String>) {
        let mut sources = Sources::default();
        let file = sources.add(Source::new(".env".into(), text.into()));
        let lookup = |name: &str| (name == "HOST").then(|| "box".to_owned());
        let variables = parse(file, format, &lookup, &mut sources);
        let rendered = sources.into_diagnostics();
        (
            variables,
            rendered.iter().map(ToString::to_string).collect(),
        )
    }

    fn pairs(pairs: &[(&str, &str)]) -> Variables {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn quotes_comments_and_variables() {
        let text = "# comment\n\nA=1\nexport B = two words # no\nC='$A # \"x\"'\r\nD=\"$A\\n\\$A \
                    ${B}\" # yes\nHOST\nNONE\nE=\nF: f\nG=a#b\nH=\"one\ntwo\"\nI=${A}${HOST}";
        let expected = pairs(&[
            ("A", "1"),
            ("B", "two words"),
            ("C", "$A # \"x\""),
            ("D", "1\n$A two words"),
            ("HOST", "box"),
            ("E", ""),
            ("F", "f"),
            ("G", "a#b"),
            ("H", "one\ntwo"),
            ("I", "1box"),
        ]);
        assert_eq!(read(text, Format::Compose), (expected, vec![]));
    }

    #[test]
    fn a_raw_file_is_taken_as_it_stands() {
        let expected = pairs(&[("A", "'$x' # y "), ("B", "b=c")]);
        assert_eq!(
            read("A='$x' # y \nB=b=c\n", Format::Raw),
            (expected, vec![])
        );
    }

    #[test]
    fn what_is_wrong_is_shown() {
        let (variables, errors) = read("A=1\n2B=x\nC=\"open\nD=\"a\" b\nE=${A\n", Format::Compose);
        // The quote that C opens is closed by the one of D.
        assert_eq!(variables.len(), 2);
        assert_eq!(
            errors[0],
            "error: invalid variable name '2B'\n  --> .env:2:1\n   |\n 2 | 2B=x\n   | ^^ write NAME=value"
        );
        assert_eq!(errors.len(), 3, "{errors:?}");
    }
}
