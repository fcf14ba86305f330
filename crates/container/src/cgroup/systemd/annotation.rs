//! Annotations `org.systemd.property.NAME`, whose values are in GVariant's text form (runc's
//! `docs/systemd.md`).

use std::collections::BTreeMap;

use bulkhead_model::{Error, Result};

use super::message::{Property, Value};

const PREFIX: &str = "org.systemd.property.";

/// # Errors
/// `InvalidInput` with the annotation for a name or value that is none.
pub(super) fn properties(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let invalid = || {
            Error::invalid(format!(
                "annotations.{key}: '{text}' is no value such as true, 'text', uint64 5 or ['a']"
            ))
        };
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(Error::invalid(format!(
                "annotations.{key}: '{name}' is no name of a property"
            )));
        }
        let value = value(text.trim()).ok_or_else(invalid)?;
        // Documented in seconds, and expected in microseconds.
        let seconds = name
            .strip_suffix("Sec")
            .filter(|name| name.ends_with(|last: char| last.is_ascii_lowercase()));
        match seconds {
            Some(name) => {
                let microseconds = microseconds(&value).ok_or_else(invalid)?;
                properties.push((format!("{name}USec"), Value::Uint64(microseconds)));
            }
            None => properties.push((name.to_owned(), value)),
        }
    }
    Ok(properties)
}

fn value(text: &str) -> Option<Value> {
    let typed = text.split_once(char::is_whitespace);
    if let Some((kind, number)) = typed {
        let number = number.trim();
        let value = match kind {
            "byte" => Value::Byte(number.parse().ok()?),
            "int16" => Value::Int16(number.parse().ok()?),
            "uint16" => Value::Uint16(number.parse().ok()?),
            "int32" => Value::Int32(number.parse().ok()?),
            "uint32" => Value::Uint32(number.parse().ok()?),
            "int64" => Value::Int64(number.parse().ok()?),
            "uint64" => Value::Uint64(number.parse().ok()?),
            "double" => Value::Double(number.parse().ok()?),
            "boolean" => Value::Bool(number.parse().ok()?),
            "string" => Value::Text(quoted(number)?),
            "objectpath" => Value::Path(quoted(number)?),
            "@as" if number == "[]" => Value::Texts(Vec::new()),
            _ => return untyped(text),
        };
        return Some(value);
    }
    untyped(text)
}

fn untyped(text: &str) -> Option<Value> {
    if let Ok(flag) = text.parse() {
        return Some(Value::Bool(flag));
    }
    if let Ok(number) = text.parse() {
        return Some(Value::Int32(number));
    }
    if let Some(list) = text.strip_prefix('[') {
        let list = list.strip_suffix(']')?;
        let texts = list.split(',').map(|element| quoted(element.trim()));
        return texts.collect::<Option<_>>().map(Value::Texts);
    }
    match text.contains('.').then(|| text.parse().ok()).flatten() {
        Some(number) => Some(Value::Double(number)),
        None => quoted(text).map(Value::Text),
    }
}

fn quoted(text: &str) -> Option<String> {
    let quote = text
        .chars()
        .next()
        .filter(|quote| ['\'', '"'].contains(quote))?;
    let inner = text[1..].strip_suffix(quote)?;
    (!inner.contains([quote, '\\'])).then(|| inner.to_owned())
}

fn microseconds(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Byte(number) => (*number).into(),
        Value::Int16(number) => u64::try_from(*number).ok()?,
        Value::Uint16(number) => (*number).into(),
        Value::Int32(number) => u64::try_from(*number).ok()?,
        Value::Uint32(number) => (*number).into(),
        Value::Int64(number) => u64::try_from(*number).ok()?,
        Value::Uint64(number) => *number,
        Value::Double(number) if *number >= 0.0 => return Some((number * 1e6) as u64),
        _ => return None,
    };
    seconds.checked_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, text: &str) -> Result<Vec<Property>> {
        properties(&BTreeMap::from([(
            format!("org.systemd.property.{name}"),
            text.to_owned(),
        )]))
    }

    #[test]
    fn values_are_those_of_gvariant() {
        for (name, text, expected, value) in [
            (
                "TimeoutStopUSec",
                "uint64 5",
                "TimeoutStopUSec",
                Value::Uint64(5),
            ),
            (
                "RuntimeMaxSec",
                "2",
                "RuntimeMaxUSec",
                Value::Uint64(2_000_000),
            ),
            (
                "TimeoutStopSec",
                "double 0.5",
                "TimeoutStopUSec",
                Value::Uint64(500_000),
            ),
            (
                "CollectMode",
                "'inactive-or-failed'",
                "CollectMode",
                Value::Text("inactive-or-failed".into()),
            ),
            ("AddRef", "true", "AddRef", Value::Bool(true)),
            (
                "After",
                "['a.service', 'b.service']",
                "After",
                Value::Texts(vec!["a.service".into(), "b.service".into()]),
            ),
        ] {
            assert_eq!(one(name, text).expect(text), [(expected.to_owned(), value)]);
        }
        let other = BTreeMap::from([("org.example".to_owned(), "x".to_owned())]);
        assert!(properties(&other).expect("none of ours").is_empty());
    }

    #[test]
    fn what_is_no_property_is_refused_by_its_annotation() {
        for (name, text) in [
            ("Ab", "1"),
            ("A-b-c", "1"),
            ("Name", "nope"),
            ("RuntimeMaxSec", "'x'"),
            ("Name", "uint64 -1"),
        ] {
            let error = one(name, text).expect_err(text).to_string();
            assert!(
                error.contains(&format!("org.systemd.property.{name}")),
                "{error}"
            );
        }
    }
}
