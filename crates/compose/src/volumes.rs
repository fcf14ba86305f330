//! Mounts of a service.
//!
//! Short form: `[SOURCE:]TARGET[:OPTION,…]`; a source that begins with `.`, `/` or `~` is a path
//! on the host, any other is a volume.

use crate::context::Context;
use crate::node::{Node, Value, parse_integer};
use crate::project::{BindOptions, ServiceMount, TmpfsOptions, VolumeOptions};
use crate::source::Span;

const HELP: &str = "write [SOURCE:]TARGET[:ro]: ./data:/data, cache:/var/cache:ro";

/// What makes two mounts the same when files are merged: the place in the sandbox.
pub(crate) fn merge_key(item: &Node) -> Option<String> {
    let target = match &item.value {
        Value::Scalar(scalar) => split_short(&scalar.text).ok()?.1,
        Value::Mapping(_) => item.get("target")?.text()?,
        _ => return None,
    };
    let trimmed = target.trim_end_matches('/');
    Some(if trimmed.is_empty() { "/" } else { trimmed }.to_owned())
}

/// The mounts of a service and, for each volume, where it is named.
pub(crate) fn mounts(
    context: &mut Context,
    node: &Node,
) -> (Vec<ServiceMount>, Vec<(String, Span)>) {
    let mut mounts: Vec<ServiceMount> = Vec::new();
    let mut named = Vec::new();
    for item in node.get("volumes").map(Node::items).unwrap_or_default() {
        let mount = match &item.value {
            Value::Scalar(scalar) => short(context, item, &scalar.text),
            Value::Mapping(_) => long(context, item),
            _ => continue,
        };
        let Some(mount) = mount else { continue };
        if !mount.target().starts_with('/') {
            let message = format!(
                "the target of a mount is not absolute: '{}'",
                mount.target()
            );
            let span = item.get("target").map_or(item.span, |target| target.span);
            context.sources.error_with_help(span, message, HELP);
            continue;
        }
        if mounts.iter().any(|other| other.target() == mount.target()) {
            let message = format!("two mounts have the target '{}'", mount.target());
            context.sources.error(item.span, message);
        }
        if let ServiceMount::Volume {
            source: Some(source),
            ..
        } = &mount
        {
            let span = item.get("source").map_or(item.span, |source| source.span);
            named.push((source.clone(), span));
        }
        mounts.push(mount);
    }
    (mounts, named)
}

/// Source, target and options of the short form.
fn split_short(text: &str) -> Result<(Option<&str>, &str, &str), &'static str> {
    let parts: Vec<&str> = text.split(':').collect();
    let found = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err("it has more than three parts"),
    };
    match found {
        (_, "", _) => Err("the target is empty"),
        (Some(""), ..) => Err("the source is empty"),
        _ => Ok(found),
    }
}

fn short(context: &mut Context, item: &Node, text: &str) -> Option<ServiceMount> {
    let (source, target, options) = match split_short(text) {
        Ok(parts) => parts,
        Err(reason) => {
            let message = format!("invalid volume '{text}': {reason}");
            context.sources.error_with_help(item.span, message, HELP);
            return None;
        }
    };
    let (mut read_only, mut nocopy) = (false, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "nocopy" => nocopy = true,
            // Labels of SELinux and hints of Docker Desktop: no meaning here.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" => {
                let message =
                    format!("the mount option '{option}' is not supported and is ignored");
                context.sources.warning(item.span, message);
            }
            other => {
                let message = format!("invalid volume '{text}': unknown option '{other}'");
                let help = "use ro, rw or nocopy";
                context.sources.error_with_help(item.span, message, help);
            }
        }
    }
    let target = target.to_owned();
    Some(match source {
        Some(path) if path.starts_with(['.', '/', '~']) => ServiceMount::Bind {
            source: context.absolute(path),
            target,
            read_only,
            options: BindOptions {
                create_host_path: true,
            },
        },
        source => ServiceMount::Volume {
            source: source.map(str::to_owned),
            target,
            read_only,
            options: VolumeOptions {
                nocopy,
                subpath: None,
            },
        },
    })
}

fn long(context: &mut Context, item: &Node) -> Option<ServiceMount> {
    let kind = item.get("type")?;
    let Some(target) = context.text(item, "target") else {
        if item.get("target").is_none() {
            context
                .sources
                .error(item.span, "a mount needs the key 'target'");
        }
        return None;
    };
    let source = context.text(item, "source");
    let read_only = context.flag(item, "read_only");
    match kind.text()? {
        "bind" => {
            let Some(source) = source else {
                context
                    .sources
                    .error(item.span, "a bind mount needs the key 'source'");
                return None;
            };
            let options = item.get("bind");
            let create = options.and_then(|node| context.boolean(node, "create_host_path"));
            Some(ServiceMount::Bind {
                source: context.absolute(&source),
                target,
                read_only,
                options: BindOptions {
                    create_host_path: create.unwrap_or(true),
                },
            })
        }
        "volume" => {
            let mut options = VolumeOptions::default();
            if let Some(node) = item.get("volume") {
                options.nocopy = context.flag(node, "nocopy");
                options.subpath = context.text(node, "subpath");
            }
            Some(ServiceMount::Volume {
                source,
                target,
                read_only,
                options,
            })
        }
        "tmpfs" => {
            let mut options = TmpfsOptions::default();
            if let Some(node) = item.get("tmpfs") {
                options.size = context.byte_size(node, "size");
                options.mode = mode(context, node);
            }
            Some(ServiceMount::Tmpfs { target, options })
        }
        other @ ("cluster" | "npipe" | "image") => {
            let message = format!("mounts of type '{other}' are not supported");
            let help = "use bind, volume or tmpfs";
            context.sources.error_with_help(kind.span, message, help);
            None
        }
        // Not in the schema, which has been reported.
        _ => None,
    }
}

/// Permission bits: a YAML integer, or octal digits in quotes.
fn mode(context: &mut Context, node: &Node) -> Option<u32> {
    let value = node.get("mode")?;
    let text = value.text()?;
    let bits = match value.node_type() {
        crate::node::Type::String => i64::from_str_radix(text, 8).ok(),
        _ => parse_integer(text),
    };
    match bits {
        Some(bits @ 0..=0o7777) => Some(bits as u32),
        _ => {
            let message = format!("invalid permissions for 'mode': '{text}'");
            let help = "write octal digits: 0755, 01777";
            context.sources.error_with_help(value.span, message, help);
            None
        }
    }
}
