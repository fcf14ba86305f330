//! How the values of a [`crate::Project`] are written in the canonical Compose form.

use std::fmt::{self, Display};
use std::time::Duration;

use bulkhead_model::ByteSize;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;

use crate::project::{
    ExposedPort, HealthcheckTest, Protocol, RestartPolicy, ServiceNetwork, Subnet, UlimitRange,
};

pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

pub(crate) fn is_zero(value: &i64) -> bool {
    *value == 0
}

pub(crate) fn display<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// A string, because the schema takes nothing else for `deploy.resources.limits.memory`.
pub(crate) fn byte_size<S: Serializer>(value: &Option<ByteSize>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(size) => to.collect_str(&size.bytes()),
        None => to.serialize_none(),
    }
}

pub(crate) fn cpus<S: Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(millis) if millis % 1000 == 0 => to.collect_str(&(millis / 1000)),
        Some(millis) => {
            let text = format!("{}.{:03}", millis / 1000, millis % 1000);
            to.serialize_str(text.trim_end_matches('0'))
        }
        None => to.serialize_none(),
    }
}

pub(crate) fn duration<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(duration) => to.serialize_str(&crate::duration::format(*duration)),
        None => to.serialize_none(),
    }
}

pub(crate) fn port_range<S: Serializer>(
    value: &Option<(u16, u16)>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some((first, last)) if first == last => to.collect_str(first),
        Some((first, last)) => to.serialize_str(&format!("{first}-{last}")),
        None => to.serialize_none(),
    }
}

pub(crate) fn service_networks<S: Serializer>(
    networks: &[ServiceNetwork],
    to: S,
) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(networks.len()))?;
    for network in networks {
        map.serialize_entry(&network.network, network)?;
    }
    map.end()
}

pub(crate) fn extra_hosts<S: Serializer>(
    hosts: &[(String, String)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(
        hosts
            .iter()
            .map(|(name, address)| format!("{name}={address}")),
    )
}

pub(crate) fn ipam<S: Serializer>(subnet: &Option<Subnet>, to: S) -> Result<S::Ok, S::Error> {
    let Some(subnet) = subnet else {
        return to.serialize_none();
    };
    let mut config = serde_json::Map::new();
    config.insert("subnet".into(), json!(subnet.to_string()));
    if let Some(gateway) = subnet.gateway {
        config.insert("gateway".into(), json!(gateway));
    }
    json!({ "config": [config] }).serialize(to)
}

impl Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_length)
    }
}

impl Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

impl Display for RestartPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestartPolicy::No => formatter.write_str("no"),
            RestartPolicy::Always => formatter.write_str("always"),
            RestartPolicy::UnlessStopped => formatter.write_str("unless-stopped"),
            RestartPolicy::OnFailure(None) => formatter.write_str("on-failure"),
            RestartPolicy::OnFailure(Some(times)) => write!(formatter, "on-failure:{times}"),
        }
    }
}

impl Serialize for ExposedPort {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{}/{}", self.port, self.protocol))
    }
}

impl Serialize for HealthcheckTest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.to_docker().serialize(to)
    }
}

/// What the schema can say about "no limit": Docker's `-1`.
fn limit(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(-1)
}

impl Serialize for UlimitRange {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry("soft", &limit(self.soft))?;
        map.serialize_entry("hard", &limit(self.hard))?;
        map.end()
    }
}
