//! System call filters: Docker's default profile and profiles in Docker's JSON form, compiled to
//! classic BPF by [`compile`].
//!
//! Invariant: a filter that cannot be made or installed is an error, never a warning. Programs
//! of an architecture that a profile does not name are killed: their calls have other numbers.

mod check;
mod compile;
mod default;
#[cfg(test)]
mod emulator;
mod oci;
mod profile;
mod rule;
mod syscalls;
mod words;

use std::os::fd::OwnedFd;

use bulkhead_model::{Result, Seccomp, Security};
use serde::{Deserialize, Serialize};

use crate::capabilities::CapabilitySet;
use crate::failure::Context;
use crate::sys::{self, Instruction};

pub(crate) use oci::{Listener, OciProfile};
pub(crate) use words::{ACTIONS, ARCHITECTURES, FLAGS, OPERATORS};

/// A compiled filter: the instructions as 64-bit numbers, and `SECCOMP_FILTER_FLAG_*`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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

    pub(crate) fn instructions(&self) -> Vec<Instruction> {
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

    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    /// Installs the filter; legal with `CAP_SYS_ADMIN` or after `no_new_privs`. Where a rule asks
    /// for a listener, gives the descriptor that it listens on.
    pub(crate) fn install(&self) -> Result<Option<OwnedFd>> {
        let installed = sys::install_filter(&self.instructions(), self.flags)
            .host(|| "install the system call filter".into())?;
        let listens = self.flags & words::NEW_LISTENER != 0;
        Ok(listens.then(|| sys::returned(installed)))
    }
}

/// Whether the kernel knows a flag.
pub(crate) fn supports(flag: u32) -> bool {
    let beside = match flag {
        words::WAIT_KILLABLE_RECV => words::NEW_LISTENER,
        _ => 0,
    };
    sys::knows_filter_flags(flag | beside)
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
