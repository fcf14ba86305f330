//! The settings of a service that are one value or a list of values, with the checks that the
//! schema cannot make.

use std::collections::BTreeMap;

use bulkhead_model::spelling::closest;

use crate::context::Context;
use crate::merge;
use crate::node::Node;
use crate::project::{PullPolicy, RestartPolicy};
use crate::source::Span;

pub(crate) fn restart(context: &mut Context, node: &Node) -> RestartPolicy {
    let Some((text, span)) = node
        .get("restart")
        .and_then(|node| Some((node.text()?, node.span)))
    else {
        return RestartPolicy::No;
    };
    match text {
        "no" => return RestartPolicy::No,
        "always" => return RestartPolicy::Always,
        "unless-stopped" => return RestartPolicy::UnlessStopped,
        "on-failure" => return RestartPolicy::OnFailure(None),
        _ => {}
    }
    let times = text.strip_prefix("on-failure:").map(str::parse);
    if let Some(Ok(times)) = times {
        return RestartPolicy::OnFailure(Some(times));
    }
    let help = match closest(text, ["always", "unless-stopped", "on-failure"]) {
        Some(policy) => format!("did you mean '{policy}'?"),
        None => "use no, always, unless-stopped or on-failure[:TIMES]".to_owned(),
    };
    let message = format!("invalid restart policy '{text}'");
    context.sources.error_with_help(span, message, help);
    RestartPolicy::No
}

pub(crate) fn working_dir(context: &mut Context, node: &Node) -> Option<String> {
    let value = node.get("working_dir")?;
    let text = value.text()?;
    if !text.starts_with('/') {
        let message = format!("'working_dir' is not absolute: '{text}'");
        context.sources.error(value.span, message);
    }
    Some(text.to_owned())
}

pub(crate) fn container_name(context: &mut Context, node: &Node) -> Option<String> {
    let value = node.get("container_name")?;
    let text = value.text()?;
    let valid = text.len() > 1
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if !valid {
        context.sources.error_with_help(
            value.span,
            format!("invalid container name '{text}'"),
            "use two or more letters, digits, '_', '.' and '-'; begin with a letter or digit",
        );
    }
    Some(text.to_owned())
}

pub(crate) fn hostname(context: &mut Context, node: &Node) -> Option<String> {
    let value = node.get("hostname")?;
    let text = value.text()?;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // 64 is what the kernel takes.
    if text.len() > 64 || !text.split('.').all(label) {
        let message = format!("invalid host name '{text}'");
        let help = "use letters, digits and '-', at most 63 between dots";
        context.sources.error_with_help(value.span, message, help);
    }
    Some(text.to_owned())
}

pub(crate) fn capabilities(context: &mut Context, node: &Node, key: &str) -> Vec<String> {
    let upper = |name: String| name.to_ascii_uppercase();
    context.texts(node, key).into_iter().map(upper).collect()
}

/// What limits the writable part of a micro VM's root. A container's cannot be limited: ignoring the
/// key would let it fill the host's disk.
pub(crate) fn storage_options(context: &mut Context, node: &Node) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    let Some(given) = node.get("storage_opt") else {
        return options;
    };
    for entry in given.entries() {
        if entry.key != "size" {
            let message = format!("unknown storage option '{}'", entry.key);
            let help = "'size' is the only one";
            context
                .sources
                .error_with_help(entry.key_span, message, help);
            continue;
        }
        let is_container = node.get("runtime").and_then(Node::text) != Some("microvm");
        if is_container {
            context.sources.error_with_help(
                entry.key_span,
                "a container's root has no size limit: 'size' is of a micro VM's disk",
                "add 'runtime: microvm', or use 'read_only: true' with 'tmpfs: /PATH:size=SIZE'",
            );
        }
        if let (Some(_), Some(text)) = (context.byte_size(given, "size"), entry.value.text()) {
            options.insert(entry.key.clone(), text.to_owned());
        }
    }
    options
}

pub(crate) fn security_options(context: &mut Context, node: &Node) -> Vec<String> {
    let mut options = Vec::new();
    for (text, span) in context.spanned_texts(node, "security_opt") {
        let (name, value) = match text.split_once([':', '=']) {
            Some((name, value)) => (name, value),
            None => (text.as_str(), ""),
        };
        match (name, value) {
            ("no-new-privileges", "" | "true") => options.push("no-new-privileges:true".to_owned()),
            ("no-new-privileges", "false") => options.push("no-new-privileges:false".to_owned()),
            ("seccomp", "unconfined") => options.push("seccomp:unconfined".to_owned()),
            ("seccomp", path) if !path.is_empty() => {
                let profile = context.absolute(path);
                if !profile.is_file() {
                    let message = format!("no such seccomp profile: {}", profile.display());
                    context.sources.error(span, message);
                }
                options.push(format!("seccomp:{}", profile.display()));
            }
            ("apparmor" | "label", _) => context.sources.warning(
                span,
                format!("the security option '{text}' is not supported and is ignored"),
            ),
            _ => context.sources.error_with_help(
                span,
                format!("unknown security option '{text}'"),
                "use no-new-privileges, seccomp:unconfined or seccomp:FILE",
            ),
        }
    }
    options
}

pub(crate) fn extra_hosts(context: &mut Context, node: &Node) -> Vec<(String, String)> {
    let Some(value) = node.get("extra_hosts") else {
        return Vec::new();
    };
    let mut hosts = Vec::new();
    for item in merge::hosts(value.clone()).items() {
        let Some(text) = item.text() else { continue };
        let pair = text.split_once('=').or_else(|| text.split_once(':'));
        let address = pair.map(|(_, address)| {
            let bare = address
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            bare.unwrap_or(address)
        });
        match (pair, address) {
            (Some((name, _)), Some(address))
                if !name.is_empty()
                    && (address == "host-gateway"
                        || address.parse::<std::net::IpAddr>().is_ok()) =>
            {
                hosts.push((name.to_owned(), address.to_owned()));
            }
            _ => context.sources.error_with_help(
                item.span,
                format!("invalid extra host '{text}'"),
                "write NAME=ADDRESS or NAME=host-gateway",
            ),
        }
    }
    hosts
}

pub(crate) fn dns(context: &mut Context, node: &Node) -> Vec<std::net::Ipv4Addr> {
    let mut servers = Vec::new();
    for (text, span) in context.spanned_texts(node, "dns") {
        match text.parse() {
            Ok(address) => servers.push(address),
            Err(_) => {
                let message = format!("'{text}' is no IPv4 address of a DNS server");
                context.sources.error(span, message);
            }
        }
    }
    servers
}

pub(crate) fn pull_policy(context: &mut Context, node: &Node) -> Option<PullPolicy> {
    let value = node.get("pull_policy")?;
    let text = value.text()?;
    Some(match text {
        "always" => PullPolicy::Always,
        "never" => PullPolicy::Never,
        "missing" | "if_not_present" => PullPolicy::Missing,
        "build" => PullPolicy::Build,
        "daily" | "weekly" | "refresh" => unsupported_interval(context, value.span, text),
        every if every.starts_with("every_") => unsupported_interval(context, value.span, every),
        other => {
            let message = format!("invalid pull policy '{other}'");
            let help = "use always, missing, never or build";
            context.sources.error_with_help(value.span, message, help);
            return None;
        }
    })
}

fn unsupported_interval(context: &mut Context, span: Span, text: &str) -> PullPolicy {
    let message = format!("the pull policy '{text}' is not supported; 'missing' is used");
    context.sources.warning(span, message);
    PullPolicy::Missing
}
