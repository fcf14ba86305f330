//! Capability sets of a process; their names and defaults are `bulkhead_model::capability`'s.

use bulkhead_model::capability::{NAMES, number, parse, selected};
use bulkhead_model::{Error, Result, Security};
use serde::{Deserialize, Serialize};

use crate::failure::Context;
use crate::sys;

/// Capabilities as the kernel has them: bit N is capability number N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CapabilitySet(pub(crate) u64);

impl CapabilitySet {
    pub(crate) const ALL: Self = Self((1 << NAMES.len()) - 1);

    pub(crate) fn contains(self, name: &str) -> bool {
        number(name).is_some_and(|number| self.0 & (1 << number) != 0)
    }

    /// All that this process could give away.
    pub(crate) fn available() -> Result<Self> {
        let bits = sys::permitted_capabilities().host(|| "read our own capabilities".into())?;
        Ok(Self(bits))
    }

    /// The set for a workload with these settings, out of what is `available`.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is no capability; `Unsupported` for one that is asked for
    /// by name and that this process does not have itself.
    pub(crate) fn of(security: &Security, available: Self) -> Result<Self> {
        if security.privileged {
            return Ok(available);
        }
        let (_, add) = parse(&security.capabilities_add)?;
        let missing = add & !available.0;
        if missing != 0 {
            return Err(Error::unsupported(format!(
                "the capability {} is not available to Bulkhead itself on this host: leave it \
                 out of cap_add, or run Bulkhead with it",
                NAMES[missing.trailing_zeros() as usize]
            )));
        }
        let (add, drop) = (&security.capabilities_add, &security.capabilities_drop);
        selected(add, drop, available.0).map(Self)
    }
}

/// The five sets of a process (capabilities(7)).
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct CapabilitySets {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

impl From<CapabilitySet> for CapabilitySets {
    /// Nothing is inheritable or ambient (CVE-2022-27650).
    fn from(set: CapabilitySet) -> Self {
        Self {
            bounding: set.0,
            effective: set.0,
            permitted: set.0,
            ..Self::default()
        }
    }
}

impl CapabilitySets {
    /// Takes from the process what is not in the bounding set, for good; first of all, as this
    /// needs `SETPCAP`. To be followed by [`Self::apply`] as the final user.
    pub(crate) fn limit_bounding(&self) -> std::io::Result<()> {
        for number in 0..64 {
            if self.bounding & (1 << number) == 0 {
                match sys::drop_bounding_capability(number) {
                    // The kernel has no capability of that number, nor any above.
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                    result => result?,
                }
            }
        }
        Ok(())
    }

    pub(crate) fn apply(&self) -> std::io::Result<()> {
        sys::clear_ambient_capabilities()?;
        sys::set_capabilities(self.effective, self.permitted, self.inheritable)?;
        for number in (0..64).filter(|number| self.ambient & (1 << number) != 0) {
            sys::raise_ambient_capability(number)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: CapabilitySet = CapabilitySet((1 << 41) - 1);

    fn set(add: &[&str], drop: &[&str]) -> Result<CapabilitySet> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let security = Security {
            capabilities_add: owned(add),
            capabilities_drop: owned(drop),
            ..Security::default()
        };
        CapabilitySet::of(&security, EVERYTHING)
    }

    #[test]
    fn the_default_set_is_dockers() {
        // The value that `/proc/self/status` shows in a container of Docker's.
        assert_eq!(set(&[], &[]).expect("default").0, 0xa804_25fb);
    }

    #[test]
    fn add_and_drop_work_with_and_without_prefix_and_case() {
        let changed = set(&["cap_net_admin"], &["CAP_CHOWN", "kill"]).expect("names");
        assert!(changed.contains("CAP_NET_ADMIN"));
        assert!(!changed.contains("CHOWN") && !changed.contains("KILL"));
        assert!(changed.contains("SETUID"));
    }

    #[test]
    fn all_is_every_capability() {
        assert_eq!(set(&["ALL"], &[]).expect("all"), EVERYTHING);
        assert_eq!(set(&[], &["ALL"]).expect("none").0, 0);
        assert_eq!(set(&["NET_RAW"], &["ALL"]).expect("one").0, 1 << 13);
        assert!(
            !set(&["ALL"], &["SYS_ADMIN"])
                .expect("all but one")
                .contains("SYS_ADMIN")
        );
    }

    #[test]
    fn what_is_no_capability_or_not_ours_is_refused_by_name() {
        let error = set(&["NET_ADMINN"], &[]).expect_err("misspelt");
        assert!(error.to_string().contains("NET_ADMINN"), "{error}");
        let security = Security {
            capabilities_add: vec!["SYS_ADMIN".into()],
            ..Security::default()
        };
        let error = CapabilitySet::of(&security, CapabilitySet(1)).expect_err("not ours");
        assert!(error.to_string().contains("SYS_ADMIN"), "{error}");
    }
}
