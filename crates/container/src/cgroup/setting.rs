//! Values for the files of a group, each with the field of the configuration that asks for it.

use std::fs;
use std::io;
use std::path::Path;

use bulkhead_model::{Error, Result};

use super::{Cgroup, files};

/// A value for a file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The field that asks for it, as errors name it.
    pub(crate) field: String,
    /// The controller whose hierarchy has the file, on v1.
    pub(crate) controller: &'static str,
    pub(crate) file: String,
    pub(crate) value: String,
    pub(crate) otherwise: Otherwise,
}

/// What there is to do where the kernel does not have a setting's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// The setting cannot be enforced.
    Fail,
    /// Without the file the kernel does what the value asks for.
    Nothing,
    /// Another file, with the value in its units.
    Write(String, String),
}

impl Setting {
    fn check(&self) -> Result<()> {
        if self.file.contains('/') {
            return Err(Error::invalid(format!(
                "{}: '{}' is no file name",
                self.field, self.file
            )));
        }
        Ok(())
    }
}

impl Cgroup {
    /// Writes settings in their order. One that the kernel refuses as not fitting to another
    /// (a period to a quota, a burst to a quota) is tried once more at the end.
    ///
    /// # Errors
    /// Each names the setting's field; `Unsupported` if its controller or file is not there.
    pub(crate) fn apply(&self, settings: &[Setting]) -> Result<()> {
        let rounded = match &self.unit {
            Some(unit) => Some(unit.set(settings)?),
            None => None,
        };
        let settings = rounded.as_deref().unwrap_or(settings);
        let mut again = Vec::new();
        for setting in settings {
            setting.check()?;
        }
        for setting in settings {
            match self.write(setting)? {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => again.push(setting),
                Err(error) => return Err(self.refused(setting, error)),
            }
        }
        for setting in again {
            if let Err(error) = self.write(setting)? {
                return Err(self.refused(setting, error));
            }
        }
        Ok(())
    }

    fn write(&self, setting: &Setting) -> Result<io::Result<()>> {
        let Setting {
            field, controller, ..
        } = setting;
        let directory = if self.is_v2() {
            self.unified()
        } else {
            self.v1(controller)
        };
        let Some(directory) = directory else {
            return Err(Error::unsupported(format!(
                "{field}: cannot set {controller} limit: container could not join or create \
                 cgroup: the controller '{controller}' is not mounted, or the user may not make a \
                 group in it"
            )));
        };
        let absent = |error: &io::Error| {
            matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::EACCES | libc::EPERM)
            ) && !directory.join(&setting.file).exists()
        };
        let result = files::try_write(&directory.join(&setting.file), &setting.value);
        match (&result, &setting.otherwise) {
            (Err(error), Otherwise::Nothing) if absent(error) => Ok(Ok(())),
            (Err(error), Otherwise::Write(file, value)) if absent(error) => {
                let result = files::try_write(&directory.join(file), value);
                if result.is_err() && !directory.join(file).exists() {
                    return Err(no_file(self, setting, directory));
                }
                Ok(result)
            }
            (Err(error), Otherwise::Fail) if absent(error) => {
                Err(no_file(self, setting, directory))
            }
            _ => Ok(result),
        }
    }

    /// The error of a value that the kernel does not take.
    fn refused(&self, setting: &Setting, error: io::Error) -> Error {
        let Setting {
            field, file, value, ..
        } = setting;
        let busy = error.raw_os_error() == Some(libc::EBUSY);
        let text = if busy && file == "memory.limit_in_bytes" {
            let read = |file| self.value("memory", file).unwrap_or_default();
            format!(
                "{field}: unable to set memory limit to {value} (current usage: {}, peak usage: {})",
                read("memory.usage_in_bytes"),
                read("memory.max_usage_in_bytes")
            )
        } else {
            format!("{field}: write '{}' to {file}", value.trim_end())
        };
        Error::host(text).with_source(error)
    }
}

/// The error of a file that is not there.
fn no_file(group: &Cgroup, setting: &Setting, directory: &Path) -> Error {
    let Setting {
        field,
        controller,
        file,
        ..
    } = setting;
    if let ("unified", Some((controller, _))) = (*controller, file.split_once('.')) {
        let available =
            fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
        if controller != "cgroup" && !available.split_whitespace().any(|name| name == controller) {
            return Error::unsupported(format!(
                "{field}: unified resource \"{file}\" can't be set: controller \"{controller}\" \
                 not available"
            ));
        }
    }
    let place = if group.is_v2() { "cgroup" } else { *controller };
    Error::unsupported(format!(
        "{field}: this host has no {file} in the cgroup controller '{place}': enable it, or leave \
         the field out"
    ))
}
