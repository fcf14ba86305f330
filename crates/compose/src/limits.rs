//! Replicas and limits: `deploy`, and the short keys that say the same.

use std::collections::BTreeMap;

use bulkhead_model::ByteSize;

use crate::context::Context;
use crate::node::{Node, Value};
use crate::project::{Deploy, ResourceLimits, UlimitRange};
use crate::source::Span;

/// Most replicas of one service: more is a slip of the finger.
const MAXIMUM_REPLICAS: i64 = 10_000;

pub(crate) fn deploy(context: &mut Context, name: &str, node: &Node) -> Deploy {
    let mut deploy = Deploy::default();
    let given = node.get("deploy");
    if let Some(given) = given {
        deploy.labels = context.labels(given, "labels");
        if let Some(replicas) = context.integer(given, "replicas", 0, MAXIMUM_REPLICAS) {
            deploy.replicas = replicas as u32;
        }
        if let Some(resources) = given.get("resources") {
            if let Some(limits) = resources.get("limits") {
                deploy.resources.limits = read(context, limits);
            }
            if let Some(reservations) = resources.get("reservations") {
                deploy.resources.reservations = read(context, reservations);
            }
        }
    }
    let limits = given
        .and_then(|given| given.get("resources"))
        .and_then(|resources| resources.get("limits"));
    let scale = context
        .integer(node, "scale", 0, MAXIMUM_REPLICAS)
        .map(|scale| scale as u32);
    let replicas = given.and_then(|given| given.get("replicas"));
    let replicas = fold(
        context,
        node,
        ("scale", "deploy.replicas"),
        scale,
        replicas.map(|_| deploy.replicas),
    );
    deploy.replicas = replicas.unwrap_or(1);
    let memory = context.byte_size(node, "mem_limit");
    deploy.resources.limits.memory = fold(
        context,
        node,
        ("mem_limit", "deploy.resources.limits.memory"),
        memory.filter(|memory| memory.bytes() > 0),
        deploy.resources.limits.memory,
    );
    let cpus = context.cpu_millis(node, "cpus");
    deploy.resources.limits.cpu_millis = fold(
        context,
        node,
        ("cpus", "deploy.resources.limits.cpus"),
        cpus,
        deploy.resources.limits.cpu_millis,
    );
    let pids = pids(context, node, "pids_limit");
    deploy.resources.limits.pids = fold(
        context,
        node,
        ("pids_limit", "deploy.resources.limits.pids"),
        pids,
        deploy.resources.limits.pids,
    );
    let reservation = context.byte_size(node, "mem_reservation");
    deploy.resources.reservations.memory = fold(
        context,
        node,
        ("mem_reservation", "deploy.resources.reservations.memory"),
        reservation,
        deploy.resources.reservations.memory,
    );
    check(
        context,
        name,
        node,
        &deploy,
        limits.map(|limits| limits.span),
    );
    deploy
}

fn read(context: &mut Context, node: &Node) -> ResourceLimits {
    ResourceLimits {
        memory: context
            .byte_size(node, "memory")
            .filter(|memory| memory.bytes() > 0),
        cpu_millis: context.cpu_millis(node, "cpus"),
        pids: pids(context, node, "pids"),
    }
}

/// Zero and less are "no limit".
fn pids(context: &mut Context, node: &Node, key: &str) -> Option<u64> {
    context
        .integer(node, key, -1, i64::MAX)
        .filter(|pids| *pids > 0)
        .map(|pids| pids as u64)
}

/// One value from two keys that mean the same; an error if they differ.
fn fold<T: PartialEq>(
    context: &mut Context,
    node: &Node,
    (short, long): (&str, &str),
    from_short: Option<T>,
    from_long: Option<T>,
) -> Option<T> {
    match (from_short, from_long) {
        (Some(left), Some(right)) if left != right => {
            let span = node.entry(short).map_or(node.span, |entry| entry.key_span);
            context.sources.error_with_help(
                span,
                format!("'{short}' and '{long}' say different things"),
                "remove one of the two",
            );
            Some(right)
        }
        (left, right) => right.or(left),
    }
}

fn check(context: &mut Context, name: &str, node: &Node, deploy: &Deploy, limits: Option<Span>) {
    if let Some(entry) = node.entry("container_name")
        && deploy.replicas > 1
    {
        context.sources.error_with_help(
            entry.key_span,
            format!(
                "service '{name}' has {} replicas and a 'container_name', which must be unique",
                deploy.replicas
            ),
            "remove 'container_name'",
        );
    }
    let span = node
        .entry("mem_limit")
        .map(|entry| entry.value.span)
        .or(limits)
        .unwrap_or(node.span);
    // Docker's least.
    if let Some(memory) = deploy.resources.limits.memory
        && memory < ByteSize::from_mib(6)
    {
        let message = format!("a memory limit of {memory} is too small");
        context
            .sources
            .error_with_help(span, message, "give it 6m or more");
    }
}

/// `memswap_limit`; -1 is unlimited swap.
pub(crate) fn memory_swap(context: &mut Context, node: &Node) -> Option<ByteSize> {
    let text = context.text(node, "memswap_limit")?;
    match text.as_str() {
        "-1" => Some(ByteSize(u64::MAX)),
        "0" => None,
        _ => context.byte_size(node, "memswap_limit"),
    }
}

const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

pub(crate) fn ulimits(context: &mut Context, node: &Node) -> BTreeMap<String, UlimitRange> {
    let mut ulimits = BTreeMap::new();
    for entry in node.get("ulimits").map(Node::entries).unwrap_or_default() {
        if !ULIMITS.contains(&entry.key.as_str()) {
            let message = format!("unknown limit '{}'", entry.key);
            let help = match bulkhead_model::spelling::closest(&entry.key, ULIMITS) {
                Some(known) => format!("did you mean '{known}'?"),
                None => format!("use one of {}", ULIMITS.join(", ")),
            };
            context
                .sources
                .error_with_help(entry.key_span, message, help);
            continue;
        }
        let bound = |context: &mut Context, node: &Node, key: &str| {
            let number = context.integer(node, key, -1, i64::MAX)?;
            Some(u64::try_from(number).unwrap_or(u64::MAX))
        };
        let range = match &entry.value.value {
            Value::Mapping(_) => {
                let soft = bound(context, &entry.value, "soft");
                soft.zip(bound(context, &entry.value, "hard"))
            }
            _ => bound(context, node.get("ulimits").unwrap_or(node), &entry.key)
                .map(|both| (both, both)),
        };
        let Some((soft, hard)) = range else { continue };
        if soft > hard {
            let message = format!("the soft limit of '{}' is above the hard one", entry.key);
            context.sources.error(entry.key_span, message);
        }
        ulimits.insert(entry.key.clone(), UlimitRange { soft, hard });
    }
    ulimits
}
