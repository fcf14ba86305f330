//! The top-level sections beside `services`: networks, volumes, configs and secrets.

use std::net::Ipv4Addr;

use crate::context::Context;
use crate::node::{Entry, Node, Type};
use crate::project::{FileObject, FileSource, Network, Subnet, Variable, Volume};

/// Whether the object is made by somebody else, and the name that it then has in the old form
/// `external: {name: …}`.
fn external(context: &mut Context, node: &Node) -> (bool, Option<String>) {
    match node.get("external") {
        Some(value) if value.node_type() == Type::Mapping => (true, context.text(value, "name")),
        Some(_) => (context.flag(node, "external"), None),
        None => (false, None),
    }
}

/// The name on the machine.
fn name(context: &mut Context, entry: &Entry, external: bool, old_name: Option<String>) -> String {
    let given = context.text(&entry.value, "name");
    if let (Some(given), Some(node)) = (&given, entry.value.get("name")) {
        let valid = given.starts_with(|first: char| first.is_ascii_alphanumeric())
            && given
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !valid {
            context.sources.error_with_help(
                node.span,
                format!("invalid name '{given}'"),
                "use letters, digits, '_', '.' and '-'; begin with a letter or a digit",
            );
        }
    }
    given.or(old_name).unwrap_or_else(|| match external {
        true => entry.key.clone(),
        false => format!("{}_{}", context.project_name, entry.key),
    })
}

/// Reports a driver other than the one that there is.
fn driver(context: &mut Context, node: &Node, what: &str, known: &[&str]) {
    let Some(value) = node.get("driver") else {
        return;
    };
    if let Some(text) = value.text()
        && !known.contains(&text)
    {
        let message = format!("the {what} driver '{text}' is not supported");
        let help = format!("use '{}'", known[0]);
        context.sources.error_with_help(value.span, message, help);
    }
}

pub(crate) fn network(context: &mut Context, entry: &Entry) -> Network {
    let node = &entry.value;
    let (external, old_name) = external(context, node);
    driver(context, node, "network", &["bridge", "default"]);
    Network {
        name: name(context, entry, external, old_name),
        external,
        internal: context.flag(node, "internal"),
        driver: (!external).then(|| "bridge".to_owned()),
        subnet: subnet(context, node),
        labels: context.labels(node, "labels"),
    }
}

fn subnet(context: &mut Context, node: &Node) -> Option<Subnet> {
    let mut found = None;
    for (index, config) in node.get("ipam")?.get("config")?.items().iter().enumerate() {
        let Some((value, text)) = config
            .get("subnet")
            .and_then(|value| Some((value, value.text()?)))
        else {
            continue;
        };
        if index > 0 {
            let message = "more than one subnet is not supported: the first is used";
            context.sources.warning(value.span, message);
            break;
        }
        let parsed = text.split_once('/').and_then(|(address, length)| {
            let address: Ipv4Addr = address.parse().ok()?;
            let length: u8 = length.parse().ok().filter(|length| *length <= 30)?;
            Some((address, length))
        });
        let Some((address, prefix_length)) = parsed else {
            let message = format!("invalid subnet '{text}'");
            let help = "write an IPv4 network: 172.28.0.0/16";
            context.sources.error_with_help(value.span, message, help);
            continue;
        };
        let mask = u32::MAX
            .checked_shl(32 - u32::from(prefix_length))
            .unwrap_or(0);
        let network = Ipv4Addr::from(u32::from(address) & mask);
        if network != address {
            let message = format!("the subnet '{text}' has host bits set");
            let help = format!("write {network}/{prefix_length}");
            context.sources.error_with_help(value.span, message, help);
        }
        let gateway = config.get("gateway").and_then(|value| {
            let text = value.text()?;
            let address = text.parse::<Ipv4Addr>().ok();
            let inside = address.filter(|address| u32::from(*address) & mask == u32::from(network));
            if inside.is_none() {
                let message =
                    format!("the gateway '{text}' is no address in {network}/{prefix_length}");
                context.sources.error(value.span, message);
            }
            inside
        });
        found = Some(Subnet {
            address: network,
            prefix_length,
            gateway,
        });
    }
    found
}

pub(crate) fn volume(context: &mut Context, entry: &Entry) -> Volume {
    let node = &entry.value;
    let (external, old_name) = external(context, node);
    driver(context, node, "volume", &["local"]);
    Volume {
        name: name(context, entry, external, old_name),
        external,
        labels: context.labels(node, "labels"),
    }
}

/// A config or a secret, called `noun`.
pub(crate) fn file_object(context: &mut Context, entry: &Entry, noun: &str) -> Option<FileObject> {
    let node = &entry.value;
    let (external, old_name) = external(context, node);
    let name = name(context, entry, external, old_name);
    if external {
        let message = format!(
            "the {noun} '{}' is external, which is not supported",
            entry.key
        );
        let help = "give it a 'file'";
        context
            .sources
            .error_with_help(entry.key_span, message, help);
        return None;
    }
    let source = if let Some(file) = node.get("file") {
        let path = context.absolute(file.text()?);
        if !path.exists() {
            let message = format!("no such file for the {noun}: {}", path.display());
            context.sources.error(file.span, message);
        }
        FileSource::File(path)
    } else if let Some(content) = node.get("content") {
        FileSource::Content(content.text()?.to_owned())
    } else if let Some(variable) = node.get("environment") {
        let variable_name = variable.text()?;
        let Some(value) = context.environment.get(variable_name) else {
            let message =
                format!("the {noun} needs the variable '{variable_name}', which is not set");
            let help = format!("set it in the environment or in .env: {variable_name}=…");
            context
                .sources
                .error_with_help(variable.span, message, help);
            return None;
        };
        FileSource::Environment(Variable {
            name: variable_name.to_owned(),
            value: value.clone(),
        })
    } else {
        let message = format!("the {noun} '{}' has no content", entry.key);
        let help = "give it a 'file' or an 'environment' variable";
        context
            .sources
            .error_with_help(entry.key_span, message, help);
        return None;
    };
    Some(FileObject { name, source })
}
