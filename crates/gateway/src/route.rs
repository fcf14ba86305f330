//! What the daemon tells the gateway: which host and path lead to which replicas.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// All routes of the machine at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    pub routes: Vec<Route>,
}

/// Leads requests to the healthy replicas of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// An exact host name, `*.example.org` for every name below it, or nothing for every host.
    /// Without port; upper and lower case are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Matches whole segments: `/api` matches `/api` and `/api/x`, not `/apix`.
    #[serde(default = "root_path")]
    pub path_prefix: String,
    pub service: String,
    pub project: String,
    /// The healthy replicas only.
    #[serde(default)]
    pub backends: Vec<Backend>,
    /// Why there is no healthy replica, for the person who reads the 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable_reason: Option<String>,
}

/// One healthy replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backend {
    pub address: SocketAddr,
    /// The sandbox's name or id, for the access log. An address that is given to another sandbox
    /// is another backend.
    pub sandbox: String,
}

fn root_path() -> String {
    "/".to_owned()
}
