//! A record for unit tests of pure functions.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_model::{ByteSize, Kind, ProcessSpec, Resources, Security};

use crate::config::{NetworkRequest, RestartPolicy, SandboxConfig};
use crate::record::Record;

pub(crate) fn record(restart: RestartPolicy) -> Record {
    let config = SandboxConfig {
        name: "one".into(),
        kind: Kind::Container,
        image: "image".into(),
        image_id: "sha256:0".into(),
        layers: Vec::new(),
        chain_id: String::new(),
        hostname: None,
        process: ProcessSpec::default(),
        mounts: Vec::new(),
        network: NetworkRequest::None,
        ports: Vec::new(),
        exposed: Vec::new(),
        resources: Resources::default(),
        security: Security::default(),
        read_only_root: false,
        sysctls: BTreeMap::new(),
        shm_size: ByteSize::from_mib(64),
        root_size: None,
        health: None,
        restart,
        stop_signal: 15,
        stop_timeout: Duration::from_secs(10),
        labels: BTreeMap::new(),
        auto_remove: false,
        extra_hosts: Vec::new(),
        dns: Vec::new(),
        replica: None,
        source: String::new(),
    };
    Record::new("0".repeat(64), config)
}
