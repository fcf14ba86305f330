//! The environment of a service: `env_file`, then `environment`.

use std::collections::BTreeMap;
use std::io;

use crate::context::Context;
use crate::dotenv::{self, Format};
use crate::files;
use crate::node::{Node, Value};
use crate::source::Span;

pub(crate) fn environment(context: &mut Context, node: &Node) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for file in env_files(context, node) {
        read(context, &file, &mut variables);
    }
    for (name, value) in context.dictionary(node, "environment") {
        // `NAME` without a value is the caller's variable, and none if the caller has none.
        match value.or_else(|| context.environment.get(&name).cloned()) {
            Some(value) => variables.insert(name, value),
            None => variables.remove(&name),
        };
    }
    variables.remove("");
    variables
}

struct EnvFile {
    path: String,
    span: Span,
    required: bool,
    format: Format,
}

fn env_files(context: &mut Context, node: &Node) -> Vec<EnvFile> {
    let Some(value) = node.get("env_file") else {
        return Vec::new();
    };
    let items = match &value.value {
        Value::Sequence(items) => items.as_slice(),
        _ => std::slice::from_ref(value),
    };
    let mut files = Vec::new();
    for item in items {
        let path = item.get("path").unwrap_or(item);
        let Some(text) = path.text() else { continue };
        let format = match item
            .get("format")
            .and_then(|node| Some((node.text()?, node.span)))
        {
            None => Format::Compose,
            Some(("raw", _)) => Format::Raw,
            Some((other, span)) => {
                let message = format!("unknown format '{other}' of an env_file");
                context.sources.error_with_help(span, message, "use 'raw'");
                Format::Compose
            }
        };
        files.push(EnvFile {
            path: text.to_owned(),
            span: path.span,
            required: context.boolean(item, "required").unwrap_or(true),
            format,
        });
    }
    files
}

fn read(context: &mut Context, file: &EnvFile, variables: &mut BTreeMap<String, String>) {
    let path = context.absolute(&file.path);
    let display = files::shown(&path, &context.working_directory);
    let index = match files::read(&path, display, &mut context.sources) {
        Ok(Some(index)) => index,
        Ok(None) => return,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !file.required => return,
        Err(error) => {
            let message = format!("cannot read the env_file {}: {error}", path.display());
            let help = match error.kind() {
                io::ErrorKind::NotFound => "make it, or say 'required: false'",
                _ => "it must be a readable file",
            };
            context.sources.error_with_help(file.span, message, help);
            return;
        }
    };
    let environment = &context.environment;
    let lookup = |name: &str| environment.get(name).cloned();
    let found = dotenv::parse(index, file.format, &lookup, &mut context.sources);
    variables.extend(found);
}
