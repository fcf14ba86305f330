//! What query strings hold.

use std::collections::{BTreeMap, HashMap};

use bulkhead_model::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// Reads a boolean as Docker's daemon does: `1`, `true`, `True` … are true.
pub(crate) fn is_true(text: Option<&String>) -> bool {
    text.is_some_and(|text| {
        !["", "0", "no", "none", "false"].contains(&text.to_ascii_lowercase().as_str())
    })
}

/// `filters={"label":["a=b"]}`, or the older `{"label":{"a=b":true}}`.
#[derive(Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// # Errors
    /// `InvalidInput` if it is no such JSON.
    pub(crate) fn parse(text: Option<&String>) -> Result<Self> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        let wrong = || Error::invalid(format!("invalid filter '{text}'"));
        let map: HashMap<String, Value> = serde_json::from_str(text).map_err(|_| wrong())?;
        let mut filters = BTreeMap::new();
        for (key, value) in map {
            let values = match value {
                Value::Array(list) => list
                    .into_iter()
                    .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
                    .collect::<Result<_>>()?,
                Value::Object(map) => map.into_iter().map(|(name, _)| name).collect(),
                _ => return Err(wrong()),
            };
            filters.insert(key, values);
        }
        Ok(Self(filters))
    }

    /// Whether any value of `key` satisfies `test`; true if the key is not given.
    pub(crate) fn any(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        self.0
            .get(key)
            .is_none_or(|values| values.is_empty() || values.iter().any(|v| test(v)))
    }

    /// Whether all labels asked for are there.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.get("label").is_none_or(|wanted| {
            wanted.iter().all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
                None => labels.contains_key(wanted),
            })
        })
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Size {
    #[serde(rename = "h")]
    pub rows: u16,
    #[serde(rename = "w")]
    pub columns: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_filters() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        for text in [
            r#"{"label":["a=b"]}"#,
            r#"{"label":{"a=b":true}}"#,
            r#"{"label":["a"]}"#,
        ] {
            let filters = Filters::parse(Some(&text.to_owned())).expect(text);
            assert!(filters.labels(&labels), "{text}");
        }
        let other = Filters::parse(Some(&r#"{"label":["a=c"]}"#.to_owned())).expect("filters");
        assert!(!other.labels(&labels));
        assert!(Filters::parse(Some(&"[1]".to_owned())).is_err());
    }
}
