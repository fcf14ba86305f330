//! A command given as one string: split into words as a shell does, without running one.

/// The words of `text`; the error says what is wrong.
pub(crate) fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' => loop {
                let word = word.get_or_insert_default();
                match characters.next() {
                    Some('\'') => break,
                    Some(inside) => word.push(inside),
                    None => return Err("a ' is not closed"),
                }
            },
            '"' => loop {
                let word = word.get_or_insert_default();
                match characters.next() {
                    Some('"') => break,
                    Some('\\') => match characters.next() {
                        Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                        Some('\n') => {}
                        Some(other) => word.extend(['\\', other]),
                        None => return Err("a \" is not closed"),
                    },
                    Some(inside) => word.push(inside),
                    None => return Err("a \" is not closed"),
                }
            },
            '\\' => match characters.next() {
                Some('\n') => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err("it ends with a backslash"),
            },
            blank if blank.is_ascii_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes() {
        let split = |text| words(text).map(|words| words.join("|"));
        assert_eq!(
            split("sh -c 'echo \"$A\"'  x"),
            Ok("sh|-c|echo \"$A\"|x".into())
        );
        assert_eq!(split("a\\ b \"c \\\" d\" ''"), Ok("a b|c \" d|".into()));
        assert_eq!(split("  "), Ok(String::new()));
        assert_eq!(split("echo 'x"), Err("a ' is not closed"));
        assert_eq!(split("echo \"x"), Err("a \" is not closed"));
        assert_eq!(split("x\\"), Err("it ends with a backslash"));
    }
}
