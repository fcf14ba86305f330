//! The names by which an instance's devices and tables are told from all others on the host.

use std::path::Path;

use sha2::{Digest, Sha256};

/// How the name of every bridge of every instance begins; isolation between networks rests on it.
pub const BRIDGE_PREFIX: &str = "bh-";
/// How the name of every nftables table of ours begins.
pub const TABLE_PREFIX: &str = "bulkhead_";

const INSTANCE_DIGITS: usize = 5;
const NETWORK_DIGITS: usize = 7;

/// One daemon's share of the host's names. Instances with different roots run side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    digits: String,
}

impl Instance {
    /// The instance whose state lives below `root`, the absolute path of its state directory.
    pub fn new(root: &Path) -> Self {
        Self {
            digits: digits(root.as_os_str().as_encoded_bytes(), INSTANCE_DIGITS),
        }
    }

    /// The bridge of the network with this id: 15 bytes.
    pub fn bridge_name(&self, network_id: &str) -> String {
        let network = digits(network_id.as_bytes(), NETWORK_DIGITS);
        format!("{BRIDGE_PREFIX}{}{network}", self.digits)
    }

    pub(crate) fn bridge_prefix(&self) -> String {
        format!("{BRIDGE_PREFIX}{}", self.digits)
    }

    pub(crate) fn table_prefix(&self) -> String {
        format!("{TABLE_PREFIX}{}", self.digits)
    }
}

/// The nftables table that goes with a bridge.
pub fn table_name(bridge: &str) -> String {
    let suffix = bridge.strip_prefix(BRIDGE_PREFIX).unwrap_or(bridge);
    format!("{TABLE_PREFIX}{suffix}")
}

/// The device group of a bridge and its ports, by which they are deleted together.
pub(crate) fn device_group(bridge: &str) -> u32 {
    let digest = Sha256::digest(bridge.as_bytes());
    // Group 0 is the one of all other devices.
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1)
}

/// The bridge that goes with an nftables table; `None` if the table is none of ours.
pub(crate) fn bridge_of_table(table: &str) -> Option<String> {
    let suffix = table.strip_prefix(TABLE_PREFIX)?;
    let ours = suffix.len() == INSTANCE_DIGITS + NETWORK_DIGITS
        && suffix.bytes().all(|byte| byte.is_ascii_hexdigit());
    ours.then(|| format!("{BRIDGE_PREFIX}{suffix}"))
}

/// The host's device (veth end or TAP) of a sandbox's endpoint number `index`: at most 15 bytes.
pub fn host_device_name(sandbox_id: &str, index: usize) -> String {
    let mut name = format!("bhe{}", digits(sandbox_id.as_bytes(), 10));
    name.push_str(&format!("{:x}", index % 256));
    name
}

fn digits(bytes: &[u8], count: usize) -> String {
    let mut text = String::with_capacity(count + 1);
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
        if text.len() >= count {
            break;
        }
    }
    text.truncate(count);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let one = Instance::new(Path::new("/var/lib/bulkhead"));
        let other = Instance::new(Path::new("/tmp/other"));
        let bridge = one.bridge_name("shop");
        assert_eq!(bridge.len(), 15);
        assert!(bridge.starts_with(&one.bridge_prefix()));
        assert!(!bridge.starts_with(&other.bridge_prefix()));
        assert_ne!(bridge, one.bridge_name("shop2"));
        assert!(table_name(&bridge).starts_with(&one.table_prefix()));
        assert_eq!(host_device_name("abc", 0).len(), 14);
        assert_eq!(host_device_name("abc", 255).len(), 15);
        assert_ne!(host_device_name("abc", 0), host_device_name("abc", 1));
    }
}
