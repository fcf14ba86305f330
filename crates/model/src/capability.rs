//! Linux' capabilities: names, Docker's default set, and what `add` and `drop` make of it.

use crate::{Error, Result};

/// In the order of their numbers (`linux/capability.h`).
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What Docker grants by default.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The capabilities, as bits, that a workload gets out of what is `available`: Docker's default
/// set with `drop` taken away and `add` given. `ALL` in either changes what is begun with; a
/// capability that is named counts more than `ALL`.
///
/// # Errors
/// `InvalidInput` for a name that is no capability.
pub fn selected(add: &[String], drop: &[String], available: u64) -> Result<u64> {
    let (add_all, add) = parse(add)?;
    let (drop_all, drop) = parse(drop)?;
    let base = if add_all {
        available
    } else if drop_all {
        0
    } else {
        default_bits() & available
    };
    Ok(base & !drop | add)
}

fn default_bits() -> u64 {
    DEFAULT
        .iter()
        .filter_map(|name| number(name))
        .fold(0, |bits, number| bits | 1 << number)
}

/// The number of a capability, by its upper-case name with or without `CAP_`.
pub fn number(name: &str) -> Option<u32> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    let index = NAMES.iter().position(|known| *known == name)?;
    u32::try_from(index).ok()
}

/// Whether `ALL` is among the names (in either case, with or without `CAP_`), and the bits of the
/// others.
///
/// # Errors
/// `InvalidInput` for a name that is no capability.
pub fn parse(names: &[String]) -> Result<(bool, u64)> {
    let mut all = false;
    let mut bits = 0;
    for name in names {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            all = true;
            continue;
        }
        let number = number(&upper).ok_or_else(|| {
            Error::invalid(format!(
                "'{name}' is no capability: see capabilities(7) for the names, or use ALL"
            ))
        })?;
        bits |= 1 << number;
    }
    Ok((all, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(add: &[&str], drop: &[&str]) -> u64 {
        let owned = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        selected(&owned(add), &owned(drop), u64::MAX >> (64 - NAMES.len())).expect("names")
    }

    fn has(set: u64, name: &str) -> bool {
        number(name).is_some_and(|number| set & (1 << number) != 0)
    }

    #[test]
    fn names_count_more_than_all() {
        let all_but_one = chosen(&["ALL"], &["cap_net_raw"]);
        assert!(has(all_but_one, "SYS_ADMIN") && !has(all_but_one, "NET_RAW"));
        assert_eq!(chosen(&["CHOWN"], &["ALL"]).count_ones(), 1);
        assert_eq!(chosen(&[], &[]).count_ones() as usize, DEFAULT.len());
        assert!(has(chosen(&["CAP_SYS_TIME"], &[]), "SYS_TIME"));
    }

    #[test]
    fn what_is_no_capability_is_named() {
        let error = parse(&["FLY".to_owned()]).expect_err("no such capability");
        assert!(error.to_string().contains("FLY"), "{error}");
    }
}
