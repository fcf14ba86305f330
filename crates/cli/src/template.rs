//! The part of Docker's `--format` templates that people use on one object: text with
//! `{{.Path.To.Field}}` and `{{json .Path}}`.

use serde_json::Value;

use crate::failure::{Failure, Result};

/// Fills the fields of `value` in.
///
/// # Errors
/// A field that is not there, or anything else between the braces.
pub fn render(template: &str, value: &Value) -> Result<String> {
    let mut output = String::new();
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        output.push_str(&rest[..start]);
        let end = rest[start..]
            .find("}}")
            .ok_or_else(|| Failure::new(format!("--format '{template}': '{{{{' has no '}}}}'")))?;
        let expression = rest[start + 2..start + end].trim();
        output.push_str(&evaluate(expression, value)?);
        rest = &rest[start + end + 2..];
    }
    output.push_str(rest);
    Ok(output.replace("\\t", "\t").replace("\\n", "\n"))
}

fn evaluate(expression: &str, value: &Value) -> Result<String> {
    let (path, as_json) = match expression.strip_prefix("json ") {
        Some(path) => (path.trim(), true),
        None => (expression, false),
    };
    let unknown = |why: String| {
        Failure::new(format!(
            "--format '{{{{{expression}}}}}': {why}; use 'json', {{{{.Field.Field}}}} or {{{{json .Field}}}}"
        ))
    };
    let path = path
        .strip_prefix('.')
        .filter(|path| !path.contains(char::is_whitespace))
        .ok_or_else(|| unknown("not understood".into()))?;
    let mut current = value;
    for field in path.split('.').filter(|field| !field.is_empty()) {
        current = current
            .get(field)
            .ok_or_else(|| unknown(format!("there is no field '{field}'")))?;
    }
    Ok(match current {
        current if as_json => current.to_string(),
        Value::String(text) => text.clone(),
        Value::Null => "<no value>".into(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_filled_in() {
        let value = json!({"State": {"Pid": 7, "Status": "running"}, "Name": "/db"});
        for (template, expected) in [
            ("{{.State.Pid}}", "7"),
            ("{{ .Name }} is {{.State.Status}}", "/db is running"),
            ("{{json .State}}", r#"{"Pid":7,"Status":"running"}"#),
            ("{{json .Name}}", "\"/db\""),
            ("a\\tb", "a\tb"),
        ] {
            assert_eq!(render(template, &value).expect(template), expected);
        }
        for (template, part) in [
            ("{{.State.Pit}}", "no field 'Pit'"),
            ("{{range .X}}", "not understood"),
            ("{{.X", "has no '}}'"),
        ] {
            let error = render(template, &value).expect_err(template);
            assert!(error.message().contains(part), "{error}");
        }
    }
}
