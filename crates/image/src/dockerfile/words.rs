//! Words as the shell would split them, and what variables make of them.

use std::ops::Range;

/// The words of `text` from byte `start` on, as ranges; quotes and escapes stay in them.
pub(crate) fn split(text: &str, start: usize, escape: char) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut word_start = None;
    let mut quote = None;
    let mut characters = text[start..].char_indices().map(|(at, c)| (at + start, c));
    while let Some((at, c)) = characters.next() {
        match quote {
            Some(open) => {
                if c == open {
                    quote = None;
                } else if c == escape && open == '"' {
                    characters.next();
                }
            }
            None if c.is_whitespace() => {
                if let Some(start) = word_start.take() {
                    words.push(start..at);
                }
            }
            None => {
                word_start.get_or_insert(at);
                if c == '"' || c == '\'' {
                    quote = Some(c);
                } else if c == escape {
                    characters.next();
                }
            }
        }
    }
    if let Some(start) = word_start {
        words.push(start..text.len());
    }
    words
}

/// Gives a variable's value, or nothing if it is not set.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Removes quotes and escapes, and puts in variables: `$A`, `${A}`, `${A:-d}`, `${A-d}`,
/// `${A:+w}`, `${A+w}`, `${A:?e}`, `${A?e}`, `${A#p}`, `${A##p}`, `${A%p}`, `${A%%p}`, `${A/p/r}`,
/// `${A//p/r}`.
///
/// # Errors
/// What is wrong with the word, for a diagnostic.
pub(crate) fn expand(word: &str, escape: char, lookup: Lookup<'_>) -> Result<String, String> {
    let mut expander = Expander {
        rest: word,
        escape,
        lookup,
    };
    expander.until(None, Quotes::Removed)
}

/// As [`expand`] for a text in which quotes mean nothing (a here-document).
pub(crate) fn expand_text(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, String> {
    let mut expander = Expander {
        rest: text,
        escape,
        lookup,
    };
    expander.until(None, Quotes::Kept)
}

#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    Removed,
    Kept,
}

struct Expander<'a> {
    rest: &'a str,
    escape: char,
    lookup: Lookup<'a>,
}

impl Expander<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn until(&mut self, end: Option<char>, quotes: Quotes) -> Result<String, String> {
        let mut out = String::new();
        loop {
            if end.is_some() && self.rest.starts_with(|c| Some(c) == end) {
                return Ok(out);
            }
            let Some(c) = self.next() else {
                return Ok(out);
            };
            match c {
                '\'' if quotes == Quotes::Removed => {
                    let Some((inside, rest)) = self.rest.split_once('\'') else {
                        return Err("a single quote is not closed".to_owned());
                    };
                    out.push_str(inside);
                    self.rest = rest;
                }
                '"' if quotes == Quotes::Removed => self.double_quoted(&mut out)?,
                '$' => self.variable(&mut out)?,
                c if c == self.escape => match (quotes, self.next()) {
                    (Quotes::Removed, Some(next)) | (Quotes::Kept, Some(next @ ('$' | '\\'))) => {
                        out.push(next);
                    }
                    (_, next) => {
                        out.push(c);
                        out.extend(next);
                    }
                },
                c => out.push(c),
            }
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.next() {
                None => return Err("a double quote is not closed".to_owned()),
                Some('"') => return Ok(()),
                Some('$') => self.variable(out)?,
                Some(c) if c == self.escape => match self.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        out.push(next);
                    }
                    next => {
                        out.push(c);
                        out.extend(next);
                    }
                },
                Some(c) => out.push(c),
            }
        }
    }

    fn name(&mut self) -> String {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name.to_owned()
    }

    fn variable(&mut self, out: &mut String) -> Result<(), String> {
        let Some(braced) = self.rest.strip_prefix('{') else {
            if !self
                .rest
                .starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            {
                out.push('$');
                return Ok(());
            }
            let name = self.name();
            out.push_str(&(self.lookup)(&name).unwrap_or_default());
            return Ok(());
        };
        self.rest = braced;
        let name = self.name();
        if name.is_empty() {
            return Err("'${' without a name".to_owned());
        }
        let value = (self.lookup)(&name);
        let colon = self.rest.starts_with(':');
        if colon {
            self.next();
        }
        let operator = self.next();
        let present = value.as_ref().filter(|value| !(colon && value.is_empty()));
        match operator {
            Some('}') if !colon => {
                out.push_str(&value.unwrap_or_default());
                return Ok(());
            }
            Some(operator @ ('-' | '+' | '?')) => {
                let word = self.until(Some('}'), Quotes::Removed)?;
                match (operator, present) {
                    ('-', Some(value)) => out.push_str(value),
                    ('-', None) => out.push_str(&word),
                    ('+', Some(_)) => out.push_str(&word),
                    ('?', Some(value)) => out.push_str(value),
                    ('?', None) if word.is_empty() => {
                        return Err(format!("variable '{name}' is not set"));
                    }
                    ('?', None) => return Err(format!("variable '{name}': {word}")),
                    _ => {}
                }
            }
            Some(operator @ ('#' | '%' | '/')) if !colon => {
                let twice = self.rest.starts_with(operator);
                if twice {
                    self.next();
                }
                let value = value.unwrap_or_default();
                if operator == '/' {
                    let pattern = self.until(Some('/'), Quotes::Removed)?;
                    self.next();
                    let with = self.until(Some('}'), Quotes::Removed)?;
                    out.push_str(&replace(&value, &pattern, &with, twice));
                } else {
                    let pattern = self.until(Some('}'), Quotes::Removed)?;
                    out.push_str(strip(&value, &pattern, operator == '#', twice));
                }
            }
            Some(c) => {
                return Err(format!(
                    "'${{{name}{}{c}' is no form of a variable that is supported",
                    if colon { ":" } else { "" }
                ));
            }
            None => {}
        }
        match self.next() {
            Some('}') => Ok(()),
            _ => Err(format!("'${{{name}' is not closed with '}}'")),
        }
    }
}

/// The value without what the pattern fits at its start (or end): the shortest, or the longest.
fn strip<'a>(value: &'a str, pattern: &str, at_start: bool, longest: bool) -> &'a str {
    let mut cuts: Vec<usize> = (0..=value.len())
        .filter(|at| value.is_char_boundary(*at))
        .collect();
    if at_start == longest {
        cuts.reverse();
    }
    for cut in cuts {
        let (before, after) = value.split_at(cut);
        let (matched, kept) = if at_start {
            (before, after)
        } else {
            (after, before)
        };
        if wildcard(pattern, matched) {
            return kept;
        }
    }
    value
}

fn replace(value: &str, pattern: &str, with: &str, all: bool) -> String {
    let mut out = String::new();
    let mut rest = value;
    'scan: while !rest.is_empty() {
        for end in (1..=rest.len())
            .rev()
            .filter(|end| rest.is_char_boundary(*end))
        {
            if wildcard(pattern, &rest[..end]) {
                out.push_str(with);
                rest = &rest[end..];
                if all {
                    continue 'scan;
                }
                break 'scan;
            }
        }
        let first = rest.chars().next().map_or(0, char::len_utf8);
        out.push_str(&rest[..first]);
        rest = &rest[first..];
    }
    out.push_str(rest);
    out
}

/// Whether the whole text fits a pattern of `*`, `?` and plain characters.
fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| *c == '?' || *c == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            p = star_p + 1;
            t = star_t + 1;
            star = Some((star_p, star_t + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(word: &str) -> Result<String, String> {
        expand(word, '\\', &|name| match name {
            "A" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            "FILE" => Some("a.tar.gz".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn variables_take_all_their_forms() {
        for (word, result) in [
            ("$A", "value"),
            ("${A}x$A", "valuexvalue"),
            ("${NO:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${NO-${A}}", "value"),
            ("${A:+w}", "w"),
            ("${EMPTY:+w}", ""),
            ("${EMPTY+w}", "w"),
            ("${A:?wrong}", "value"),
            ("'$A'", "$A"),
            ("\"$A b\"", "value b"),
            ("\\$A", "$A"),
            ("\"\\$A\"", "$A"),
            ("a\\ b", "a b"),
            ("$NO", ""),
            ("$", "$"),
            ("$-", "$-"),
            ("100%", "100%"),
            ("${FILE%.*}", "a.tar"),
            ("${FILE%%.*}", "a"),
            ("${FILE#*.}", "tar.gz"),
            ("${FILE##*.}", "gz"),
            ("${FILE/a/b}", "b.tar.gz"),
            ("${FILE//a/b}", "b.tbr.gz"),
            ("\"it's\"", "it's"),
        ] {
            assert_eq!(expanded(word).as_deref(), Ok(result), "{word}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (word, part) in [
            ("${A", "not closed"),
            ("'a", "single quote"),
            ("\"a", "double quote"),
            ("${}", "without a name"),
            ("${NO:?must be set}", "must be set"),
            ("${NO?}", "'NO' is not set"),
            ("${A!}", "no form"),
        ] {
            assert!(expanded(word).expect_err(word).contains(part), "{word}");
        }
    }

    #[test]
    fn words_keep_their_quotes() {
        let text = r#"RUN  a "b c" d\ e 'f g'h"#;
        let words: Vec<_> = split(text, 3, '\\')
            .into_iter()
            .map(|word| &text[word])
            .collect();
        assert_eq!(words, ["a", "\"b c\"", "d\\ e", "'f g'h"]);
    }
}
