//! The gateway before one server, for measurements: `reverse_proxy LISTEN BACKEND [ACCESS_LOG]`.

use std::sync::Arc;

use bulkhead_gateway::{AccessLog, AccessLogSettings, Backend, Gateway, Route, RouteTable};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, backend, log @ ..] = arguments.as_slice() else {
        return Err("usage: reverse_proxy LISTEN BACKEND [ACCESS_LOG]".into());
    };
    let route = Route {
        host: None,
        path_prefix: "/".to_owned(),
        service: "measured".to_owned(),
        project: "example".to_owned(),
        backends: vec![Backend {
            address: backend.parse()?,
            sandbox: "measured-1".to_owned(),
        }],
        unavailable_reason: None,
    };
    let table = RouteTable {
        routes: vec![route],
    };
    let (_sender, routes) = tokio::sync::watch::channel(Arc::new(table));
    let log = match log.first() {
        Some(path) => AccessLog::open(AccessLogSettings::new(path))?,
        None => AccessLog::disabled(),
    };
    Gateway::bind(listen.parse()?, routes, log)?
        .run(std::future::pending())
        .await;
    Ok(())
}
