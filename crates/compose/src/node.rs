//! A YAML tree in which every node knows where it stands.

use crate::source::Span;

/// What `!reset` and `!override` say about merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MergeTag {
    #[default]
    None,
    /// Remove what the files before said.
    Reset,
    /// Replace what the files before said.
    Override,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub span: Span,
    pub tag: MergeTag,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub text: String,
    pub style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// The text decides the type.
    Plain,
    /// A string.
    Quoted,
    /// Variables were filled in: a string, or what the text looks like, as the key needs it.
    Interpolated,
}

/// The type of a scalar or of a whole node, in JSON Schema's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Sequence,
    Mapping,
}

impl Type {
    /// As it is called in messages.
    pub fn noun(self) -> &'static str {
        match self {
            Type::Null => "nothing",
            Type::Boolean => "a boolean",
            Type::Integer => "an integer",
            Type::Number => "a number",
            Type::String => "a string",
            Type::Sequence => "a list",
            Type::Mapping => "a mapping",
        }
    }
}

impl Scalar {
    pub fn plain_type(text: &str) -> Type {
        match text {
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Type::Boolean,
            _ if is_integer(text) => Type::Integer,
            _ if is_float(text) => Type::Number,
            _ => Type::String,
        }
    }
}

/// An integer as YAML's core schema and Compose have it: also `0o17`, `0x1f` and `017`.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (digits, radix) = match digits.get(..2) {
        Some("0x") => (&digits[2..], 16),
        Some("0o") => (&digits[2..], 8),
        _ => (digits, 10),
    };
    !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix))
}

fn is_float(text: &str) -> bool {
    let number = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(number, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    number.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && number
            .chars()
            .all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
        && number.parse::<f64>().is_ok()
}

/// The integer that a plain text is; a leading zero means octal, as Compose reads it.
pub(crate) fn parse_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let value = match digits.get(..2) {
        Some("0x") => i64::from_str_radix(&digits[2..], 16),
        Some("0o") => i64::from_str_radix(&digits[2..], 8),
        _ if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
        _ => digits.parse(),
    }
    .ok()?;
    Some(if negative { -value } else { value })
}

impl Node {
    pub fn string(span: Span, text: impl Into<String>) -> Self {
        Self {
            span,
            tag: MergeTag::None,
            value: Value::Scalar(Scalar {
                text: text.into(),
                style: Style::Quoted,
            }),
        }
    }

    pub fn mapping(span: Span, entries: Vec<Entry>) -> Self {
        Self {
            span,
            tag: MergeTag::None,
            value: Value::Mapping(entries),
        }
    }

    pub fn null(span: Span) -> Self {
        Self {
            span,
            tag: MergeTag::None,
            value: Value::Null,
        }
    }

    /// The node's type; for an interpolated scalar what its text looks like.
    pub fn node_type(&self) -> Type {
        match &self.value {
            Value::Null => Type::Null,
            Value::Scalar(scalar) if scalar.style == Style::Quoted => Type::String,
            Value::Scalar(scalar) => Scalar::plain_type(&scalar.text),
            Value::Sequence(_) => Type::Sequence,
            Value::Mapping(_) => Type::Mapping,
        }
    }

    /// The text of any scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Mapping(entries) => entries
                .iter_mut()
                .find(|entry| entry.key == key)
                .map(|entry| &mut entry.value),
            _ => None,
        }
    }

    /// How many nodes it is made of, itself included.
    pub fn count(&self) -> usize {
        match &self.value {
            Value::Sequence(items) => 1 + items.iter().map(Node::count).sum::<usize>(),
            Value::Mapping(entries) => {
                1 + entries
                    .iter()
                    .map(|entry| entry.value.count())
                    .sum::<usize>()
            }
            Value::Scalar(_) | Value::Null => 1,
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub fn is_mapping(&self) -> bool {
        matches!(self.value, Value::Mapping(_))
    }
}
