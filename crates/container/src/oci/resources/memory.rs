//! Memory and swap (config-linux.md, "Memory").

use bulkhead_model::{Error, Result};

use crate::cgroup::Otherwise;

use super::super::config::Memory;
use super::List;

impl List {
    /// Zero is "not set", -1 "no limit".
    pub(super) fn memory(&mut self, memory: &Memory) -> Result<()> {
        let limit = memory.limit.filter(|&limit| limit != 0);
        let swap = memory.swap.filter(|&swap| swap != 0);
        if let (Some(limit), Some(swap)) = (limit, swap)
            && swap > 0
            && limit > swap
        {
            return Err(Error::invalid(format!(
                "linux.resources.memory.swap: memory+swap limit should be >= memory limit: {swap} \
                 is less than {limit}"
            )));
        }
        let reservation = memory.reservation.filter(|&reservation| reservation != 0);
        if self.v2 {
            self.swap_v2(limit, swap)?;
            if let Some(limit) = limit {
                self.add("memory.limit", "memory", "memory.max", text(limit));
            }
            if let Some(low) = reservation {
                self.add("memory.reservation", "memory", "memory.low", text(low));
            }
        } else {
            let file = ("memory.limit_in_bytes", None);
            self.either("memory.limit", "memory", file, limit)?;
            let file = ("memory.memsw.limit_in_bytes", None);
            self.either("memory.swap", "memory", file, swap)?;
            if swap.is_none() && limit == Some(-1) {
                // Without a limit on the memory there is none on the sum either.
                self.either("memory.limit", "memory", file, limit)?;
                self.or(Otherwise::Nothing);
            }
            let file = ("memory.soft_limit_in_bytes", None);
            self.either("memory.reservation", "memory", file, reservation)?;
        }
        if memory.kernel.is_some_and(|limit| limit > 0) {
            return Err(Error::unsupported(
                "linux.resources.memory.kernel: the kernel has no such limit any more: leave it out",
            ));
        }
        let file = ("memory.kmem.tcp.limit_in_bytes", None);
        let kernel_tcp = memory.kernel_tcp.filter(|&limit| limit != 0);
        self.either("memory.kernelTCP", "memory", file, kernel_tcp)?;
        // Docker writes the largest number for "not set".
        let swappiness = memory.swappiness.filter(|&value| value != u64::MAX);
        if let Some(value) = swappiness.filter(|&value| value > 100) {
            return Err(Error::invalid(format!(
                "linux.resources.memory.swappiness: invalid memory swappiness value: {value} \
                 (valid range is 0-100)"
            )));
        }
        let file = ("memory.swappiness", None);
        self.either("memory.swappiness", "memory", file, swappiness)?;
        let disabled = memory.disable_oom_killer.unwrap_or(false).then_some(1);
        let file = ("memory.oom_control", None);
        self.either("memory.disableOOMKiller", "memory", file, disabled)?;
        // v2 counts hierarchically always.
        let hierarchy = memory.use_hierarchy.filter(|&wanted| !(self.v2 && wanted));
        let file = ("memory.use_hierarchy", None);
        self.either(
            "memory.useHierarchy",
            "memory",
            file,
            hierarchy.map(i32::from),
        )
    }

    /// v2 counts swap apart from memory, v1 and the configuration their sum.
    fn swap_v2(&mut self, limit: Option<i64>, swap: Option<i64>) -> Result<()> {
        let value = match (swap, limit) {
            (None, Some(-1)) | (Some(-1), _) => "max".to_owned(),
            (None, _) => return Ok(()),
            (Some(swap), Some(limit)) if limit > 0 => (swap - limit).to_string(),
            (Some(swap), Some(-1)) => swap.to_string(),
            (Some(_), _) => {
                return Err(Error::invalid(
                    "linux.resources.memory.swap: unable to set swap limit without memory limit: \
                     give memory.limit beside it",
                ));
            }
        };
        let kernels = matches!(value.as_str(), "max" | "0");
        self.add("memory.swap", "memory", "memory.swap.max", value);
        if kernels {
            // A kernel that does not account swap has none, or limits none.
            self.or(Otherwise::Nothing);
        }
        Ok(())
    }
}

fn text(value: i64) -> String {
    match value {
        ..0 => "max".into(),
        value => value.to_string(),
    }
}
