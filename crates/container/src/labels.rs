//! The labels under which a program runs: an AppArmor profile, an SELinux context (config.md,
//! "Linux Process": `apparmorProfile` and `selinuxLabel`).
//!
//! Invariant: they are written through a descriptor of the host's procfs, taken before the
//! container's mounts are seen, so that no decoy in the container swallows them (CVE-2019-16884,
//! CVE-2019-19921). A label that cannot be set is an error.

use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;

use bulkhead_model::{Error, Result};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::failure::Context;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Labels {
    pub(crate) apparmor: Option<String>,
    pub(crate) selinux: Option<String>,
}

impl Labels {
    /// The handle that [`Self::apply`] needs, for a child too; legal while `/proc` is the host's.
    pub(crate) fn open_procfs(&self) -> Result<Option<OwnedFd>> {
        if self.apparmor.is_none() && self.selinux.is_none() {
            return Ok(None);
        }
        let doing = || "open the host's /proc".to_owned();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).host(doing)?;
        let kind = rustix::fs::fstatfs(&proc).host(doing)?.f_type;
        if kind != rustix::fs::PROC_SUPER_MAGIC {
            return Err(Error::host(format!("{}: it is no procfs", doing())));
        }
        Ok(Some(proc))
    }

    /// Sets what the calling process's next programs run under.
    pub(crate) fn apply(&self, procfs: Option<&OwnedFd>) -> Result<()> {
        let Some(procfs) = procfs else {
            return Ok(());
        };
        if let Some(profile) = &self.apparmor {
            // Kernels before 5.8 have AppArmor's files among the others.
            let places = ["self/attr/apparmor/exec", "self/attr/exec"];
            write(procfs, &places, &format!("exec {profile}")).host(|| {
                format!("process.apparmorProfile: set the profile '{profile}': is it loaded?")
            })?;
        }
        if let Some(label) = &self.selinux {
            // The session keyring is the process's as well.
            for place in ["self/attr/exec", "self/attr/keycreate"] {
                write(procfs, &[place], label)
                    .host(|| format!("process.selinuxLabel: set the label '{label}'"))?;
            }
        }
        Ok(())
    }
}

fn write(procfs: &OwnedFd, places: &[&str], text: &str) -> std::io::Result<()> {
    let mut result = Err(ErrorKind::NotFound.into());
    for place in places {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        result = rustix::fs::openat(procfs, *place, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .and_then(|file| std::fs::File::from(file).write_all(text.as_bytes()));
        if !matches!(&result, Err(error) if error.kind() == ErrorKind::NotFound) {
            break;
        }
    }
    result
}

pub(crate) fn apparmor_is_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.first() == Some(&b'Y'))
        && std::path::Path::new("/sys/kernel/security/apparmor").exists()
}

pub(crate) fn selinux_is_enabled() -> bool {
    const SELINUX_MAGIC: u32 = 0xf97c_ff8c;
    rustix::fs::statfs("/sys/fs/selinux").is_ok_and(|status| status.f_type as u32 == SELINUX_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_cannot_be_set_is_an_error() {
        let none = Labels::default();
        assert!(none.open_procfs().expect("nothing to open").is_none());
        for (apparmor, selinux, part) in [
            (
                Some("bulkhead-no-such-profile"),
                None,
                "process.apparmorProfile",
            ),
            (None, Some("bulkhead_no_such_label"), "process.selinuxLabel"),
        ] {
            let labels = Labels {
                apparmor: apparmor.map(String::from),
                selinux: selinux.map(String::from),
            };
            let procfs = labels.open_procfs().expect("procfs");
            assert!(procfs.is_some());
            let error = labels.apply(procfs.as_ref()).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
