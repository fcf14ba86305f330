//! Makes the tables of gateway and name server from the engine's topology.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use bulkhead_engine::{Member, Record, Topology};
use bulkhead_gateway::{Backend, Route, RouteTable};
use bulkhead_network::dns::{DnsConfig, Zone};
use serde::{Deserialize, Serialize};

const HOST_LABEL: &str = "bulkhead.http.host";
const PATH_LABEL: &str = "bulkhead.http.path";
const PORT_LABEL: &str = "bulkhead.http.port";

/// What the data plane knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub revision: u64,
    /// Where the gateway listens; `None` for no gateway.
    pub gateway: Option<SocketAddr>,
    pub routes: RouteTable,
    pub dns: DnsConfig,
}

/// What the data plane answers to a new snapshot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub revision: u64,
    pub pid: u32,
    pub gateway: Option<SocketAddr>,
    /// Why the gateway does not listen.
    pub gateway_error: Option<String>,
}

pub(crate) fn snapshot(
    revision: u64,
    gateway: Option<SocketAddr>,
    topology: &Topology,
) -> Snapshot {
    Snapshot {
        revision,
        gateway,
        routes: RouteTable {
            routes: routes(topology),
        },
        dns: DnsConfig {
            revision,
            zones: zones(topology),
            ..DnsConfig::default()
        },
    }
}

/// The port on which a sandbox answers HTTP: the label's, or its only exposed one.
pub(crate) fn http_port(record: &Record) -> Option<u16> {
    if let Some(port) = record.config.labels.get(PORT_LABEL) {
        return port.trim().parse().ok();
    }
    match record.config.exposed.as_slice() {
        [port] => Some(*port),
        _ => None,
    }
}

fn host_and_path(record: &Record, project: &str, service: &str) -> (Option<String>, String) {
    let labels = &record.config.labels;
    let path = labels
        .get(PATH_LABEL)
        .cloned()
        .unwrap_or_else(|| "/".to_owned());
    match labels.get(HOST_LABEL) {
        Some(host) => (Some(host.clone()).filter(|host| host != "*"), path),
        // A path, or the port alone, asks for a place under every host.
        None if labels.contains_key(PATH_LABEL) => (None, path),
        None => (Some(format!("{service}.{project}.localhost")), path),
    }
}

/// The URLs under which the gateway serves a service.
pub(crate) fn gateway_urls(record: &Record, gateway: SocketAddr) -> Vec<String> {
    let Some(replica) = &record.config.replica else {
        return Vec::new();
    };
    if http_port(record).is_none() {
        return Vec::new();
    }
    let (host, path) = host_and_path(record, &replica.project, &replica.service);
    let path = if path == "/" { String::new() } else { path };
    match host {
        Some(host) => vec![format!("http://{host}:{}{path}", gateway.port())],
        None => vec![format!("http://{gateway}{path}")],
    }
}

fn routes(topology: &Topology) -> Vec<Route> {
    let mut services: BTreeMap<(String, String), Vec<&Member>> = BTreeMap::new();
    for member in &topology.members {
        if let Some(replica) = &member.record.config.replica
            && !replica.one_off
        {
            let key = (replica.project.clone(), replica.service.clone());
            services.entry(key).or_default().push(member);
        }
    }
    services
        .into_iter()
        .filter_map(|((project, service), members)| route(project, service, &members))
        .collect()
}

fn route(project: String, service: String, members: &[&Member]) -> Option<Route> {
    let first = members.first()?;
    http_port(&first.record)?;
    let (host, path_prefix) = host_and_path(&first.record, &project, &service);
    let backends: Vec<Backend> = members
        .iter()
        .filter(|member| member.ready)
        .filter_map(|member| {
            let address = member.record.attachments.first()?.endpoint.address;
            let port = http_port(&member.record)?;
            Some(Backend {
                address: SocketAddr::from((address, port)),
                sandbox: member.record.config.name.clone(),
            })
        })
        .collect();
    let reasons: Vec<String> = members.iter().map(|member| member.reason()).collect();
    let unavailable_reason = backends.is_empty().then(|| reasons.join("; "));
    Some(Route {
        host,
        path_prefix,
        service,
        project,
        backends,
        unavailable_reason,
    })
}

fn zones(topology: &Topology) -> Vec<Zone> {
    topology
        .networks
        .iter()
        .map(|network| {
            let mut names: BTreeMap<String, BTreeSet<Ipv4Addr>> = BTreeMap::new();
            for member in &topology.members {
                let attachments = &member.record.attachments;
                let Some(attachment) = attachments.iter().find(|a| a.network_id == network.id())
                else {
                    continue;
                };
                let address = attachment.endpoint.address;
                // A sandbox's own names lead to it as soon as it has an address; a service's
                // names only while it is healthy.
                for name in [member.record.config.name.as_str(), member.record.short_id()] {
                    names
                        .entry(name.to_ascii_lowercase())
                        .or_default()
                        .insert(address);
                }
                let service = member.record.config.replica.as_ref().filter(|r| !r.one_off);
                let shared = service.map(|replica| &replica.service);
                for name in shared.into_iter().chain(&attachment.aliases) {
                    let addresses = names.entry(name.to_ascii_lowercase()).or_default();
                    if member.ready {
                        addresses.insert(address);
                    }
                }
            }
            Zone {
                listen: network.gateway(),
                names: names
                    .into_iter()
                    .map(|(name, addresses)| (name, addresses.into_iter().collect()))
                    .collect(),
            }
        })
        .collect()
}
