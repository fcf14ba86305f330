use bulkhead_api::docker::PortBinding;
use clap::Args;

use crate::failure::{Failure, Result};
use crate::names;
use crate::output;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Port {
    /// Which replica of a service
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// tcp or udp
    #[arg(long, default_value = "tcp")]
    protocol: String,
    /// Service or sandbox
    name: String,
    /// Port in the sandbox, PORT[/PROTOCOL]; all if it is not given
    port: Option<String>,
}

pub async fn run(session: &Session, arguments: Port) -> Result<u8> {
    let sandbox = names::select_one(session, &arguments.name, arguments.index).await?;
    let inspected = session
        .client()
        .await?
        .inspect_container(&sandbox.id)
        .await?;
    let ports = inspected
        .network_settings
        .and_then(|settings| settings.ports);
    let mut ports: Vec<_> = ports.unwrap_or_default().into_iter().collect();
    ports.sort_by(|(one, _), (other, _)| one.cmp(other));
    let Some(port) = &arguments.port else {
        for (port, bindings) in &ports {
            for binding in bindings.iter().flatten() {
                output::line(format!("{port} -> {}", address(binding)))?;
            }
        }
        return Ok(0);
    };
    let wanted = match port.contains('/') {
        true => port.clone(),
        false => format!("{port}/{}", arguments.protocol),
    };
    let bindings: Vec<&PortBinding> = ports
        .iter()
        .filter(|(port, _)| *port == wanted)
        .flat_map(|(_, bindings)| bindings.iter().flatten())
        .collect();
    if bindings.is_empty() {
        return Err(Failure::new(format!(
            "{} publishes no port {wanted}",
            sandbox.name
        )));
    }
    for binding in bindings {
        output::line(address(binding))?;
    }
    Ok(0)
}

fn address(binding: &PortBinding) -> String {
    let host = match binding.host_ip.as_deref() {
        None | Some("") => "0.0.0.0".to_owned(),
        Some(ip) if ip.contains(':') => format!("[{ip}]"),
        Some(ip) => ip.to_owned(),
    };
    format!(
        "{host}:{}",
        binding.host_port.as_deref().unwrap_or_default()
    )
}
