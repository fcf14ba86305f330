//! System call filters: Docker's default profile and profiles in Docker's JSON form, compiled to
//! classic BPF by [`compile`].
//!
//! Invariant: a filter that cannot be made or installed is an error, never a warning. Programs
//! of another architecture (32-bit x86) are killed: their calls have other numbers.

mod compile;
mod default;
mod profile;
mod syscalls;

use bulkhead_model::{Result, Seccomp, Security};
use serde::{Deserialize, Serialize};

use crate::capabilities::CapabilitySet;
use crate::failure::Context;
use crate::sys::{self, Instruction};

/// A compiled filter: the instructions as 64-bit numbers, and `SECCOMP_FILTER_FLAG_*`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Filter {
    program: Vec<u64>,
    flags: u32,
}

impl Filter {
    fn new(program: &[Instruction], flags: u32) -> Self {
        let program = program
            .iter()
            .map(|instruction| {
                u64::from(instruction.code)
                    | u64::from(instruction.jump_true) << 16
                    | u64::from(instruction.jump_false) << 24
                    | u64::from(instruction.value) << 32
            })
            .collect();
        Self { program, flags }
    }

    fn instructions(&self) -> Vec<Instruction> {
        self.program
            .iter()
            .map(|word| Instruction {
                code: *word as u16,
                jump_true: (word >> 16) as u8,
                jump_false: (word >> 24) as u8,
                value: (word >> 32) as u32,
            })
            .collect()
    }

    /// Installs the filter; legal with `CAP_SYS_ADMIN` or after `no_new_privs`.
    pub(crate) fn install(&self) -> Result<()> {
        sys::install_filter(&self.instructions(), self.flags)
            .host(|| "install the system call filter".into())
    }
}

/// The filter of an OCI configuration's `linux.seccomp`, whose form is part of Docker's.
pub(crate) fn of_profile(text: &str) -> Result<Filter> {
    let profile = profile::parse(text, CapabilitySet(0))?;
    Ok(Filter::new(&compile::compile(&profile)?, profile.flags))
}

/// The filter for these settings; `None` if there is to be none.
///
/// # Errors
/// `InvalidInput` if the user's profile is malformed, with the place.
pub(crate) fn filter(security: &Security, capabilities: CapabilitySet) -> Result<Option<Filter>> {
    if security.privileged {
        return Ok(None);
    }
    let profile = match &security.seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Default => default::profile(capabilities),
        Seccomp::Profile(text) => profile::parse(text, capabilities)?,
    };
    let program = compile::compile(&profile)?;
    Ok(Some(Filter::new(&program, profile.flags)))
}
