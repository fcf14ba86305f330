//! Names the place of a node in the file, as a person would: `'build.args' of service 'web'`.

/// The keys that lead to a node; an item of a list is `[index]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub fn push(&mut self, key: &str) {
        self.0.push(key.to_owned());
    }

    pub fn push_index(&mut self, index: usize) {
        self.0.push(format!("[{index}]"));
    }

    pub fn pop(&mut self) {
        self.0.pop();
    }

    pub fn last(&self) -> Option<&str> {
        self.0.last().map(String::as_str)
    }

    /// What follows `in` or `of` in a message; empty at the top level.
    pub fn place(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.to_string())
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let noun = match self.0.first().map(String::as_str) {
            Some("services") => "service",
            Some("networks") => "network",
            Some("volumes") => "volume",
            Some("configs") => "config",
            Some("secrets") => "secret",
            Some("models") => "model",
            _ => "",
        };
        match self.0.as_slice() {
            [] => formatter.write_str("the file"),
            [_, name] if !noun.is_empty() => write!(formatter, "{noun} '{name}'"),
            [_, name, rest @ ..] if !noun.is_empty() => {
                write!(formatter, "'{}' of {noun} '{name}'", joined(rest))
            }
            keys => write!(formatter, "'{}'", joined(keys)),
        }
    }
}

fn joined(keys: &[String]) -> String {
    let mut text = String::new();
    for key in keys {
        if !text.is_empty() && !key.starts_with('[') {
            text.push('.');
        }
        text.push_str(key);
    }
    text
}
