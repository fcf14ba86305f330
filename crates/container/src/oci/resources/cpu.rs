//! CPU time and the CPUs and memory nodes to be on (config-linux.md, "CPU").

use bulkhead_model::{Error, Result};

use crate::cgroup::cpu_weight;

use super::super::config::Cpu;
use super::List;

/// The period of a quota where none is given, in microseconds; the kernel's default.
const PERIOD: u64 = 100_000;

impl List {
    /// Zero is "not set" for everything but burst and idle.
    pub(super) fn cpu(&mut self, cpu: &Cpu) -> Result<()> {
        let shares = cpu.shares.filter(|&shares| shares != 0);
        let period = cpu.period.filter(|&period| period != 0);
        let quota = cpu.quota.filter(|&quota| quota != 0);
        self.either("cpu.idle", "cpu", ("cpu.idle", Some("cpu.idle")), cpu.idle)?;
        if self.v2 {
            if let Some(shares) = shares {
                self.add("cpu.shares", "cpu", "cpu.weight", cpu_weight(shares));
            }
        } else {
            if let Some(shares) = shares {
                check_shares(shares)?;
            }
            self.either("cpu.shares", "cpu", ("cpu.shares", None), shares)?;
            self.either("cpu.period", "cpu", ("cpu.cfs_period_us", None), period)?;
        }
        let burst = ("cpu.cfs_burst_us", Some("cpu.max.burst"));
        self.either("cpu.burst", "cpu", burst, cpu.burst)?;
        if !self.v2 {
            self.either("cpu.quota", "cpu", ("cpu.cfs_quota_us", None), quota)?;
        } else if quota.is_some() || period.is_some() {
            let text = match quota {
                Some(quota) if quota > 0 => quota.to_string(),
                _ => "max".into(),
            };
            let value = format!("{text} {}", period.unwrap_or(PERIOD));
            let field = if quota.is_some() {
                "cpu.quota"
            } else {
                "cpu.period"
            };
            self.add(field, "cpu", "cpu.max", value);
        }
        let period = cpu.realtime_period.filter(|&period| period != 0);
        let file = ("cpu.rt_period_us", None);
        self.either("cpu.realtimePeriod", "cpu", file, period)?;
        let runtime = cpu.realtime_runtime.filter(|&runtime| runtime != 0);
        let file = ("cpu.rt_runtime_us", None);
        self.either("cpu.realtimeRuntime", "cpu", file, runtime)?;
        let cpus = cpu.cpus.as_deref().filter(|cpus| !cpus.is_empty());
        let files = ("cpuset.cpus", Some("cpuset.cpus"));
        self.either("cpu.cpus", "cpuset", files, cpus)?;
        let mems = cpu.mems.as_deref().filter(|mems| !mems.is_empty());
        let files = ("cpuset.mems", Some("cpuset.mems"));
        self.either("cpu.mems", "cpuset", files, mems)
    }
}

/// The kernel takes others silently for the nearest of these.
fn check_shares(shares: u64) -> Result<()> {
    let bound = match shares {
        0..2 => "minimum allowed cpu-shares is 2",
        262_145.. => "maximum allowed cpu-shares is 262144",
        _ => return Ok(()),
    };
    Err(Error::invalid(format!(
        "linux.resources.cpu.shares: {shares}: the {bound}"
    )))
}
