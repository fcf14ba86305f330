//! Writes YAML: block style, two blanks, keys in the order of the value.

use serde_json::Value as Json;

use crate::node::{Scalar, Type};

/// A whole document. `name` and `services` come first, as people write them.
pub(crate) fn document(value: &Json) -> String {
    let mut text = String::new();
    if let Json::Object(entries) = value {
        let rank = |key: &str| match key {
            "name" => 0,
            "services" => 1,
            _ => 2,
        };
        let mut sorted: Vec<(&String, &Json)> = entries.iter().collect();
        sorted.sort_by_key(|(key, _)| rank(key));
        for (key, value) in sorted {
            entry(key, value, 0, &mut text);
        }
    }
    text
}

fn entry(key: &str, value: &Json, depth: usize, text: &mut String) {
    indent(depth, text);
    text.push_str(&string(key));
    text.push(':');
    nested(value, depth, text);
}

/// What follows `key:`.
fn nested(value: &Json, depth: usize, text: &mut String) {
    match value {
        Json::Object(entries) if !entries.is_empty() => {
            text.push('\n');
            for (key, value) in entries {
                entry(key, value, depth + 1, text);
            }
        }
        Json::Array(items) if !items.is_empty() => {
            text.push('\n');
            for item in items {
                self::item(item, depth + 1, text);
            }
        }
        scalar => {
            text.push(' ');
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
}

fn item(value: &Json, depth: usize, text: &mut String) {
    indent(depth, text);
    text.push('-');
    match value {
        Json::Object(entries) if !entries.is_empty() => {
            for (index, (key, value)) in entries.iter().enumerate() {
                match index {
                    0 => text.push(' '),
                    _ => indent(depth + 1, text),
                }
                text.push_str(&string(key));
                text.push(':');
                nested(value, depth + 1, text);
            }
        }
        other => {
            text.push(' ');
            text.push_str(&inline(other));
            text.push('\n');
        }
    }
}

fn indent(depth: usize, text: &mut String) {
    text.extend(std::iter::repeat_n("  ", depth));
}

fn inline(value: &Json) -> String {
    match value {
        Json::String(text) => string(text),
        // JSON is YAML.
        other => other.to_string(),
    }
}

/// A string, in quotes if it would be read as something else without.
fn string(text: &str) -> String {
    let harmless = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_./-+@,= $(){}:".contains(c))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric() || "/_.".contains(first))
        && !text.ends_with([' ', ':'])
        && !text.contains(": ");
    let plain = harmless
        && Scalar::plain_type(text) == Type::String
        && !text.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && !is_word_of_yaml(text);
    match plain {
        true => text.to_owned(),
        false => Json::String(text.to_owned()).to_string(),
    }
}

/// Words that YAML 1.1 or 1.2 take for something else than a string.
fn is_word_of_yaml(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "null"
    )
}
