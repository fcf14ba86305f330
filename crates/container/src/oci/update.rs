//! `update`: changes the limits of a container.

use std::io::Read;

use bulkhead_model::{Error, Result};

use crate::failure::Context;

use super::Global;
use super::arguments::{Arguments, Flag, option};
use super::config::{self, Pids, Resources};
use super::container::{Container, Status};
use super::resources;

pub(super) const FLAGS: &[Flag] = &[
    option("resources", Some('r')),
    option("blkio-weight", None),
    option("cpu-period", None),
    option("cpu-quota", None),
    option("cpu-burst", None),
    option("cpu-share", None),
    option("cpu-rt-period", None),
    option("cpu-rt-runtime", None),
    option("cpu-idle", None),
    option("cpuset-cpus", None),
    option("cpuset-mems", None),
    option("memory", None),
    option("memory-reservation", None),
    option("memory-swap", None),
    option("kernel-memory", None),
    option("kernel-memory-tcp", None),
    option("pids-limit", None),
    option("l3-cache-schema", None),
    option("mem-bw-schema", None),
];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let container = Container::load(&global.root, arguments.only_container()?)?;
    if matches!(container.status(), Status::Stopped | Status::Creating) {
        return Err(Error::conflict("container not running"));
    }
    let resources = match arguments.value("resources") {
        Some(path) => read(path)?,
        None => of_flags(&arguments)?,
    };
    if !resources.devices.is_empty() {
        return Err(Error::unsupported(
            "linux.resources.devices: the device policy of a running container cannot be changed",
        ));
    }
    let group = container.cgroup();
    let mut settings = resources::settings(&resources, group.is_v2())?;
    // v1 holds memory ≤ memory + swap at every step: the one that makes room goes first.
    let index = |file: &str| settings.iter().position(|setting| setting.file == file);
    let total_file = "memory.memsw.limit_in_bytes";
    if let (Some(limit), Some(total)) = (index("memory.limit_in_bytes"), index(total_file)) {
        let current = group
            .value("memory", total_file)
            .and_then(|text| text.parse::<i64>().ok());
        let wanted: i64 = settings[total].value.parse().unwrap_or(-1);
        if wanted < 0 || current.is_some_and(|current| wanted > current) {
            settings.swap(limit, total);
        }
    }
    group.apply(&settings)
}

fn read(path: &str) -> Result<Resources> {
    let text = if path == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .host(|| "read stdin".into())?;
        text
    } else {
        config::read_text(path.as_ref())?
    };
    config::parse(&text, "resources")
}

fn of_flags(arguments: &Arguments) -> Result<Resources> {
    for flag in ["l3-cache-schema", "mem-bw-schema"] {
        if arguments.value(flag).is_some_and(|value| !value.is_empty()) {
            return Err(Error::unsupported(format!(
                "--{flag}: Intel RDT is not supported by this version of Bulkhead"
            )));
        }
    }
    let mut resources = Resources::default();
    resources.block_io.weight = arguments.number("blkio-weight")?;
    let cpu = &mut resources.cpu;
    cpu.period = arguments.number("cpu-period")?;
    cpu.quota = arguments.number("cpu-quota")?;
    cpu.burst = arguments.number("cpu-burst")?;
    cpu.shares = arguments.number("cpu-share")?;
    cpu.realtime_period = arguments.number("cpu-rt-period")?;
    cpu.realtime_runtime = arguments.number("cpu-rt-runtime")?;
    cpu.idle = arguments.number("cpu-idle")?;
    cpu.cpus = arguments.value("cpuset-cpus").map(String::from);
    cpu.mems = arguments.value("cpuset-mems").map(String::from);
    let memory = &mut resources.memory;
    memory.limit = arguments.number("memory")?;
    memory.reservation = arguments.number("memory-reservation")?;
    memory.swap = arguments.number("memory-swap")?;
    memory.kernel_tcp = arguments.number("kernel-memory-tcp")?;
    resources.pids = arguments
        .number("pids-limit")?
        .map(|limit| Pids { limit: Some(limit) });
    Ok(resources)
}
