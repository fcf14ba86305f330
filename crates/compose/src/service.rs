//! One service: from its node to a [`Service`].

use std::collections::BTreeMap;

use bulkhead_model::Kind;
use bulkhead_model::spelling::closest;

use crate::context::Context;
use crate::environment;
use crate::limits;
use crate::merge;
use crate::node::{Node, Value};
use crate::ports;
use crate::project::{
    Build, Dependency, DependencyCondition, FileMount, Healthcheck, HealthcheckTest, Service,
    ServiceNetwork, ServiceNetworkMode,
};
use crate::settings;
use crate::shell;
use crate::source::Span;
use crate::volumes;

/// What a service names that is defined elsewhere, with the place where it does.
#[derive(Debug, Default)]
pub(crate) struct References {
    pub volumes: Vec<(String, Span)>,
    pub networks: Vec<(String, Span)>,
    pub dependencies: Vec<(String, Span)>,
    pub configs: Vec<(String, Span)>,
    pub secrets: Vec<(String, Span)>,
}

/// Reads the service `name`; `key_span` is where its name stands.
pub(crate) fn service(
    context: &mut Context,
    name: &str,
    key_span: Span,
    node: &Node,
) -> (Service, References) {
    if node.is_mapping() && node.get("image").is_none() && node.get("build").is_none() {
        context.sources.error_with_help(
            key_span,
            format!("service '{name}' has neither 'image' nor 'build'"),
            "give it one of the two",
        );
    }
    let mut references = References::default();
    let (mounts, volumes) = volumes::mounts(context, node);
    references.volumes = volumes;
    let (networks, network_mode) = networks(context, node, &mut references);
    let service = Service {
        name: name.to_owned(),
        image: image(context, node),
        build: build(context, node),
        kind: kind(context, node),
        command: command(context, node, "command"),
        entrypoint: command(context, node, "entrypoint"),
        environment: environment::environment(context, node),
        ports: ports::published(context, name, node),
        expose: ports::exposed(context, node),
        volumes: mounts,
        tmpfs: tmpfs(context, node),
        configs: file_mounts(context, node, "configs", "/", &mut references.configs),
        secrets: file_mounts(
            context,
            node,
            "secrets",
            "/run/secrets/",
            &mut references.secrets,
        ),
        networks,
        network_mode,
        depends_on: depends_on(context, node, &mut references),
        healthcheck: healthcheck(context, node),
        restart: settings::restart(context, node),
        labels: context.labels(node, "labels"),
        user: context.text(node, "user"),
        working_dir: settings::working_dir(context, node),
        deploy: limits::deploy(context, name, node),
        profiles: context.texts(node, "profiles"),
        container_name: settings::container_name(context, node),
        hostname: settings::hostname(context, node),
        tty: context.flag(node, "tty"),
        stdin_open: context.flag(node, "stdin_open"),
        read_only: context.flag(node, "read_only"),
        shm_size: context.byte_size(node, "shm_size"),
        storage_opt: settings::storage_options(context, node),
        ulimits: limits::ulimits(context, node),
        cap_add: settings::capabilities(context, node, "cap_add"),
        cap_drop: settings::capabilities(context, node, "cap_drop"),
        privileged: context.flag(node, "privileged"),
        security_opt: settings::security_options(context, node),
        init: context.flag(node, "init"),
        sysctls: context.labels(node, "sysctls"),
        stop_signal: context.text(node, "stop_signal"),
        stop_grace_period: context.duration(node, "stop_grace_period"),
        extra_hosts: settings::extra_hosts(context, node),
        dns: settings::dns(context, node),
        pull_policy: settings::pull_policy(context, node),
        platform: context.text(node, "platform"),
        oom_score_adj: context
            .integer(node, "oom_score_adj", -1000, 1000)
            .map(|score| score as i32),
        cpu_shares: context
            .integer(node, "cpu_shares", 0, 262_144)
            .filter(|shares| *shares > 0)
            .map(|shares| shares as u64),
        cpuset: context.text(node, "cpuset"),
        memory_swap_limit: limits::memory_swap(context, node),
    };
    (service, references)
}

fn image(context: &mut Context, node: &Node) -> Option<String> {
    let image = node.get("image")?;
    let text = image.text()?;
    if text.is_empty() || text.chars().any(char::is_whitespace) {
        let message = format!("invalid image name '{text}'");
        context.sources.error_with_help(
            image.span,
            message,
            "write NAME[:TAG]: debian:bookworm-slim",
        );
        return None;
    }
    Some(text.to_owned())
}

fn build(context: &mut Context, node: &Node) -> Option<Build> {
    let value = node.get("build")?;
    let value = merge::build(value.clone());
    if !value.is_mapping() {
        return None;
    }
    let context_node = value.get("context");
    let text = context_node.and_then(Node::text).unwrap_or(".");
    let span = context_node.map_or(value.span, |node| node.span);
    let directory = context.absolute(text);
    if text.contains("://") || text.starts_with("git@") {
        context.sources.error_with_help(
            span,
            format!("a build context at an address is not supported: '{text}'"),
            "fetch it and name the directory",
        );
    } else if !directory.is_dir() {
        let what = match directory.exists() {
            true => "is no directory",
            false => "does not exist",
        };
        let message = format!("the build context {what}: {}", directory.display());
        context.sources.error(span, message);
    }
    let mut args = BTreeMap::new();
    for (name, given) in context.dictionary(&value, "args") {
        // Without a value: the caller's, or else the Dockerfile's own default.
        if let Some(found) = given.or_else(|| context.environment.get(&name).cloned()) {
            args.insert(name, found);
        }
    }
    let dockerfile = context.text(&value, "dockerfile");
    let dockerfile_inline = context.text(&value, "dockerfile_inline");
    if let (Some(_), Some(entry)) = (&dockerfile, value.entry("dockerfile_inline")) {
        context.sources.error_with_help(
            entry.key_span,
            "'dockerfile' and 'dockerfile_inline' exclude each other",
            "remove one of the two",
        );
    }
    Some(Build {
        context: directory,
        dockerfile: match dockerfile_inline {
            Some(_) => None,
            None => Some(dockerfile.unwrap_or_else(|| "Dockerfile".to_owned()).into()),
        },
        dockerfile_inline,
        args,
        target: context.text(&value, "target"),
        labels: context.labels(&value, "labels"),
        tags: context.texts(&value, "tags"),
        no_cache: context.flag(&value, "no_cache"),
    })
}

fn kind(context: &mut Context, node: &Node) -> Kind {
    let Some((text, span)) = node
        .get("runtime")
        .and_then(|node| Some((node.text()?, node.span)))
    else {
        return Kind::default();
    };
    text.parse().unwrap_or_else(|_| {
        let help = match closest(text, ["container", "microvm"]) {
            _ if matches!(text, "runc" | "crun" | "youki" | "io.containerd.runc.v2") => {
                "Bulkhead is the runtime itself: use 'container', or remove the key".to_owned()
            }
            Some(kind) => format!("did you mean '{kind}'?"),
            None => "use 'container' (the default) or 'microvm'".to_owned(),
        };
        let message = format!("unknown runtime '{text}'");
        context.sources.error_with_help(span, message, help);
        Kind::default()
    })
}

/// `command` and `entrypoint`: a list, or a string that is split into words.
fn command(context: &mut Context, node: &Node, key: &str) -> Option<Vec<String>> {
    let value = node.get(key)?;
    match &value.value {
        Value::Sequence(_) => Some(context.texts(node, key)),
        Value::Scalar(scalar) => shell::words(&scalar.text)
            .map_err(|reason| {
                let message = format!("'{key}' cannot be split into words: {reason}");
                context
                    .sources
                    .error_with_help(value.span, message, "write it as a list");
            })
            .ok(),
        _ => None,
    }
}

fn tmpfs(context: &mut Context, node: &Node) -> Vec<String> {
    let found = context.spanned_texts(node, "tmpfs");
    let mut mounts = Vec::new();
    for (text, span) in found {
        if text.starts_with('/') {
            mounts.push(text);
        } else {
            let message = format!("the target of a tmpfs is not absolute: '{text}'");
            let help = "write /TARGET[:OPTIONS]: /tmp, /run:size=64m";
            context.sources.error_with_help(span, message, help);
        }
    }
    mounts
}

fn file_mounts(
    context: &mut Context,
    node: &Node,
    key: &str,
    directory: &str,
    references: &mut Vec<(String, Span)>,
) -> Vec<FileMount> {
    let mut mounts = Vec::new();
    for item in node.get(key).map(Node::items).unwrap_or_default() {
        let source = match &item.value {
            Value::Scalar(scalar) => scalar.text.clone(),
            _ => match context.text(item, "source") {
                Some(source) => source,
                None => {
                    let message = format!("an item of '{key}' needs the key 'source'");
                    context.sources.error(item.span, message);
                    continue;
                }
            },
        };
        let target = context.text(item, "target");
        let target = target.unwrap_or_else(|| source.clone());
        let target = match target.starts_with('/') {
            true => target,
            false => format!("{directory}{target}"),
        };
        let span = item.get("source").map_or(item.span, |node| node.span);
        references.push((source.clone(), span));
        mounts.push(FileMount { source, target });
    }
    mounts
}

fn networks(
    context: &mut Context,
    node: &Node,
    references: &mut References,
) -> (Vec<ServiceNetwork>, Option<ServiceNetworkMode>) {
    let mut networks = Vec::new();
    let listed = node
        .get("networks")
        .map(|value| merge::names(value.clone()));
    for entry in listed.iter().flat_map(Node::entries) {
        references
            .networks
            .push((entry.key.clone(), entry.key_span));
        let address = entry.value.get("ipv4_address");
        let ipv4_address = address.and_then(|node| Some((node.text()?, node.span)));
        let ipv4_address = ipv4_address.and_then(|(text, span)| {
            let parsed = text.parse().ok();
            if parsed.is_none() {
                let message = format!("invalid IPv4 address '{text}'");
                context.sources.error(span, message);
            }
            parsed
        });
        let mut priority = |key| context.integer(&entry.value, key, i64::MIN, i64::MAX);
        let (gateway_priority, plain_priority) = (priority("gw_priority"), priority("priority"));
        networks.push(ServiceNetwork {
            network: entry.key.clone(),
            aliases: context.texts(&entry.value, "aliases"),
            ipv4_address,
            priority: gateway_priority.or(plain_priority).unwrap_or(0),
        });
    }
    // As Compose attaches them.
    networks.sort_by_cached_key(|network| {
        (std::cmp::Reverse(network.priority), network.network.clone())
    });
    let mode = network_mode(context, node);
    if let Some(entry) = node.entry("network_mode") {
        if !networks.is_empty() {
            context.sources.error_with_help(
                entry.key_span,
                "'network_mode' and 'networks' exclude each other",
                "remove one of the two",
            );
        }
    } else if networks.is_empty() {
        networks.push(ServiceNetwork {
            network: "default".to_owned(),
            ..ServiceNetwork::default()
        });
    }
    (networks, mode)
}

fn network_mode(context: &mut Context, node: &Node) -> Option<ServiceNetworkMode> {
    let value = node.get("network_mode")?;
    let text = value.text()?;
    match text {
        "none" => Some(ServiceNetworkMode::None),
        "host" => Some(ServiceNetworkMode::Host),
        other => {
            let message = format!("network_mode '{other}' is not supported");
            let help = "use 'none' or 'host', or attach the service with 'networks'";
            context.sources.error_with_help(value.span, message, help);
            None
        }
    }
}

fn depends_on(
    context: &mut Context,
    node: &Node,
    references: &mut References,
) -> BTreeMap<String, Dependency> {
    let mut dependencies = BTreeMap::new();
    let Some(value) = node.get("depends_on") else {
        return dependencies;
    };
    for entry in merge::dependencies(value.clone()).entries() {
        let condition = match context.text(&entry.value, "condition").as_deref() {
            Some("service_healthy") => DependencyCondition::Healthy,
            Some("service_completed_successfully") => DependencyCondition::CompletedSuccessfully,
            _ => DependencyCondition::Started,
        };
        let dependency = Dependency {
            condition,
            restart: context.flag(&entry.value, "restart"),
            required: context.boolean(&entry.value, "required").unwrap_or(true),
        };
        references
            .dependencies
            .push((entry.key.clone(), entry.key_span));
        dependencies.insert(entry.key.clone(), dependency);
    }
    dependencies
}

fn healthcheck(context: &mut Context, node: &Node) -> Option<Healthcheck> {
    let value = node.get("healthcheck")?;
    if !value.is_mapping() {
        return None;
    }
    let mut healthcheck = Healthcheck {
        disable: context.flag(value, "disable"),
        test: None,
        interval: context.duration(value, "interval"),
        timeout: context.duration(value, "timeout"),
        retries: context
            .integer(value, "retries", 0, i64::from(i32::MAX))
            .map(|retries| retries as u32),
        start_period: context.duration(value, "start_period"),
        start_interval: context.duration(value, "start_interval"),
    };
    let Some(test) = value.get("test") else {
        return Some(healthcheck);
    };
    if let Some(line) = test.text() {
        healthcheck.test = Some(HealthcheckTest::Shell(line.to_owned()));
        return Some(healthcheck);
    }
    let words = context.texts(value, "test");
    match words.split_first() {
        Some((first, [])) if first == "NONE" => healthcheck.disable = true,
        Some((first, rest)) if first == "CMD" && !rest.is_empty() => {
            healthcheck.test = Some(HealthcheckTest::Command(rest.to_vec()));
        }
        Some((first, [line])) if first == "CMD-SHELL" => {
            healthcheck.test = Some(HealthcheckTest::Shell(line.clone()));
        }
        _ if matches!(test.value, Value::Sequence(_)) => context.sources.error_with_help(
            test.items().first().map_or(test.span, |item| item.span),
            "the test of a health check must begin with CMD, CMD-SHELL or NONE",
            "write [\"CMD\", \"program\", \"argument\"], [\"CMD-SHELL\", \"line\"] or a string",
        ),
        _ => {}
    }
    Some(healthcheck)
}
