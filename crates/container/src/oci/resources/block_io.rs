//! Weights and rates of block devices (config-linux.md, "Block IO").

use bulkhead_model::Result;

use crate::cgroup::Otherwise;

use super::super::config::{BlockIo, Throttle};
use super::List;

impl List {
    /// Weights have files of the BFQ scheduler or files of their own, by kernel.
    pub(super) fn block_io(&mut self, block_io: &BlockIo) -> Result<()> {
        if let Some(weight) = block_io.weight.filter(|&weight| weight != 0) {
            self.weight("blockIO.weight", "", "", weight);
        }
        let leaf = block_io.leaf_weight.filter(|&weight| weight != 0);
        let file = ("blkio.leaf_weight", None);
        self.either("blockIO.leafWeight", "blkio", file, leaf)?;
        for (index, device) in block_io.weight_device.iter().enumerate() {
            let number = format!("{}:{} ", device.major, device.minor);
            let field = format!("blockIO.weightDevice[{index}]");
            if let Some(weight) = device.weight.filter(|&weight| weight != 0) {
                self.weight(&format!("{field}.weight"), "_device", &number, weight);
            }
            let leaf = device.leaf_weight.filter(|&weight| weight != 0);
            let file = ("blkio.leaf_weight_device", None);
            let value = leaf.map(|weight| format!("{number}{weight}"));
            self.either(&format!("{field}.leafWeight"), "blkio", file, value)?;
        }
        let throttles: [(&str, &[Throttle], &str, &str); 4] = [
            (
                "throttleReadBpsDevice",
                &block_io.throttle_read_bps_device,
                "read_bps",
                "rbps",
            ),
            (
                "throttleWriteBpsDevice",
                &block_io.throttle_write_bps_device,
                "write_bps",
                "wbps",
            ),
            (
                "throttleReadIOPSDevice",
                &block_io.throttle_read_iops_device,
                "read_iops",
                "riops",
            ),
            (
                "throttleWriteIOPSDevice",
                &block_io.throttle_write_iops_device,
                "write_iops",
                "wiops",
            ),
        ];
        for (name, devices, v1, v2) in throttles {
            for (index, device) in devices.iter().enumerate() {
                let (major, minor, rate) = (device.major, device.minor, device.rate);
                let field = format!("blockIO.{name}[{index}]");
                if self.v2 {
                    let value = format!("{major}:{minor} {v2}={rate}");
                    self.add(&field, "blkio", "io.max", value);
                } else {
                    let file = format!("blkio.throttle.{v1}_device");
                    self.add(&field, "blkio", &file, format!("{major}:{minor} {rate}"));
                }
            }
        }
        Ok(())
    }

    fn weight(&mut self, field: &str, suffix: &str, device: &str, weight: u16) {
        let value = format!("{device}{weight}");
        if self.v2 {
            // From v1's range, 10 to 1000, to 1 to 10000.
            let converted = 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990;
            self.add(field, "blkio", "io.bfq.weight", &value);
            self.or(Otherwise::Write(
                "io.weight".into(),
                format!("{device}{converted}"),
            ));
        } else {
            self.add(field, "blkio", &format!("blkio.weight{suffix}"), &value);
            self.or(Otherwise::Write(format!("blkio.bfq.weight{suffix}"), value));
        }
    }
}
