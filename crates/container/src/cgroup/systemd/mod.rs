//! The systemd driver: a container's group is that of a transient scope which systemd makes
//! (`--systemd-cgroup`; systemd's `docs/CONTROL_GROUP_INTERFACE.md`). The limits are told to
//! systemd as properties and written to the files besides.
//!
//! The bus is spoken by code of our own: a call and an answer are a few hundred bytes, and a
//! library with threads of its own would cost more memory than the runtime has.

mod annotation;
mod bus;
mod message;
mod properties;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::failure::Context;
use crate::sys;

use super::{DeviceRule, Setting, v1_devices};
use bus::Bus;
use message::{Value, Writer};

/// A unit of systemd, by which a group is made and removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unit {
    slice: String,
    name: String,
    /// Of the user's manager, not of the system's.
    user: bool,
    /// This process has started it, with all that it is to know.
    #[serde(skip)]
    told: bool,
}

impl Unit {
    /// The unit that `linux.cgroupsPath` names as `SLICE:PREFIX:NAME`; without it one of the
    /// container's own.
    ///
    /// # Errors
    /// `Unsupported` where systemd does not run.
    pub(crate) fn new(path: Option<&str>, id: &str, user: bool) -> Result<Self> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(Error::unsupported(
                "--systemd-cgroup: systemd not running on this host, cannot use systemd cgroups \
                 manager: leave the flag out, and use cgroupfs as the cgroup driver",
            ));
        }
        let default = if user { "user.slice" } else { "system.slice" };
        let (slice, prefix, name) = match path {
            None => (default, "bulkhead", id),
            Some(path) => match path.split(':').collect::<Vec<_>>()[..] {
                ["", prefix, name] => (default, prefix, name),
                [slice, prefix, name] => (slice, prefix, name),
                _ => {
                    return Err(Error::invalid(format!(
                        "linux.cgroupsPath: expected cgroupsPath to be of format \
                         \"slice:prefix:name\" for systemd cgroups, got \"{path}\" instead"
                    )));
                }
            },
        };
        if name.ends_with(".slice") || name.contains('/') || prefix.contains('/') {
            return Err(Error::invalid(format!(
                "linux.cgroupsPath: '{name}' is no name of a scope: a slice holds no processes"
            )));
        }
        let unit = Self {
            slice: slice.to_owned(),
            name: format!("{prefix}-{name}.scope"),
            user,
            told: false,
        };
        expand(&unit.slice)?;
        Ok(unit)
    }

    pub(super) fn is_of_user(&self) -> bool {
        self.user
    }

    /// The group, from the root of a hierarchy.
    pub(super) fn group(&self) -> Result<PathBuf> {
        let below = PathBuf::from(expand(&self.slice)?).join(&self.name);
        if !self.user {
            return Ok(Path::new("/").join(below));
        }
        let manager = Bus::connect(true)?.manager_text("ControlGroup")?;
        Ok(Path::new(&manager).join(below))
    }

    /// Starts the scope with a process in it that does nothing, as systemd wants one.
    /// It has its limits and device policy from the first, so that none of them is a drop-in.
    pub(super) fn start(
        &mut self,
        settings: &[Setting],
        devices: &[DeviceRule],
        annotations: &BTreeMap<String, String>,
    ) -> Result<Placeholder> {
        let mut own = properties::of_settings(settings)?.0;
        own.extend(device_properties(devices)?);
        own.extend(annotation::properties(annotations)?);
        let mut bus = Bus::connect(self.user)?;
        let placeholder = Placeholder::new()?;
        let text = |text: &str| Value::Text(text.into());
        let mut properties = vec![
            (
                "Description".to_owned(),
                Value::Text(format!("container {}", self.name)),
            ),
            ("Slice".to_owned(), text(&self.slice)),
            ("Delegate".to_owned(), Value::Bool(true)),
            ("PIDs".to_owned(), Value::Numbers(vec![placeholder.0])),
            ("DefaultDependencies".to_owned(), Value::Bool(false)),
        ];
        for accounting in [
            "MemoryAccounting",
            "CPUAccounting",
            "IOAccounting",
            "TasksAccounting",
        ] {
            properties.push((accounting.to_owned(), Value::Bool(true)));
        }
        properties.extend(own);
        let start = |bus: &mut Bus| {
            let mut body = Writer::default();
            body.text(&self.name);
            body.text("replace");
            body.properties(&properties);
            // No auxiliary units.
            body.array(8, |_| {});
            bus.job("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        };
        let result = match start(&mut bus) {
            Err(refusal) if refusal.name == "org.freedesktop.systemd1.UnitExists" => {
                // It may be one that has failed and was left.
                self.reset(&mut bus);
                start(&mut bus)
            }
            result => result,
        };
        let result = result.map_err(|refusal| {
            Error::host(format!("unable to start unit \"{}\"", self.name))
                .with_source(Error::from(refusal))
        })?;
        if result != "done" {
            self.reset(&mut bus);
            return Err(Error::host(format!(
                "unable to start unit \"{}\": the job ended with '{result}': see its journal",
                self.name
            )));
        }
        self.told = true;
        Ok(placeholder)
    }

    /// Tells systemd of the limits, and gives them as systemd has rounded them.
    pub(super) fn set(&self, settings: &[Setting]) -> Result<Vec<Setting>> {
        let (properties, settings) = properties::of_settings(settings)?;
        if !properties.is_empty() && !self.told {
            Bus::connect(self.user)?
                .set_properties(&self.name, &properties)
                .host_unit(&self.name)?;
        }
        Ok(settings)
    }

    /// Tells systemd of the device policy, which it would otherwise set to its own.
    pub(super) fn set_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        if self.told {
            return Ok(());
        }
        Bus::connect(self.user)?
            .set_properties(&self.name, &device_properties(rules)?)
            .host_unit(&self.name)
    }

    /// Stops the scope, if it is still there, and has systemd forget that it failed.
    pub(super) fn stop(&self) -> Result<()> {
        let mut bus = Bus::connect(self.user)?;
        let mut body = Writer::default();
        body.text(&self.name);
        body.text("replace");
        match bus.job("StopUnit", "ss", body) {
            Err(refusal) if refusal.name == "org.freedesktop.systemd1.NoSuchUnit" => {}
            result => {
                result?;
            }
        }
        self.reset(&mut bus);
        Ok(())
    }

    /// A unit that has not failed needs none, and one that is gone has no state.
    fn reset(&self, bus: &mut Bus) {
        let mut body = Writer::default();
        body.text(&self.name);
        let _ = bus.manager("ResetFailedUnit", "s", body);
    }
}

fn device_properties(rules: &[DeviceRule]) -> Result<[message::Property; 3]> {
    let (policy, allowed) = match v1_devices::allowed(rules)? {
        // systemd knows no exceptions from "everything".
        None => ("auto", Vec::new()),
        Some(allowed) => ("strict", allowed),
    };
    // The empty list takes away what was there; with the policy before it systemd believes that
    // the unit's files have changed (its issue 35710).
    Ok([
        ("DeviceAllow".to_owned(), Value::Pairs(Vec::new())),
        ("DevicePolicy".to_owned(), Value::Text(policy.into())),
        ("DeviceAllow".to_owned(), Value::Pairs(allowed)),
    ])
}

trait OfUnit<T> {
    fn host_unit(self, name: &str) -> Result<T>;
}

impl<T> OfUnit<T> for Result<T> {
    fn host_unit(self, name: &str) -> Result<T> {
        self.map_err(|error| {
            Error::host(format!("unable to set properties of unit \"{name}\"")).with_source(error)
        })
    }
}

/// Slices are in slices by their names: `a-b.slice` is `a.slice/a-b.slice`.
fn expand(slice: &str) -> Result<String> {
    let invalid = || Error::invalid(format!("linux.cgroupsPath: invalid slice name: {slice}"));
    let name = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if name == "-" {
        return Ok(String::new());
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() || part.contains('/') {
            return Err(invalid());
        }
        prefix += part;
        path += &format!("{prefix}.slice/");
        prefix.push('-');
    }
    path.pop();
    Ok(path)
}

/// A process that holds a place in a scope until the container's own is there; ends with the
/// value.
#[derive(Debug)]
pub(crate) struct Placeholder(u32);

impl Placeholder {
    fn new() -> Result<Self> {
        let runtime = rustix::process::getpid();
        let cloned = sys::clone_process(0).host(|| "make a process for the scope".into())?;
        if let Some(pid) = cloned {
            return Ok(Self(pid));
        }
        let bound = sys::set_parent_death_signal(libc::SIGKILL);
        if bound.is_err() || rustix::process::getppid() != Some(runtime) {
            sys::exit_now(1);
        }
        loop {
            std::thread::park();
        }
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        let _ = sys::kill(self.0 as i32, libc::SIGKILL);
        let _ = sys::wait_process(self.0 as i32, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_in_slices() {
        for (slice, path) in [
            ("system.slice", Some("system.slice")),
            ("a-b-c.slice", Some("a.slice/a-b.slice/a-b-c.slice")),
            ("-.slice", Some("")),
            ("a--b.slice", None),
            ("-a.slice", None),
            ("a/b.slice", None),
            (".slice", None),
            ("a.scope", None),
        ] {
            assert_eq!(expand(slice).ok().as_deref(), path, "{slice}");
        }
    }
}
