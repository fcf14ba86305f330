use std::time::Duration;

use bulkhead_model::ByteSize;

use super::diagnostic::{Diagnostic, suggestion};
use super::instruction::{RunMount, Word};
use super::parser::Parser;

/// The flags of one instruction.
#[derive(Default)]
pub(super) struct Flags {
    list: Vec<(String, Word)>,
}

impl Flags {
    pub fn push(&mut self, name: &str, value: Word) {
        self.list.push((name.to_owned(), value));
    }

    /// The last one of that name.
    pub fn take(&mut self, name: &str) -> Option<Word> {
        self.take_all(name).pop()
    }

    pub fn take_all(&mut self, name: &str) -> Vec<Word> {
        let (taken, left) = std::mem::take(&mut self.list)
            .into_iter()
            .partition(|(other, _)| other == name);
        self.list = left;
        taken.into_iter().map(|(_, word)| word).collect()
    }

    pub fn duration(
        &mut self,
        parser: &Parser<'_>,
        name: &str,
    ) -> Result<Option<Duration>, Diagnostic> {
        let Some(word) = self.take(name) else {
            return Ok(None);
        };
        match duration(&word.text) {
            Some(duration) => Ok(Some(duration)),
            None => Err(parser.error_at(
                &word,
                format!("'{}' is no duration", word.text),
                "write it as 30s, 1m30s or 500ms",
            )),
        }
    }

    pub fn number(&mut self, parser: &Parser<'_>, name: &str) -> Result<Option<u32>, Diagnostic> {
        let Some(word) = self.take(name) else {
            return Ok(None);
        };
        match word.text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => {
                Err(parser.error_at(&word, format!("'{}' is no number of {name}", word.text), ""))
            }
        }
    }
}

/// A duration as Go writes it: numbers, possibly with a fraction, each with its unit.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

pub(super) fn network(parser: &Parser<'_>, word: &Word) -> Result<String, Diagnostic> {
    match word.text.as_str() {
        "default" | "none" => Ok(word.text.clone()),
        other => Err(parser.error_at(
            word,
            format!("RUN --network={other} is not supported"),
            "use 'default' or 'none'",
        )),
    }
}

const MOUNT_KEYS: [&str; 18] = [
    "type",
    "target",
    "dst",
    "destination",
    "source",
    "src",
    "from",
    "rw",
    "readwrite",
    "ro",
    "readonly",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "size",
    "required",
];

/// Reads the value of `--mount`.
pub(super) fn mount(parser: &Parser<'_>, word: &Word) -> Result<RunMount, Diagnostic> {
    let mut fields = Fields {
        parser,
        word,
        list: Vec::new(),
    };
    let unquoted = word.text.trim_matches('"');
    for field in unquoted.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        let key = key.trim().to_ascii_lowercase();
        if !MOUNT_KEYS.contains(&key.as_str()) {
            return Err(parser.error_at(
                word,
                format!("RUN --mount has no option '{key}'"),
                suggestion(&key, MOUNT_KEYS),
            ));
        }
        fields.list.push((key, value.to_owned()));
    }
    let kind = fields.take(&["type"]).unwrap_or_else(|| "bind".to_owned());
    let target = fields.take(&["target", "dst", "destination"]);
    let Some(target) = target else {
        return Err(parser.error_at(
            word,
            format!("RUN --mount=type={kind} needs a target"),
            "add target=/path",
        ));
    };
    let mount = match kind.as_str() {
        "bind" => {
            if fields.flag(&["rw", "readwrite"]) {
                return Err(parser.error_at(
                    word,
                    "RUN --mount=type=bind is read-only here",
                    "leave out 'rw', and write elsewhere",
                ));
            }
            fields.flag(&["ro", "readonly"]);
            RunMount::Bind {
                target,
                source: fields
                    .take(&["source", "src"])
                    .unwrap_or_else(|| "/".to_owned()),
                from: fields.take(&["from"]),
            }
        }
        "cache" => {
            let sharing = fields
                .take(&["sharing"])
                .unwrap_or_else(|| "shared".to_owned());
            if sharing != "shared" && sharing != "locked" {
                return Err(parser.error_at(
                    word,
                    format!("RUN --mount=type=cache,sharing={sharing} is not supported"),
                    "use 'shared' or 'locked'",
                ));
            }
            let read_only = fields.flag(&["ro", "readonly"]);
            fields.flag(&["rw", "readwrite"]);
            RunMount::Cache {
                id: fields.take(&["id"]).unwrap_or_else(|| target.clone()),
                target,
                locked: sharing == "locked",
                mode: fields.number("mode", 8)?,
                uid: fields.number("uid", 10)?.unwrap_or(0),
                gid: fields.number("gid", 10)?.unwrap_or(0),
                read_only,
            }
        }
        "tmpfs" => RunMount::Tmpfs {
            target,
            size: match fields.take(&["size"]) {
                Some(size) => match ByteSize::parse(&size) {
                    Some(size) => Some(size.bytes()),
                    None => {
                        return Err(parser.error_at(word, format!("'{size}' is no size"), ""));
                    }
                },
                None => None,
            },
        },
        other => {
            return Err(parser.error_at(
                word,
                format!("RUN --mount=type={other} is not supported"),
                "use type=bind, type=cache or type=tmpfs",
            ));
        }
    };
    match fields.list.first() {
        None => Ok(mount),
        Some((key, _)) => Err(parser.error_at(
            word,
            format!("RUN --mount=type={kind} with '{key}' is not supported"),
            "leave it out",
        )),
    }
}

struct Fields<'a> {
    parser: &'a Parser<'a>,
    word: &'a Word,
    list: Vec<(String, String)>,
}

impl Fields<'_> {
    fn take(&mut self, keys: &[&str]) -> Option<String> {
        let at = self
            .list
            .iter()
            .position(|(key, _)| keys.contains(&key.as_str()))?;
        Some(self.list.remove(at).1)
    }

    fn flag(&mut self, keys: &[&str]) -> bool {
        self.take(keys)
            .is_some_and(|value| value == "true" || value == "1")
    }

    fn number(&mut self, key: &str, radix: u32) -> Result<Option<u32>, Diagnostic> {
        let Some(text) = self.take(&[key]) else {
            return Ok(None);
        };
        match u32::from_str_radix(&text, radix) {
            Ok(number) => Ok(Some(number)),
            Err(_) => {
                Err(self
                    .parser
                    .error_at(self.word, format!("'{text}' is no number for {key}"), ""))
            }
        }
    }
}
