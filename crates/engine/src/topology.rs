//! Who can be reached where, for those who make name servers' and gateways' tables of it.

use std::net::Ipv4Addr;

use crate::engine::Engine;
use crate::entry::lock;
use crate::record::{HealthStatus, NetworkRecord, Record, State};

/// All networks and everybody on them.
#[derive(Debug, Clone)]
pub struct Topology {
    pub networks: Vec<NetworkRecord>,
    pub members: Vec<Member>,
}

/// A sandbox, whether it runs or not.
#[derive(Debug, Clone)]
pub struct Member {
    pub record: Record,
    /// Whether it can be sent requests.
    pub ready: bool,
}

impl Member {
    /// Its address on a network.
    pub fn address_on(&self, network_id: &str) -> Option<Ipv4Addr> {
        let attachment = self
            .record
            .attachments
            .iter()
            .find(|a| a.network_id == network_id)?;
        Some(attachment.endpoint.address)
    }

    /// Why it cannot be sent requests, in a few words.
    pub fn reason(&self) -> String {
        let record = &self.record;
        let name = &record.config.name;
        match (record.state, record.health.status) {
            (State::Running, HealthStatus::Starting) => format!("{name} is starting"),
            (State::Running, HealthStatus::Unhealthy) => {
                let last = record.health.probes.back();
                let output = last.map(|probe| probe.output.trim()).unwrap_or_default();
                let output: String = output.chars().take(200).collect();
                format!("{name} is unhealthy: {output}")
            }
            (State::Running, _) => format!("{name} is running"),
            (State::Paused, _) => format!("{name} is paused"),
            (State::Restarting, _) => {
                format!(
                    "{name} is restarting after it ended with exit code {}",
                    record.exit_code()
                )
            }
            (State::Exited, _) => format!("{name} has exited with code {}", record.exit_code()),
            (State::Created | State::Starting, _) => format!("{name} is not started yet"),
            (State::Dead, _) => format!("{name} is being removed"),
        }
    }
}

impl Engine {
    pub fn topology(&self) -> Topology {
        let networks = lock(&self.inner.networks).values().cloned().collect();
        let mut members: Vec<Member> = self
            .inner
            .entries()
            .iter()
            .map(|entry| {
                let record = entry.record();
                Member {
                    ready: record.is_ready(),
                    record,
                }
            })
            .collect();
        members.sort_by(|a, b| a.record.config.name.cmp(&b.record.config.name));
        Topology { networks, members }
    }
}
