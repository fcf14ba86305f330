//! Checks a tree against the Compose specification's JSON Schema.
//!
//! Invariant: which keys exist and what type each has is read from `schema/compose-spec.json` and
//! from nowhere else. The list in [`crate::supported`] only says which of them are carried out.
//! The part of JSON Schema that the file uses is walked; there is no general validator in here.

use std::collections::HashSet;
use std::sync::LazyLock;

use bulkhead_model::spelling::closest;
use serde_json::Value as Json;

use crate::node::{Entry, MergeTag, Node, Style, Type, Value, parse_integer};
use crate::path::Path;
use crate::source::{Sources, Span};
use crate::supported;

static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../schema/compose-spec.json"))
        .expect("the schema is part of the program and a test reads it")
});

/// Keys that take a duration, which people write as a bare number of seconds.
const DURATIONS: [&str; 5] = [
    "stop_grace_period",
    "interval",
    "timeout",
    "start_period",
    "start_interval",
];

/// Reports every key that the schema does not know, every wrong type, and a warning for each key
/// that it knows and Bulkhead does not carry out.
pub(crate) fn check(root: &Node, sources: &mut Sources) {
    let mut walk = Walk {
        sources,
        path: Path::default(),
        schema_path: Vec::new(),
        ignored: false,
        seen: HashSet::new(),
    };
    walk.node(root, &SCHEMA);
}

struct Walk<'a> {
    sources: &'a mut Sources,
    path: Path,
    /// The path with `*` for names that the user chose and without indices.
    schema_path: Vec<String>,
    /// Inside a key that has been warned about.
    ignored: bool,
    /// What has been reported: what an anchor shares is wrong once, not once a service.
    seen: HashSet<Span>,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node, schema: &'static Json) {
        if node.tag == MergeTag::Reset {
            return;
        }
        let schema = resolve(schema);
        if let Some(branches) = alternatives(schema) {
            let fitting = branches
                .iter()
                .map(|branch| resolve(branch))
                .filter(|branch| fits(node, branch));
            // Where several take the type, one of them may take the value.
            let best = fitting.min_by_key(|branch| !value_fits(node, branch));
            return match best {
                Some(branch) => self.node(node, branch),
                None => self.wrong_type(node, schema),
            };
        }
        if !fits(node, schema) {
            return self.wrong_type(node, schema);
        }
        match &node.value {
            Value::Mapping(entries) => self.mapping(node, entries, schema),
            Value::Sequence(items) => self.sequence(items, schema),
            Value::Scalar(_) => self.scalar(node, schema),
            Value::Null => {}
        }
    }

    fn mapping(&mut self, node: &Node, entries: &[Entry], schema: &'static Json) {
        for entry in entries {
            if let Some(property) = schema["properties"].get(&entry.key) {
                self.property(entry, property);
                continue;
            }
            let pattern = schema["patternProperties"]
                .as_object()
                .into_iter()
                .flatten()
                .find(|(pattern, _)| matches_pattern(pattern, &entry.key));
            match pattern {
                Some((_, property)) => self.descend(entry, "*", property),
                None if schema["additionalProperties"] == Json::Bool(false) => {
                    self.unknown_key(entry, schema);
                }
                None => {}
            }
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            if let Some(key) = required.as_str().filter(|key| node.get(key).is_none()) {
                let message = format!("{} needs the key '{key}'", self.path);
                self.sources.error(node.span, message);
            }
        }
    }

    /// A key that the schema names.
    fn property(&mut self, entry: &Entry, property: &'static Json) {
        self.schema_path.push(entry.key.clone());
        let path = self.schema_path.join(".");
        self.schema_path.pop();
        let warned = !self.ignored && !supported::is_carried_out(&path);
        if warned && self.seen.insert(entry.key_span) {
            let place = self.path.place();
            let place = place
                .map(|place| format!(" in {place}"))
                .unwrap_or_default();
            let message = format!("'{}'{place} is not supported and is ignored", entry.key);
            match supported::remedy(&path) {
                Some(remedy) => {
                    self.sources
                        .warning_with_help(entry.key_span, message, remedy);
                }
                None => self.sources.warning(entry.key_span, message),
            }
        }
        self.ignored |= warned;
        self.descend(entry, &entry.key, property);
        if warned {
            self.ignored = false;
        }
    }

    fn descend(&mut self, entry: &Entry, schema_key: &str, schema: &'static Json) {
        self.path.push(&entry.key);
        self.schema_path.push(schema_key.to_owned());
        self.node(&entry.value, schema);
        self.schema_path.pop();
        self.path.pop();
    }

    fn unknown_key(&mut self, entry: &Entry, schema: &'static Json) {
        if !self.seen.insert(entry.key_span) {
            return;
        }
        let place = match self.path.place() {
            Some(place) => format!("in {place}"),
            None => "at the top level".to_owned(),
        };
        let properties = schema["properties"].as_object();
        let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
            self.sources.error_with_help(
                entry.key_span,
                format!("invalid name '{}' {place}", entry.key),
                "use letters, digits, '.', '_' and '-'",
            );
            return;
        };
        let message = format!("unknown key '{}' {place}", entry.key);
        let known = properties.keys().map(String::as_str);
        match closest(&entry.key, known) {
            Some(known) => {
                let help = format!("did you mean '{known}'?");
                self.sources.error_with_help(entry.key_span, message, help);
            }
            None => self.sources.error(entry.key_span, message),
        }
    }

    fn sequence(&mut self, items: &[Node], schema: &'static Json) {
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            self.path.push_index(index);
            self.node(item, &schema["items"]);
            if schema["uniqueItems"] == Json::Bool(true)
                && let Some(text) = item.text()
                && !seen.insert(text)
            {
                let message = format!("{} repeats '{text}'", self.path);
                self.sources
                    .error_with_help(item.span, message, "remove one of the two");
            }
            self.path.pop();
        }
    }

    fn scalar(&mut self, node: &Node, schema: &'static Json) {
        let text = node.text().unwrap_or_default();
        if let Some(choices) = schema["enum"].as_array() {
            let choices: Vec<&str> = choices.iter().filter_map(Json::as_str).collect();
            if !choices.contains(&text) {
                let message = format!("invalid value '{text}' for {}", self.path);
                let help = match closest(text, choices.iter().copied()) {
                    Some(choice) => format!("did you mean '{choice}'?"),
                    None => format!("use {}", listed(choices.iter().map(|c| format!("'{c}'")))),
                };
                self.sources.error_with_help(node.span, message, help);
                self.sources.silence(node.span);
            }
        }
        let (minimum, maximum) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
        if let Some(number) = parse_integer(text)
            && (minimum.is_some_and(|minimum| number < minimum)
                || maximum.is_some_and(|maximum| number > maximum))
        {
            let help = match (minimum, maximum) {
                (Some(minimum), Some(maximum)) => format!("use {minimum} to {maximum}"),
                (Some(minimum), None) => format!("use {minimum} or more"),
                (None, maximum) => format!("use {} or less", maximum.unwrap_or(i64::MAX)),
            };
            let message = format!("{} is out of range: {number}", self.path);
            self.sources.error_with_help(node.span, message, help);
            self.sources.silence(node.span);
        }
    }

    fn wrong_type(&mut self, node: &Node, schema: &'static Json) {
        let expected = expected_types(schema);
        let found = node.node_type();
        let message = format!(
            "{} must be {}, not {}",
            self.path,
            listed(expected.iter().map(|noun| (*noun).to_owned())),
            found.noun()
        );
        let scalar = matches!(found, Type::Boolean | Type::Integer | Type::Number);
        if scalar && self.path.last().is_some_and(|key| DURATIONS.contains(&key)) {
            let help = format!("write it with a unit: {}s", node.text().unwrap_or_default());
            self.sources.error_with_help(node.span, message, help);
        } else if scalar && expected.contains(&"a string") {
            let help = format!("put it in quotes: \"{}\"", node.text().unwrap_or_default());
            self.sources.error_with_help(node.span, message, help);
        } else if found == Type::Null {
            self.sources
                .error_with_help(node.span, message, "give it a value or remove the key");
        } else {
            self.sources.error(node.span, message);
        }
        self.sources.silence(node.span);
    }
}

fn resolve(mut schema: &'static Json) -> &'static Json {
    while let Some(reference) = schema["$ref"].as_str() {
        let name = reference.trim_start_matches("#/definitions/");
        schema = &SCHEMA["definitions"][name];
    }
    schema
}

fn alternatives(schema: &'static Json) -> Option<&'static Vec<Json>> {
    schema["oneOf"].as_array().or(schema["anyOf"].as_array())
}

/// Whether the type is one that the schema takes.
fn fits(node: &Node, schema: &'static Json) -> bool {
    let schema = resolve(schema);
    if let Some(branches) = alternatives(schema) {
        return branches.iter().any(|branch| fits(node, branch));
    }
    let found = node.node_type();
    let interpolated = matches!(&node.value, Value::Scalar(scalar)
        if scalar.style == Style::Interpolated);
    let takes = |name: &str| match name {
        "null" => found == Type::Null,
        "boolean" => found == Type::Boolean,
        "integer" => found == Type::Integer,
        "number" => matches!(found, Type::Integer | Type::Number),
        "string" => found == Type::String || interpolated,
        "array" => found == Type::Sequence,
        "object" => found == Type::Mapping,
        _ => true,
    };
    match &schema["type"] {
        Json::String(name) => takes(name),
        Json::Array(names) => names.iter().filter_map(Json::as_str).any(takes),
        _ => true,
    }
}

/// Whether a scalar is also among the values that the schema lists, if it lists any.
fn value_fits(node: &Node, schema: &'static Json) -> bool {
    match schema["enum"].as_array() {
        Some(choices) => choices.iter().any(|choice| choice.as_str() == node.text()),
        None => true,
    }
}

fn expected_types(schema: &'static Json) -> Vec<&'static str> {
    let schema = resolve(schema);
    let mut nouns = Vec::new();
    let mut add = |noun: &'static str| {
        if !nouns.contains(&noun) {
            nouns.push(noun);
        }
    };
    if let Some(branches) = alternatives(schema) {
        branches.iter().flat_map(expected_types).for_each(&mut add);
    }
    let names = match &schema["type"] {
        Json::String(name) => vec![name.as_str()],
        Json::Array(names) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    for name in names {
        match name {
            "boolean" => add(Type::Boolean.noun()),
            "integer" => add(Type::Integer.noun()),
            "number" => add(Type::Number.noun()),
            "string" => add(Type::String.noun()),
            "array" => add(Type::Sequence.noun()),
            "object" => add(Type::Mapping.noun()),
            _ => {}
        }
    }
    nouns
}

/// `a, b or c`.
pub(crate) fn listed(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// The patterns that the schema has for keys; a test sees that there are no others.
fn matches_pattern(pattern: &str, key: &str) -> bool {
    match pattern {
        "^x-" => key.starts_with("x-"),
        "^[a-zA-Z0-9._-]+$" => {
            !key.is_empty()
                && key
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        }
        "^[a-z]+$" => !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase()),
        _ => !key.is_empty(),
    }
}

/// All keys that the schema names, as paths with `*` for chosen names.
#[cfg(test)]
pub(crate) fn all_paths() -> std::collections::BTreeSet<String> {
    fn walk(schema: &'static Json, path: &str, into: &mut std::collections::BTreeSet<String>) {
        let schema = resolve(schema);
        for branch in alternatives(schema).into_iter().flatten() {
            walk(branch, path, into);
        }
        if schema.get("items").is_some() {
            walk(&schema["items"], path, into);
        }
        let join = |key: &str| match path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            into.insert(join(key));
            walk(property, &join(key), into);
        }
        for (pattern, property) in schema["patternProperties"]
            .as_object()
            .into_iter()
            .flatten()
        {
            assert!(
                ["^x-", "^[a-zA-Z0-9._-]+$", "^[a-z]+$", "^.+$", ".+"].contains(&pattern.as_str()),
                "a pattern that matches_pattern does not know: {pattern}"
            );
            if pattern != "^x-" {
                walk(property, &join("*"), into);
            }
        }
    }
    let mut paths = std::collections::BTreeSet::new();
    walk(&SCHEMA, "", &mut paths);
    paths
}
