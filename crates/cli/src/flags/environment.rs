//! `-e NAME[=VALUE]`, `--env-file FILE` and `--label NAME[=VALUE]`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The variables of the files, then those of the flags; the last of a name wins. A name without
/// a value takes the value of this program's environment, or is left out.
///
/// # Errors
/// A file that cannot be read, a line or flag with no name.
pub fn parse(
    files: &[PathBuf],
    flags: &[String],
    own: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: Option<&str>| {
        let Some(value) = value.map(str::to_owned).or_else(|| own(name)) else {
            return;
        };
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, before)) => *before = value,
            None => variables.push((name.to_owned(), value)),
        }
    };
    for file in files {
        for (name, value) in read_file(file)? {
            set(&name, value.as_deref());
        }
    }
    for flag in flags {
        let (name, value) = split(flag)
            .ok_or_else(|| Failure::new(format!("-e {flag}: a variable needs a name")))?;
        set(name, value);
    }
    Ok(variables
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect())
}

fn split(text: &str) -> Option<(&str, Option<&str>)> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    (!name.is_empty()).then_some((name, value))
}

/// Docker's form: a line is `NAME=VALUE` or `NAME`, nothing is quoted, `#` begins a comment line.
fn read_file(path: &Path) -> Result<Vec<(String, Option<String>)>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("--env-file {}: {error}", path.display())))?;
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why| {
            let place = format!("{}:{}", path.display(), index + 1);
            Failure::new(format!("--env-file {place}: {why} in '{line}'"))
        };
        let (name, value) = split(line).ok_or_else(|| wrong("no name"))?;
        if name.contains(char::is_whitespace) {
            return Err(wrong("white space in the name"));
        }
        variables.push((name.to_owned(), value.map(str::to_owned)));
    }
    Ok(variables)
}

/// # Errors
/// A label with no name.
pub fn parse_labels(flags: &[String]) -> Result<HashMap<String, String>> {
    let parse = |flag: &String| {
        let (name, value) = split(flag)
            .ok_or_else(|| Failure::new(format!("--label {flag}: a label needs a name")))?;
        Ok((name.to_owned(), value.unwrap_or_default().to_owned()))
    };
    flags.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/me".to_owned())
    }

    #[test]
    fn flags_outrank_files_and_names_take_our_own_values() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("env");
        std::fs::write(&file, "# comment\n\nA=1\nB='quoted'\nHOME\nUNSET\n").expect("write");
        let flags = ["A=2".into(), "C=x=y".into(), "EMPTY=".into()];
        assert_eq!(
            parse(&[file], &flags, own).expect("variables"),
            ["A=2", "B='quoted'", "HOME=/home/me", "C=x=y", "EMPTY="]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("env");
        std::fs::write(&file, "A=1\nB C=2\n").expect("write");
        let error = parse(std::slice::from_ref(&file), &[], own).expect_err("white space");
        assert!(error.message().contains("env:2: white space"), "{error}");
        let error = parse(&[], &["=x".into()], own).expect_err("no name");
        assert!(error.message().contains("-e =x"), "{error}");
        let missing = directory.path().join("none");
        let error = parse(&[missing], &[], own).expect_err("no file");
        assert!(error.message().contains("none: No such file"), "{error}");
        assert!(parse_labels(&["=x".into()]).is_err());
    }
}
