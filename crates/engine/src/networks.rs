//! Networks: their records, addresses on them, and published ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_model::{Endpoint, Error, ErrorKind, Result};
use bulkhead_network::{AddressAllocator, Ipv4Net, NetworkSpec, PublishedPort};

use crate::config::{NetworkJoin, NetworkRequest};
use crate::engine::{Engine, Inner, random_id};
use crate::entry::lock;
use crate::events::{Action, Subject};
use crate::record::{Attachment, NetworkRecord, Record};

/// The network of sandboxes that ask for none in particular; made when first needed.
pub(crate) const DEFAULT_NETWORK: &str = "bridge";

/// Asks for a network.
#[derive(Debug, Clone, Default)]
pub struct NetworkRequestNew {
    pub name: String,
    /// Chosen if `None`.
    pub subnet: Option<Ipv4Net>,
    pub internal: bool,
    pub labels: BTreeMap<String, String>,
}

impl Engine {
    pub fn networks(&self) -> Vec<NetworkRecord> {
        lock(&self.inner.networks).values().cloned().collect()
    }

    /// # Errors
    /// `NotFound` if neither a name nor an id begins so.
    pub fn network(&self, reference: &str) -> Result<NetworkRecord> {
        self.inner.network(reference)
    }

    /// # Errors
    /// `Conflict` if the name is taken or the subnet is in use.
    pub async fn create_network(&self, request: NetworkRequestNew) -> Result<NetworkRecord> {
        self.inner.create_network(request).await
    }

    /// # Errors
    /// `Conflict` if sandboxes are on it.
    pub async fn remove_network(&self, reference: &str) -> Result<()> {
        self.inner.remove_network(reference).await
    }

    /// The running sandboxes on a network.
    pub fn network_members(&self, network_id: &str) -> Vec<(Record, Attachment)> {
        let mut members = Vec::new();
        for record in self.list() {
            for attachment in &record.attachments {
                if attachment.network_id == network_id {
                    members.push((record.clone(), attachment.clone()));
                }
            }
        }
        members
    }
}

impl Inner {
    pub(crate) fn network(&self, reference: &str) -> Result<NetworkRecord> {
        let networks = lock(&self.networks);
        if let Some(network) = networks.get(reference) {
            return Ok(network.clone());
        }
        networks
            .values()
            .find(|network| network.name() == reference)
            .or_else(|| {
                let mut fitting = networks.values().filter(|n| n.id().starts_with(reference));
                fitting
                    .next()
                    .filter(|_| reference.len() >= 4 && fitting.next().is_none())
            })
            .cloned()
            .ok_or_else(|| Error::not_found(format!("network {reference} not found")))
    }

    pub(crate) async fn create_network(
        self: &Arc<Self>,
        request: NetworkRequestNew,
    ) -> Result<NetworkRecord> {
        crate::volumes::check_name(&request.name, "network")?;
        let mut ensured = self.ensured.lock().await;
        if lock(&self.networks)
            .values()
            .any(|network| network.name() == request.name)
        {
            return Err(Error::conflict(format!(
                "network with name {} already exists",
                request.name
            )));
        }
        let id = random_id()?;
        let taken: Vec<Ipv4Net> = lock(&self.networks)
            .values()
            .map(|n| n.spec.subnet)
            .collect();
        let bridge = bulkhead_network::Instance::new(&self.settings.root).bridge_name(&id);
        let internal = request.internal;
        let name = request.name.clone();
        let spec = blocking(move || {
            let subnet = match request.subnet {
                Some(subnet) => subnet,
                None => {
                    bulkhead_network::allocate_subnet(&bulkhead_network::default_pools(), &taken)?
                }
            };
            let spec = NetworkSpec {
                id,
                name,
                bridge,
                subnet,
                gateway: bulkhead_network::gateway_of(&subnet),
                mtu: bulkhead_network::uplink_mtu()?,
                internal,
            };
            match bulkhead_network::ensure(&spec) {
                Ok(()) => Ok(spec),
                Err(error) => {
                    bulkhead_network::remove(&spec.bridge)?;
                    Err(error)
                }
            }
        })
        .await?;
        let record = NetworkRecord {
            spec,
            labels: request.labels,
            created_at: SystemTime::now(),
        };
        self.store.save_network(&record)?;
        ensured.insert(record.id().to_owned());
        lock(&self.networks).insert(record.id().to_owned(), record.clone());
        self.emit_network(&record, Action::Create);
        self.topology_changed();
        Ok(record)
    }

    pub(crate) async fn remove_network(self: &Arc<Self>, reference: &str) -> Result<()> {
        let record = self.network(reference)?;
        let mut ensured = self.ensured.lock().await;
        let users: Vec<String> = self
            .entries()
            .iter()
            .filter_map(|entry| {
                entry.look(|r| {
                    let there = r.attachments.iter().any(|a| a.network_id == record.id());
                    there.then(|| r.config.name.clone())
                })
            })
            .collect();
        // Promised addresses too: of starts that are under way, and of builds.
        let promised = lock(&self.addresses)
            .get(record.id())
            .is_some_and(|taken| !taken.is_empty());
        if users.is_empty() && promised {
            return Err(Error::conflict(format!(
                "network {} has active endpoints: wait until what uses it has ended",
                record.name()
            )));
        }
        if !users.is_empty() {
            return Err(Error::conflict(format!(
                "network {} has active endpoints ({}): remove or stop them first",
                record.name(),
                users.join(", ")
            )));
        }
        let bridge = record.spec.bridge.clone();
        blocking(move || bulkhead_network::remove(&bridge)).await?;
        self.store.delete_network(record.id())?;
        ensured.remove(record.id());
        lock(&self.networks).remove(record.id());
        lock(&self.addresses).remove(record.id());
        self.emit_network(&record, Action::Remove);
        self.topology_changed();
        Ok(())
    }

    /// Sees to it that a network is in the kernel; after the first time that costs nothing.
    ///
    /// # Errors
    /// `NotFound` if it has been removed meanwhile.
    async fn ensure_network(self: &Arc<Self>, record: &NetworkRecord) -> Result<()> {
        let mut ensured = self.ensured.lock().await;
        self.network(record.id())?;
        if ensured.contains(record.id()) {
            return Ok(());
        }
        let spec = record.spec.clone();
        blocking(move || bulkhead_network::ensure(&spec)).await?;
        ensured.insert(record.id().to_owned());
        Ok(())
    }

    async fn network_for(self: &Arc<Self>, join: &NetworkJoin) -> Result<NetworkRecord> {
        match self.network(&join.network) {
            Err(_) if join.network == DEFAULT_NETWORK => {
                let request = NetworkRequestNew {
                    name: DEFAULT_NETWORK.to_owned(),
                    ..NetworkRequestNew::default()
                };
                match self.create_network(request).await {
                    // Another start was quicker.
                    Err(_) if self.network(DEFAULT_NETWORK).is_ok() => {
                        self.network(DEFAULT_NETWORK)
                    }
                    made => made,
                }
            }
            found => found,
        }
    }

    /// Promises an address on each network that the sandbox joins.
    pub(crate) async fn join_networks(
        self: &Arc<Self>,
        record: &Record,
    ) -> Result<Vec<Attachment>> {
        let NetworkRequest::Join(joins) = &record.config.network else {
            return Ok(Vec::new());
        };
        let mut attachments = Vec::new();
        for (index, join) in joins.iter().enumerate() {
            match self.join_network(&record.id, join, index).await {
                Ok(attachment) => attachments.push(attachment),
                Err(error) => {
                    self.give_back(&attachments);
                    return Err(error);
                }
            }
        }
        Ok(attachments)
    }

    /// An address on the default network for something that has no record.
    pub(crate) async fn join_default_network(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<Vec<Attachment>> {
        let join = NetworkJoin {
            network: DEFAULT_NETWORK.to_owned(),
            aliases: Vec::new(),
            address: None,
        };
        let attachment = self.join_network(id, &join, 0).await?;
        Ok(vec![attachment])
    }

    async fn join_network(
        self: &Arc<Self>,
        id: &str,
        join: &NetworkJoin,
        index: usize,
    ) -> Result<Attachment> {
        loop {
            let network = self.network_for(join).await?;
            // The promise first: a network with one is not removed.
            let attachment = self.promise_address(id, &network, join, index)?;
            let Err(error) = self.ensure_network(&network).await else {
                return Ok(attachment);
            };
            self.give_back(std::slice::from_ref(&attachment));
            // The default one is removed when nobody is on it, and made again.
            if error.kind() != ErrorKind::NotFound || join.network != DEFAULT_NETWORK {
                return Err(error);
            }
        }
    }

    fn promise_address(
        &self,
        sandbox_id: &str,
        network: &NetworkRecord,
        join: &NetworkJoin,
        index: usize,
    ) -> Result<Attachment> {
        let mut addresses = lock(&self.addresses);
        let taken = addresses.entry(network.id().to_owned()).or_default();
        let mut allocator = AddressAllocator::new(network.spec.subnet, network.gateway());
        // Not the address that was given back last: neighbours still know it by another MAC.
        if let Some(last) = taken.last() {
            allocator = allocator.after(*last);
        }
        let address = match join.address {
            Some(address) => allocator.allocate_exactly(address, taken)?,
            None => allocator.allocate(taken)?,
        };
        taken.insert(address);
        Ok(Attachment {
            network_id: network.id().to_owned(),
            network_name: network.name().to_owned(),
            endpoint: Endpoint {
                bridge: network.spec.bridge.clone(),
                host_device: bulkhead_network::host_device_name(sandbox_id, index),
                interface: format!("eth{index}"),
                mac: bulkhead_network::mac_of(address),
                address,
                prefix_length: network.spec.subnet.prefix_len(),
                gateway: network.gateway(),
                mtu: network.spec.mtu,
            },
            aliases: join.aliases.clone(),
        })
    }

    pub(crate) fn give_back(&self, attachments: &[Attachment]) {
        let mut addresses = lock(&self.addresses);
        for attachment in attachments {
            if let Some(taken) = addresses.get_mut(&attachment.network_id) {
                taken.remove(&attachment.endpoint.address);
            }
        }
    }

    /// Notes the addresses of a sandbox that runs already.
    pub(crate) fn note_addresses(&self, attachments: &[Attachment]) {
        let mut addresses = lock(&self.addresses);
        for attachment in attachments {
            let taken: &mut BTreeSet<Ipv4Addr> =
                addresses.entry(attachment.network_id.clone()).or_default();
            taken.insert(attachment.endpoint.address);
        }
    }

    /// Decides the host's ports, each of which must be free.
    ///
    /// # Errors
    /// `Conflict` naming the port and who has it.
    pub(crate) async fn choose_ports(
        self: &Arc<Self>,
        record: &Record,
        attachments: &[Attachment],
    ) -> Result<Vec<PublishedPort>> {
        if record.config.ports.is_empty() {
            return Ok(Vec::new());
        }
        let Some(first) = attachments.first() else {
            return Ok(Vec::new());
        };
        let _guard = self.ports_guard.lock().await;
        let mut ports = Vec::new();
        for request in &record.config.ports {
            if request.host_port != 0 {
                self.check_our_own_ports(record, request)?;
            }
            let (address, protocol, wanted) =
                (request.host_address, request.protocol, request.host_port);
            let host_port = loop {
                let port = blocking(move || match wanted {
                    0 => bulkhead_network::free_port(address, protocol),
                    port => {
                        bulkhead_network::check_port_free(address, port, protocol).map(|()| port)
                    }
                })
                .await?;
                // One that was chosen a moment ago is not in the kernel's table yet.
                let chosen = crate::PortRequest {
                    host_port: port,
                    ..request.clone()
                };
                let taken = ports.iter().any(|other: &PublishedPort| {
                    other.host_port == port && other.protocol == protocol
                });
                if wanted != 0 || !taken && self.check_our_own_ports(record, &chosen).is_ok() {
                    break port;
                }
            };
            ports.push(PublishedPort {
                host_ip: request.host_address,
                host_port,
                target: first.endpoint.address,
                target_port: request.target_port,
                protocol: request.protocol,
                owner: record.config.name.clone(),
            });
        }
        // In the record before the guard falls, so that the next start sees them.
        self.entry_change_ports(record, &ports)?;
        Ok(ports)
    }

    fn entry_change_ports(&self, record: &Record, ports: &[PublishedPort]) -> Result<()> {
        let entry = self.find(&record.id)?;
        entry.change(&*self.store, |record| record.ports = ports.to_vec())
    }

    fn check_our_own_ports(&self, record: &Record, wanted: &crate::PortRequest) -> Result<()> {
        for entry in self.entries() {
            if entry.id == record.id {
                continue;
            }
            let taken = entry.look(|other| {
                let overlapping = other.ports.iter().any(|port| {
                    port.host_port == wanted.host_port
                        && port.protocol == wanted.protocol
                        && (port.host_ip == wanted.host_address
                            || port.host_ip.is_unspecified()
                            || wanted.host_address.is_unspecified())
                });
                overlapping.then(|| other.config.name.clone())
            });
            if let Some(owner) = taken {
                return Err(Error::conflict(format!(
                    "port {}:{}/{} is already published by sandbox {owner}: stop it or choose another port",
                    wanted.host_address, wanted.host_port, wanted.protocol
                )));
            }
        }
        Ok(())
    }

    /// Makes the kernel's table of published ports match the records.
    pub(crate) async fn sync_ports(self: &Arc<Self>, networks: &[String]) -> Result<()> {
        let _guard = self.ports_guard.lock().await;
        for id in networks {
            let Ok(record) = self.network(id) else {
                continue;
            };
            let ports = self.ports_on(id);
            blocking(move || bulkhead_network::sync_ports(&record.spec, &ports)).await?;
        }
        Ok(())
    }

    fn emit_network(&self, record: &NetworkRecord, action: Action) {
        let mut attributes = record.labels.clone();
        attributes.insert("name".to_owned(), record.name().to_owned());
        attributes.insert("type".to_owned(), "bridge".to_owned());
        self.emit(Subject::Network, action, record.id(), attributes);
    }
}

/// Runs what blocks on the host away from the threads that serve.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::host("a thread of the daemon died").with_source(error)),
    }
}
