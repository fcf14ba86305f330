use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bulkhead_engine::{Engine, NetworkRecord, NetworkRequestNew};
use bulkhead_model::{Error, ErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::query::Filters;
use crate::app::App;
use crate::convert::inspect::{mac_text, rfc3339};
use crate::error::ApiResult;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Create {
    name: String,
    driver: Option<String>,
    internal: bool,
    #[serde(rename = "EnableIPv6")]
    ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    config: Option<Vec<IpamConfig>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IpamConfig {
    subnet: Option<String>,
}

pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
) -> ApiResult<Json<Vec<Value>>> {
    let filters = Filters::parse(query.get("filters"))?;
    let mut networks = app.engine.networks();
    networks.retain(|network| {
        filters.labels(&network.labels)
            && filters.any("name", |name| network.name().contains(name))
            && filters.any("id", |id| network.id().starts_with(id))
            && filters.any("driver", |driver| driver == "bridge")
    });
    Ok(Json(
        networks
            .iter()
            .map(|network| render(&app.engine, network))
            .collect(),
    ))
}

pub(crate) async fn create(
    State(app): State<App>,
    Json(body): Json<Create>,
) -> ApiResult<Response> {
    if body.name.is_empty() {
        return Err(Error::invalid("a network needs a name").into());
    }
    if ["bridge", "host", "none"].contains(&body.name.as_str()) {
        return Err(Error::invalid(format!("the name {} is reserved", body.name)).into());
    }
    if let Some(driver) = body
        .driver
        .filter(|driver| !driver.is_empty() && driver != "bridge")
    {
        return Err(Error::unsupported(format!(
            "network driver {driver} is not there: use bridge"
        ))
        .into());
    }
    if body.ipv6 {
        return Err(Error::unsupported("networks have IPv4 only: leave EnableIPv6 out").into());
    }
    let subnet = body
        .ipam
        .and_then(|ipam| ipam.config?.into_iter().find_map(|config| config.subnet));
    let subnet = match subnet.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            Error::invalid(format!("'{text}' is no IPv4 subnet such as 10.5.0.0/24"))
        })?),
    };
    let request = NetworkRequestNew {
        name: body.name,
        subnet,
        internal: body.internal,
        labels: body.labels.unwrap_or_default(),
    };
    let record = app.engine.create_network(request).await?;
    Ok((
        StatusCode::CREATED,
        Json(json!({ "Id": record.id(), "Warning": "" })),
    )
        .into_response())
}

pub(crate) async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let network = app.engine.network(&id)?;
    Ok(Json(render(&app.engine, &network)))
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    app.engine.remove_network(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn prune(State(app): State<App>) -> ApiResult<Json<Value>> {
    let mut deleted = Vec::new();
    for network in app.engine.networks() {
        // The default one is not the user's, and a build may be about to use it.
        if network.name() != "bridge" && app.engine.network_members(network.id()).is_empty() {
            match app.engine.remove_network(network.id()).await {
                Ok(()) => deleted.push(network.name().to_owned()),
                // In use or removed by now.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => {
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(Json(json!({ "NetworksDeleted": deleted })))
}

fn render(engine: &Engine, network: &NetworkRecord) -> Value {
    let members: serde_json::Map<String, Value> = engine
        .network_members(network.id())
        .into_iter()
        .map(|(record, attachment)| {
            let endpoint = attachment.endpoint;
            let member = json!({
                "Name": record.config.name,
                "EndpointID": record.id,
                "MacAddress": mac_text(endpoint.mac),
                "IPv4Address": format!("{}/{}", endpoint.address, endpoint.prefix_length),
                "IPv6Address": "",
            });
            (record.id, member)
        })
        .collect();
    json!({
        "Name": network.name(),
        "Id": network.id(),
        "Created": rfc3339(Some(network.created_at)),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": {
            "Driver": "default",
            "Config": [{ "Subnet": network.spec.subnet.to_string(), "Gateway": network.gateway().to_string() }],
        },
        "Internal": network.spec.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigOnly": false,
        "Containers": members,
        "Options": { "com.docker.network.bridge.name": network.spec.bridge },
        "Labels": network.labels,
    })
}
