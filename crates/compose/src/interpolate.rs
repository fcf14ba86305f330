//! Variables: `$NAME`, `${NAME}` and its forms with a default, an error or a replacement.
//!
//! Specification: <https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md>

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Severity;
use crate::node::{Node, Style, Value};
use crate::source::{Sources, Span, find_in};

/// How deep defaults may hold variables with defaults.
const MAXIMUM_NESTING: usize = 32;
/// Longest text that the variables of one string may make.
const MAXIMUM_LENGTH: usize = 1 << 20;
/// Longest text that the variables of one file may make.
pub(crate) const MAXIMUM_TOTAL: usize = 16 << 20;

/// Why a text could not be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The part of the text that is to blame.
    pub part: String,
    pub message: String,
    pub help: Option<String>,
}

/// The variables that a text names and that have no value and no default.
pub(crate) type Unset = BTreeSet<String>;

/// Fills in the variables of `text`.
pub(crate) fn interpolate(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut Unset,
) -> Result<String, Failure> {
    expand(text, lookup, unset, 0)
}

fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut Unset,
    nesting: usize,
) -> Result<String, Failure> {
    if nesting > MAXIMUM_NESTING {
        return Err(failure(text, "variables are nested too deeply", None));
    }
    let mut result = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        let tail = &rest[dollar + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(inside) = tail.strip_prefix('{') {
            let Some(end) = closing_brace(inside) else {
                return Err(failure(
                    &rest[dollar..],
                    "'${' without a closing '}'",
                    Some("write '$$' for a dollar sign"),
                ));
            };
            let part = &rest[dollar..dollar + 3 + end];
            result.push_str(&braced(part, &inside[..end], lookup, unset, nesting)?);
            rest = &inside[end + 1..];
        } else {
            let length = name_length(tail);
            if length == 0 {
                let part: String = rest[dollar..].chars().take(2).collect();
                return Err(failure(
                    &part,
                    format!("invalid variable '{part}'"),
                    Some("write '$$' for a dollar sign"),
                ));
            }
            result.push_str(&value(&tail[..length], lookup, unset));
            rest = &tail[length..];
        }
        if result.len() > MAXIMUM_LENGTH {
            return Err(failure(text, "the variables make the text too long", None));
        }
    }
    result.push_str(rest);
    Ok(result)
}

/// `inside` is what stands between the braces of `part`.
fn braced(
    part: &str,
    inside: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut Unset,
    nesting: usize,
) -> Result<String, Failure> {
    let length = name_length(inside);
    let (name, operation) = inside.split_at(length);
    if name.is_empty() {
        return Err(failure(
            part,
            format!("invalid variable '{part}'"),
            Some("a name has letters, digits and '_', and '$$' is a dollar sign"),
        ));
    }
    if operation.is_empty() {
        return Ok(value(name, lookup, unset));
    }
    let (or_empty, operation) = match operation.strip_prefix(':') {
        Some(operation) => (true, operation),
        None => (false, operation),
    };
    let found = lookup(name).filter(|found| !or_empty || !found.is_empty());
    let mut expanded = |word: &str| expand(word, lookup, unset, nesting + 1);
    let mut operator = operation.chars();
    match (operator.next(), operator.as_str(), found) {
        (Some('-'), _, Some(found)) | (Some('?'), _, Some(found)) => Ok(found),
        (Some('-'), word, None) => expanded(word),
        (Some('+'), word, Some(_)) => expanded(word),
        (Some('+'), _, None) => Ok(String::new()),
        (Some('?'), word, None) => {
            let reason = expanded(word)?;
            let message = match reason.as_str() {
                "" => format!("required variable '{name}' is not set"),
                reason => format!("required variable '{name}' is not set: {reason}"),
            };
            let help = format!("set it in the environment or in .env: {name}=…");
            Err(failure(part, message, Some(&help)))
        }
        _ => Err(failure(
            part,
            format!("invalid variable '{part}'"),
            Some("use ${NAME}, ${NAME:-default}, ${NAME:?message} or ${NAME:+value}"),
        )),
    }
}

fn value(name: &str, lookup: &dyn Fn(&str) -> Option<String>, unset: &mut Unset) -> String {
    lookup(name).unwrap_or_else(|| {
        unset.insert(name.to_owned());
        String::new()
    })
}

fn failure(part: &str, message: impl Into<String>, help: Option<&str>) -> Failure {
    Failure {
        part: part.to_owned(),
        message: message.into(),
        help: help.map(str::to_owned),
    }
}

/// Bytes of the variable name that `text` begins with.
fn name_length(text: &str) -> usize {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}

/// Where the brace closes that stands before `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut characters = text.char_indices().peekable();
    while let Some((offset, character)) = characters.next() {
        match character {
            '$' => match characters.peek() {
                Some((_, '{')) => {
                    depth += 1;
                    characters.next();
                }
                Some((_, '$')) => {
                    characters.next();
                }
                _ => {}
            },
            '}' if depth == 0 => return Some(offset),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Fills in the variables of every string below `node`; keys are left as they are. `room` is how
/// many bytes all variables together may still make.
pub(crate) fn interpolate_tree(
    node: &mut Node,
    environment: &BTreeMap<String, String>,
    room: &mut usize,
    sources: &mut Sources,
) {
    match &mut node.value {
        Value::Scalar(scalar) if scalar.text.contains('$') => {
            let mut unset = Unset::new();
            let lookup = |name: &str| environment.get(name).cloned();
            match interpolate(&scalar.text, &lookup, &mut unset) {
                Ok(text) if text.len() > *room => {
                    *room = 0;
                    sources.error(node.span, "the variables make the file too long");
                }
                Ok(text) => {
                    *room -= text.len();
                    if scalar.style == Style::Plain {
                        scalar.style = Style::Interpolated;
                    }
                    scalar.text = text;
                }
                Err(_) if sources.is_full(Severity::Error) => {}
                Err(failure) => {
                    let span = part_span(sources, node.span, &failure.part);
                    match failure.help {
                        Some(help) => sources.error_with_help(span, failure.message, help),
                        None => sources.error(span, failure.message),
                    }
                    sources.silence(node.span);
                }
            }
            for name in unset {
                if sources.is_full(Severity::Warning) {
                    break;
                }
                let span = [format!("${{{name}"), format!("${name}")]
                    .iter()
                    .find_map(|part| exact_span(sources, node.span, part))
                    .unwrap_or(node.span);
                sources.warning_with_help(
                    span,
                    format!("variable '{name}' is not set"),
                    format!("it is taken as empty; give a default: ${{{name}:-…}}"),
                );
            }
        }
        Value::Sequence(items) => {
            for item in items {
                interpolate_tree(item, environment, room, sources);
            }
        }
        Value::Mapping(entries) => {
            for entry in entries {
                interpolate_tree(&mut entry.value, environment, room, sources);
            }
        }
        Value::Scalar(_) | Value::Null => {}
    }
}

fn exact_span(sources: &Sources, span: Span, part: &str) -> Option<Span> {
    find_in(sources.get(span.file)?, span, part)
}

fn part_span(sources: &Sources, span: Span, part: &str) -> Span {
    exact_span(sources, span, part).unwrap_or(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        interpolate(text, &lookup, &mut Unset::new()).map_err(|failure| failure.message)
    }

    #[test]
    fn every_form_of_a_variable() {
        for (text, expected) in [
            ("$SET-x", "value-x"),
            ("${SET}x", "valuex"),
            ("a$$b$${SET}", "a$b${SET}"),
            ("[$EMPTY]", "[]"),
            ("${NONE}", ""),
            ("${NONE:-d} ${EMPTY:-d} ${SET:-d}", "d d value"),
            ("${NONE-d} ${EMPTY-d} ${SET-d}", "d  value"),
            ("${NONE:+x}${EMPTY:+x}${SET:+x}", "x"),
            ("${NONE+x}${EMPTY+x}${SET+x}", "xx"),
            ("${SET:?no} ${EMPTY?no}", "value "),
            ("${NONE:-${ALSO_NONE:-deep}}", "deep"),
            ("${NONE:-${SET}}/x", "value/x"),
            ("${NONE:-a:b}", "a:b"),
            ("é${SET}é", "évalueé"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_variable_is_an_error() {
        for (text, expected) in [
            (
                "${NONE:?say why}",
                "required variable 'NONE' is not set: say why",
            ),
            ("${EMPTY:?}", "required variable 'EMPTY' is not set"),
            (
                "${NONE?${SET}}",
                "required variable 'NONE' is not set: value",
            ),
            ("${SET", "'${' without a closing '}'"),
            ("${}", "invalid variable '${}'"),
            ("${SET!}", "invalid variable '${SET!}'"),
            ("$1", "invalid variable '$1'"),
            ("cost: $", "invalid variable '$'"),
        ] {
            assert_eq!(filled(text), Err(expected.to_owned()), "{text}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(500), "}".repeat(500));
        assert_eq!(
            filled(&deep),
            Err("variables are nested too deeply".to_owned())
        );
    }
}
