//! What is only seen with the whole project in view: names that lead nowhere, cycles, ports that
//! are taken twice.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_model::spelling::closest;

use crate::context::Context;
use crate::diagnostic::Severity;
use crate::project::{Port, Project, Protocol, Service};
use crate::service::References;
use crate::source::Span;

/// Reports every name in `references` that is not defined.
pub(crate) fn references(
    context: &mut Context,
    project: &Project,
    references: &BTreeMap<String, References>,
) {
    for (service, references) in references {
        for (names, noun, known) in [
            (&references.volumes, "volume", keys(&project.volumes)),
            (&references.networks, "network", keys(&project.networks)),
            (&references.configs, "config", keys(&project.configs)),
            (&references.secrets, "secret", keys(&project.secrets)),
        ] {
            for (name, span) in names {
                if known.contains(name.as_str()) || noun == "network" && name == "default" {
                    continue;
                }
                let message = format!("undefined {noun} '{name}' in service '{service}'");
                let help = match closest(name, known.iter().copied()) {
                    Some(known) => format!("did you mean '{known}'?"),
                    None => format!("define it under the top-level key '{noun}s'"),
                };
                context.sources.error_with_help(*span, message, help);
            }
        }
        dependencies(context, project, service, references);
    }
}

fn keys<T>(map: &BTreeMap<String, T>) -> BTreeSet<&str> {
    map.keys().map(String::as_str).collect()
}

fn dependencies(context: &mut Context, project: &Project, name: &str, references: &References) {
    let enabled = project.services.get(name);
    let depends_on = enabled.or_else(|| project.disabled_services.get(name));
    for (dependency, span) in &references.dependencies {
        if project.services.contains_key(dependency) {
            continue;
        }
        let required = depends_on
            .and_then(|service| service.depends_on.get(dependency))
            .is_none_or(|dependency| dependency.required);
        if let Some(disabled) = project.disabled_services.get(dependency) {
            if required && enabled.is_some() {
                context.sources.error_with_help(
                    *span,
                    format!(
                        "service '{name}' depends on '{dependency}', whose profile is not active"
                    ),
                    format!(
                        "activate it with --profile {}, or say 'required: false'",
                        disabled.profiles.first().map_or("NAME", String::as_str)
                    ),
                );
            }
            continue;
        }
        let message = format!("service '{name}' depends on '{dependency}', which is not defined");
        let known = project
            .services
            .keys()
            .chain(project.disabled_services.keys());
        let help = closest(
            dependency,
            known.map(String::as_str).filter(|known| *known != name),
        )
        .map(|known| format!("did you mean '{known}'?"));
        match (required, help) {
            (true, Some(help)) => context.sources.error_with_help(*span, message, help),
            (true, None) => context.sources.error(*span, message),
            (false, _) => context.sources.warning(*span, message),
        }
    }
}

/// Reports each cycle in `depends_on` once, as the cycle.
pub(crate) fn cycles(
    context: &mut Context,
    project: &Project,
    references: &BTreeMap<String, References>,
) {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let all: BTreeMap<&str, &Service> = project
        .services
        .iter()
        .chain(&project.disabled_services)
        .map(|(name, service)| (name.as_str(), service))
        .collect();
    for start in all.keys() {
        if context.sources.is_full(Severity::Error) {
            return;
        }
        // Depth first without recursion: the way here, and what is still to try at each step.
        let mut way: Vec<(&str, Vec<&str>)> = vec![(start, below(&all, start))];
        if done.contains(start) {
            continue;
        }
        let mut on_way: BTreeSet<&str> = BTreeSet::from([*start]);
        while let Some((here, rest)) = way.last_mut() {
            let here = *here;
            let Some(next) = rest.pop() else {
                done.insert(here);
                on_way.remove(here);
                way.pop();
                continue;
            };
            if on_way.contains(next) && !context.sources.is_full(Severity::Error) {
                let begin = way.iter().position(|(name, _)| *name == next).unwrap_or(0);
                let names: Vec<&str> = way[begin..].iter().map(|(name, _)| *name).collect();
                report_cycle(context, &names, references);
            } else if !done.contains(next) && !on_way.contains(next) {
                on_way.insert(next);
                way.push((next, below(&all, next)));
            }
        }
    }
}

fn below<'a>(all: &BTreeMap<&'a str, &'a Service>, name: &str) -> Vec<&'a str> {
    let service = all.get(name);
    let names = service
        .into_iter()
        .flat_map(|service| service.depends_on.keys());
    let known = names.filter_map(|name| all.get_key_value(name.as_str()).map(|(name, _)| *name));
    // Popped from the end.
    known.collect::<Vec<_>>().into_iter().rev().collect()
}

fn report_cycle(context: &mut Context, names: &[&str], references: &BTreeMap<String, References>) {
    let Some((first, last)) = names.first().zip(names.last()) else {
        return;
    };
    // Where the last one leads back to the first.
    let span = references
        .get(*last)
        .and_then(|references| {
            let mut found = references.dependencies.iter();
            found.find(|(name, _)| name == first).map(|(_, span)| *span)
        })
        .unwrap_or_default();
    let cycle = format!("{} → {first}", names.join(" → "));
    context.sources.error_with_help(
        span,
        format!("services depend on each other in a cycle: {cycle}"),
        "remove one of these dependencies",
    );
}

/// Who takes a port, how, and where it is said.
type Taken<'a> = (&'a str, &'a Port, Span);

/// Reports a port of the host that two services of the project take.
pub(crate) fn published_ports(context: &mut Context, project: &Project) {
    let published = std::mem::take(&mut context.published);
    let mut taken: BTreeMap<(u16, Protocol), Vec<Taken<'_>>> = BTreeMap::new();
    for (service, port, span) in &published {
        let fixed = port.published.filter(|(first, last)| first == last);
        let (Some((number, _)), true) = (fixed, project.services.contains_key(service)) else {
            continue;
        };
        let others = taken.entry((number, port.protocol)).or_default();
        let clash = others.iter().find(|(_, other, _)| {
            other.host_ip == port.host_ip || any_address(other) || any_address(port)
        });
        match clash {
            Some((other, other_port, first)) => {
                // The same line twice harms nobody.
                if other == service && *other_port == port {
                    continue;
                }
                let who = match other == service {
                    true => format!("twice by service '{service}'"),
                    false => format!("by service '{other}' in line {}", first.line),
                };
                let message = format!("port {number}/{} of the host is taken {who}", port.protocol);
                context
                    .sources
                    .error_with_help(*span, message, "publish another port");
            }
            None => others.push((service, port, *span)),
        }
    }
}

fn any_address(port: &Port) -> bool {
    port.host_ip.is_none_or(|address| address.is_unspecified())
}
