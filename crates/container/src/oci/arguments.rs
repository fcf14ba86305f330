//! The flags of a verb, as runc reads them: `--name value`, `--name=value`, one dash or two,
//! before the container or behind it; where a command line of the workload's follows, only before
//! the first argument that is no flag.

use bulkhead_model::spelling::closest;
use bulkhead_model::{Error, Result};

/// A flag that a verb knows.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    pub(super) takes_value: bool,
}

/// A flag that is set or not.
pub(super) const fn flag(name: &'static str, short: Option<char>) -> Flag {
    Flag {
        name,
        short,
        takes_value: false,
    }
}

/// A flag with a value.
pub(super) const fn option(name: &'static str, short: Option<char>) -> Flag {
    Flag {
        name,
        short,
        takes_value: true,
    }
}

/// Every verb knows it.
const HELP: Flag = flag("help", Some('h'));

/// What was given.
#[derive(Debug)]
pub(super) struct Arguments {
    values: Vec<(&'static str, String)>,
    pub(super) rest: Vec<String>,
}

impl Arguments {
    /// Flags may stand anywhere up to `--`.
    pub(super) fn parse(arguments: &[String], flags: &[Flag]) -> Result<Self> {
        Self::parse_up_to(arguments, flags, usize::MAX)
    }

    /// Flags end at the first argument that is none: what follows may have flags of its own.
    pub(super) fn parse_leading(arguments: &[String], flags: &[Flag]) -> Result<Self> {
        Self::parse_up_to(arguments, flags, 1)
    }

    fn parse_up_to(arguments: &[String], flags: &[Flag], most: usize) -> Result<Self> {
        let (mut values, mut rest) = (Vec::new(), Vec::new());
        let mut unread = arguments.iter();
        while let Some(argument) = unread.next() {
            if argument == "--" {
                break;
            }
            let text = match argument.strip_prefix('-') {
                None | Some("") => {
                    rest.push(argument.clone());
                    if rest.len() >= most {
                        break;
                    }
                    continue;
                }
                Some(text) => text.strip_prefix('-').unwrap_or(text),
            };
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            let mut letters = name.chars();
            let letter = letters.next().filter(|_| letters.next().is_none());
            let known = flags
                .iter()
                .chain(&[HELP])
                .find(|flag| flag.name == name || (letter.is_some() && flag.short == letter))
                .ok_or_else(|| unknown(argument, name, flags))?;
            let value = match (known.takes_value, value) {
                (_, Some(value)) => value,
                (false, None) => "true".into(),
                (true, None) => unread.next().cloned().ok_or_else(|| {
                    Error::invalid(format!("the flag '{argument}' needs a value"))
                })?,
            };
            if !known.takes_value && !matches!(value.as_str(), "true" | "false") {
                return Err(Error::invalid(format!(
                    "--{name} is true or false, not '{value}'"
                )));
            }
            values.push((known.name, value));
        }
        rest.extend(unread.cloned());
        Ok(Self { values, rest })
    }

    /// The last value given.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let name = name.to_owned();
        self.values
            .iter()
            .filter(move |(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        self.value(name)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| Error::invalid(format!("--{name}: '{value}' is no such number")))
            })
            .transpose()
    }

    /// The container's identifier and what follows it.
    pub(super) fn container(&self) -> Result<(&str, &[String])> {
        match self.rest.split_first() {
            Some((id, rest)) if !id.is_empty() => Ok((id, rest)),
            _ => Err(Error::invalid(
                "container id cannot be empty: name the container",
            )),
        }
    }

    /// The container's identifier, which is all that may be given.
    pub(super) fn only_container(&self) -> Result<&str> {
        match self.container()? {
            (id, []) => Ok(id),
            (_, [other, ..]) => Err(Error::invalid(format!(
                "'{other}' is too much: one container is expected, and flags before it"
            ))),
        }
    }
}

/// In the words of Go's `flag` package, which callers of runc know.
fn unknown(argument: &str, name: &str, flags: &[Flag]) -> Error {
    let mut message = format!("flag provided but not defined: {argument}");
    if let Some(meant) = closest(name, flags.iter().map(|flag| flag.name)) {
        message += &format!(": did you mean --{meant}?");
    }
    Error::invalid(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        option("bundle", Some('b')),
        flag("detach", Some('d')),
        option("env", Some('e')),
    ];

    fn parse(arguments: &[&str]) -> Result<Arguments> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
        Arguments::parse(&arguments, FLAGS)
    }

    #[test]
    fn flags_come_in_gos_forms_before_the_container_and_behind_it() {
        let arguments =
            parse(&["-b", "/x", "--detach", "-e=A=1", "id", "-env", "B"]).expect("arguments");
        assert_eq!(arguments.value("bundle"), Some("/x"));
        assert!(arguments.is_set("detach"));
        assert_eq!(arguments.all("env").collect::<Vec<_>>(), ["A=1", "B"]);
        assert_eq!(arguments.rest, ["id"]);
        assert!(
            !parse(&["--detach=false", "id"])
                .expect("arguments")
                .is_set("detach")
        );
        assert_eq!(parse(&["--", "-d"]).expect("arguments").rest, ["-d"]);
    }

    #[test]
    fn the_workloads_command_keeps_its_flags() {
        let arguments = ["-d", "id", "ls", "-d", "--", "-x"].map(String::from);
        let parsed = Arguments::parse_leading(&arguments, FLAGS).expect("arguments");
        assert!(parsed.is_set("detach"));
        assert_eq!(parsed.rest, ["id", "ls", "-d", "--", "-x"]);
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for (arguments, part) in [
            (["--nope"], "--nope"),
            (["--bundle"], "needs a value"),
            (["-d=x"], "'x'"),
        ] {
            let error = parse(&arguments).expect_err(part);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
