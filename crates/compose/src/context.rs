//! What the resolving of a project needs everywhere: reports, variables, directories; and the
//! reading of typed values.
//!
//! A reader answers `None` without a word where the *type* of a value is wrong: the schema check
//! has reported that. It reports what the schema cannot see.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use bulkhead_model::ByteSize;

use crate::duration;
use crate::node::{Node, Value, parse_integer};
use crate::project::Port;
use crate::source::{Sources, Span};

pub(crate) struct Context {
    pub sources: Sources,
    /// The caller's variables and the ones of `.env`.
    pub environment: BTreeMap<String, String>,
    /// Absolute.
    pub directory: PathBuf,
    /// As `env_file` and so on are shown.
    pub working_directory: PathBuf,
    pub project_name: String,
    /// All published ports: service, port, where it stands.
    pub published: Vec<(String, Port, Span)>,
}

impl Context {
    /// `path` as Compose reads it: `~` is the home directory, relative ones start from the
    /// project directory.
    pub fn absolute(&self, path: &str) -> PathBuf {
        let home = self.environment.get("HOME").filter(|home| !home.is_empty());
        let expanded = match (path.strip_prefix('~'), home) {
            (Some(""), Some(home)) => PathBuf::from(home),
            (Some(rest), Some(home)) if rest.starts_with('/') => {
                PathBuf::from(format!("{}{rest}", home.trim_end_matches('/')))
            }
            _ => PathBuf::from(path),
        };
        clean(&self.directory.join(expanded))
    }

    pub fn text(&self, node: &Node, key: &str) -> Option<String> {
        node.get(key)?.text().map(str::to_owned)
    }

    /// The texts of a list, or of the one string that stands for it.
    pub fn texts(&self, node: &Node, key: &str) -> Vec<String> {
        self.spanned_texts(node, key)
            .into_iter()
            .map(|(text, _)| text)
            .collect()
    }

    pub fn spanned_texts(&self, node: &Node, key: &str) -> Vec<(String, Span)> {
        let Some(value) = node.get(key) else {
            return Vec::new();
        };
        let items = match &value.value {
            Value::Sequence(items) => items.as_slice(),
            _ => std::slice::from_ref(value),
        };
        items
            .iter()
            .filter_map(|item| Some((item.text()?.to_owned(), item.span)))
            .collect()
    }

    pub fn boolean(&mut self, node: &Node, key: &str) -> Option<bool> {
        let value = node.get(key)?;
        match value.text()?.to_ascii_lowercase().as_str() {
            // The last six are YAML 1.1's, which Compose takes for keys that are booleans.
            "true" | "1" | "yes" | "y" | "on" => Some(true),
            "false" | "0" | "no" | "n" | "off" => Some(false),
            other => {
                let message = format!("'{key}' is no boolean: '{other}'");
                self.sources
                    .error_with_help(value.span, message, "use true or false");
                None
            }
        }
    }

    pub fn flag(&mut self, node: &Node, key: &str) -> bool {
        self.boolean(node, key).unwrap_or(false)
    }

    pub fn integer(&mut self, node: &Node, key: &str, least: i64, most: i64) -> Option<i64> {
        let value = node.get(key)?;
        let text = value.text()?;
        match parse_integer(text.trim()) {
            Some(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                let help = match most {
                    i64::MAX => format!("use a whole number, {least} or more"),
                    _ => format!("use a whole number from {least} to {most}"),
                };
                let message = format!("invalid value for '{key}': '{text}'");
                self.sources.error_with_help(value.span, message, help);
                None
            }
        }
    }

    pub fn byte_size(&mut self, node: &Node, key: &str) -> Option<ByteSize> {
        let value = node.get(key)?;
        let text = value.text()?;
        let size = ByteSize::parse(text);
        if size.is_none() {
            self.sources.error_with_help(
                value.span,
                format!("invalid size for '{key}': '{text}'"),
                "write a number and a unit: 512k, 64m, 1.5g",
            );
        }
        size
    }

    pub fn duration(&mut self, node: &Node, key: &str) -> Option<Duration> {
        let value = node.get(key)?;
        let text = value.text()?;
        let found = duration::parse(text);
        if found.is_none() {
            self.sources.error_with_help(
                value.span,
                format!("invalid duration for '{key}': '{text}'"),
                "write numbers with units: 500ms, 10s, 1m30s",
            );
        }
        found
    }

    /// A number of CPUs, in thousandths.
    pub fn cpu_millis(&mut self, node: &Node, key: &str) -> Option<u64> {
        let value = node.get(key)?;
        let text = value.text()?;
        let number = text.trim().parse::<f64>().ok();
        match number.filter(|number| (0.001..=65_536.0).contains(number)) {
            Some(number) => Some((number * 1000.0).round() as u64),
            // Compose's zero is "no limit".
            None if number == Some(0.0) => None,
            None => {
                let message = format!("invalid value for '{key}': '{text}'");
                let help = "write a number of CPUs: 0.5, 2";
                self.sources.error_with_help(value.span, message, help);
                None
            }
        }
    }

    /// A mapping or a list of `NAME=value`; `None` where no value is given.
    pub fn dictionary(&self, node: &Node, key: &str) -> BTreeMap<String, Option<String>> {
        let Some(value) = node.get(key) else {
            return BTreeMap::new();
        };
        crate::merge::dictionary(value.clone())
            .entries()
            .iter()
            .map(|entry| (entry.key.clone(), entry.value.text().map(str::to_owned)))
            .collect()
    }

    /// [`Self::dictionary`] where no value means an empty one.
    pub fn labels(&self, node: &Node, key: &str) -> BTreeMap<String, String> {
        self.dictionary(node, key)
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_default()))
            .collect()
    }
}

/// Removes `.` and `..` without looking at the file system.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                if !cleaned.pop() {
                    cleaned.push("..");
                }
            }
            other => cleaned.push(other),
        }
    }
    cleaned
}
