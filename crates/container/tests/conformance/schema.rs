//! Checks JSON against the specification's own schemas, as far as these use the language.

use std::path::Path;

use serde_json::Value;

/// Fails unless `value` is what `schema/<file>` describes.
pub fn check(file: &str, value: &Value) {
    validate(&read(file), file, value, "$");
}

fn read(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/schema")
        .join(file);
    serde_json::from_str(&std::fs::read_to_string(path).expect("schema")).expect("schema")
}

fn validate(schema: &Value, file: &str, value: &Value, place: &str) {
    let Some(rules) = schema.as_object() else {
        return;
    };
    for (keyword, rule) in rules {
        match keyword.as_str() {
            "$ref" => {
                let (other, pointer) = rule
                    .as_str()
                    .expect("reference")
                    .split_once('#')
                    .expect("#");
                let other = if other.is_empty() { file } else { other };
                let document = read(other);
                validate(
                    document.pointer(pointer).expect("definition"),
                    other,
                    value,
                    place,
                );
            }
            "type" => {
                let holds = match rule.as_str().expect("type") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    other => panic!("no rule for the type {other}"),
                };
                assert!(holds, "{place} is {value}, not {rule}");
            }
            "enum" => {
                let allowed = rule.as_array().expect("enum");
                assert!(
                    allowed.contains(value),
                    "{place} is {value}, not one of {rule}"
                );
            }
            "minimum" => assert!(
                value.as_i64() >= rule.as_i64(),
                "{place} is {value}, below {rule}"
            ),
            "required" => {
                for name in rule.as_array().expect("names") {
                    assert!(
                        value.get(name.as_str().expect("name")).is_some(),
                        "{place} has no {name}"
                    );
                }
            }
            "properties" => {
                for (name, inner) in rule.as_object().expect("properties") {
                    if let Some(value) = value.get(name) {
                        validate(inner, file, value, &format!("{place}.{name}"));
                    }
                }
            }
            "patternProperties" => {
                // All patterns are "anything" in these schemas.
                for inner in rule.as_object().expect("patterns").values() {
                    for (name, value) in value.as_object().into_iter().flatten() {
                        validate(inner, file, value, &format!("{place}.{name}"));
                    }
                }
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    validate(rule, file, value, &format!("{place}[{index}]"));
                }
            }
            // Of the capabilities' names alone.
            "pattern" => assert!(!value.as_str().unwrap_or_default().is_empty(), "{place}"),
            "description" | "$schema" | "id" | "definitions" => {}
            other => panic!("no rule for the keyword {other}"),
        }
    }
}
