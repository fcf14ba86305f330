use bulkhead_model::ByteSize;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::failure::Result;
use crate::output;
use crate::session::Session;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InfoFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct Info {
    #[arg(long, value_enum, default_value = "text")]
    format: InfoFormat,
}

pub async fn run(session: &Session, arguments: Info) -> Result<u8> {
    let client = session.client().await?;
    let info = client.info().await?;
    let own = client.bulkhead_info().await?;
    if arguments.format == InfoFormat::Json {
        output::line(json!({"Docker": info, "Bulkhead": own}).to_string())?;
        return Ok(0);
    }
    let number = |value: Option<i64>| value.unwrap_or(0).to_string();
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let memory = u64::try_from(info.mem_total.unwrap_or(0)).unwrap_or(0);
    let accelerator = match own.accelerator.as_str() {
        "" => format!("none ({})", own.accelerator_reason),
        name => format!("{name} ({})", own.accelerator_reason),
    };
    let rows = [
        ("Version", own.version),
        ("Daemon", format!("process {}", own.pid)),
        (
            "Data plane",
            match own.data_plane_pid {
                Some(pid) => format!("process {pid}"),
                None => "none".to_owned(),
            },
        ),
        ("Socket", session.paths.socket.display().to_string()),
        ("State", own.state_directory),
        ("Cache", own.cache_directory),
        ("Gateway", or_none(own.gateway_address)),
        ("Sandboxes", number(info.containers)),
        (" running", number(info.containers_running)),
        (" paused", number(info.containers_paused)),
        (" stopped", number(info.containers_stopped)),
        ("Images", number(info.images)),
        ("Accelerator", accelerator),
        ("Guest kernel", or_none(own.kernel)),
        ("Cgroups", own.cgroup_layout),
        ("Host kernel", info.kernel_version.unwrap_or_default()),
        ("Host system", info.operating_system.unwrap_or_default()),
        ("CPUs", number(info.ncpu)),
        ("Memory", ByteSize(memory).to_string()),
    ];
    for (name, value) in rows {
        output::line(format!("{name:<13} {value}").trim_end())?;
    }
    for warning in info.warnings.unwrap_or_default() {
        output::note(format!("bulkhead: warning: {warning}"));
    }
    Ok(0)
}
