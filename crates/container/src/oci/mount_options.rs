//! The options of a mount (config-linux.md and config.md, "Linux mount options").

use bulkhead_model::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::sys;

/// What a mount's options ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MountOptions {
    pub(super) bind: bool,
    pub(super) recursive: bool,
    /// Changes what is mounted there already.
    pub(super) remount: bool,
    /// A tmpfs starts with what it covers.
    pub(super) copy_up: bool,
    /// The ids are mapped, and whether those of all mounts below it too.
    pub(super) id_map: Option<bool>,
    /// An attribute of the mount itself is named, so that a bind mount takes none of its source's.
    pub(super) explicit: bool,
    /// `MOUNT_ATTR_*` of the mount itself.
    pub(super) set: u64,
    pub(super) clear: u64,
    /// And of all mounts below it.
    pub(super) recursive_set: u64,
    pub(super) recursive_clear: u64,
    /// `MS_*` and whether for all below too, in order.
    pub(super) propagation: Vec<(u64, bool)>,
    /// For the filesystem: flags, and names with values.
    pub(super) flags: Vec<String>,
    pub(super) data: Vec<(String, String)>,
}

enum Effect {
    Set(u64),
    Clear(u64),
    /// One of the access time settings, which exclude each other.
    AccessTime(u64),
}

const ATTRIBUTES: [(&str, Effect); 12] = [
    ("ro", Effect::Set(sys::MOUNT_ATTR_RDONLY)),
    ("rw", Effect::Clear(sys::MOUNT_ATTR_RDONLY)),
    ("nosuid", Effect::Set(sys::MOUNT_ATTR_NOSUID)),
    ("suid", Effect::Clear(sys::MOUNT_ATTR_NOSUID)),
    ("nodev", Effect::Set(sys::MOUNT_ATTR_NODEV)),
    ("dev", Effect::Clear(sys::MOUNT_ATTR_NODEV)),
    ("noexec", Effect::Set(sys::MOUNT_ATTR_NOEXEC)),
    ("exec", Effect::Clear(sys::MOUNT_ATTR_NOEXEC)),
    ("nosymfollow", Effect::Set(sys::MOUNT_ATTR_NOSYMFOLLOW)),
    ("symfollow", Effect::Clear(sys::MOUNT_ATTR_NOSYMFOLLOW)),
    ("defaults", Effect::Clear(0)),
    ("loud", Effect::Clear(0)),
];

/// Settings of the access time, as `MOUNT_ATTR_*`; for all mounts below with an `r` before.
const TIMES: [(&str, Effect); 8] = [
    ("noatime", Effect::AccessTime(sys::MOUNT_ATTR_NOATIME)),
    ("atime", Effect::AccessTime(0)),
    ("relatime", Effect::AccessTime(0)),
    (
        "norelatime",
        Effect::AccessTime(sys::MOUNT_ATTR_STRICTATIME),
    ),
    (
        "strictatime",
        Effect::AccessTime(sys::MOUNT_ATTR_STRICTATIME),
    ),
    ("nostrictatime", Effect::AccessTime(0)),
    ("nodiratime", Effect::Set(sys::MOUNT_ATTR_NODIRATIME)),
    ("diratime", Effect::Clear(sys::MOUNT_ATTR_NODIRATIME)),
];

/// `MS_*` by the names of propagations.
const PROPAGATIONS: [(&str, u64); 4] = [
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// All names that are understood, for `features`.
pub(super) fn known() -> Vec<String> {
    let mut names: Vec<String> = vec!["bind".into(), "rbind".into()];
    for (name, _) in ATTRIBUTES.iter().chain(&TIMES) {
        names.push((*name).into());
        if !matches!(*name, "defaults" | "loud") {
            names.push(format!("r{name}"));
        }
    }
    for (name, _) in PROPAGATIONS {
        names.push(name.into());
        names.push(format!("r{name}"));
    }
    names.extend(
        [
            "async",
            "dirsync",
            "idmap",
            "lazytime",
            "nolazytime",
            "remount",
            "ridmap",
            "silent",
            "sync",
            "tmpcopyup",
        ]
        .map(String::from),
    );
    names.sort();
    names
}

/// The propagation of this name, and whether for all below too.
pub(super) fn propagation(name: &str) -> Option<(u64, bool)> {
    let find = |name: &str| PROPAGATIONS.iter().find(|(known, _)| *known == name);
    match find(name) {
        Some((_, flag)) => Some((*flag, false)),
        None => find(name.strip_prefix('r')?).map(|(_, flag)| (*flag, true)),
    }
}

/// # Errors
/// Names the field and the option.
pub(super) fn parse(options: &[String], field: &str) -> Result<MountOptions> {
    let mut parsed = MountOptions::default();
    let mut times = AccessTimes::default();
    for option in options {
        let name = option.as_str();
        let attribute = |name: &str| ATTRIBUTES.iter().find(|(known, _)| *known == name);
        let recursive = |name: &str| {
            let name = name.strip_prefix('r')?;
            ATTRIBUTES
                .iter()
                .chain(&TIMES)
                .find(|(known, _)| *known == name)
        };
        match name {
            "bind" => parsed.bind = true,
            "rbind" => (parsed.bind, parsed.recursive) = (true, true),
            "remount" => parsed.remount = true,
            "tmpcopyup" => parsed.copy_up = true,
            "idmap" => parsed.id_map = Some(false),
            "ridmap" => parsed.id_map = Some(true),
            // What a new mount does anyway; `silent` concerns the kernel's log alone, and
            // mandatory locks are gone from the kernel (mount(2), MS_MANDLOCK).
            "async" | "nolazytime" | "nomand" | "noiversion" | "silent" => {}
            "mand" | "iversion" | "move" => {
                return Err(Error::unsupported(format!(
                    "{field}.options: '{name}' is nothing that a current kernel can do at a \
                     mount: leave it out"
                )));
            }
            _ => {
                if let Some((_, effect)) = attribute(name) {
                    parsed.explicit |= !matches!(effect, Effect::Clear(0));
                    apply(effect, &mut parsed.set, &mut parsed.clear);
                } else if times.take(name) {
                    parsed.explicit = true;
                } else if let Some(change) = propagation(name) {
                    parsed.propagation.push(change);
                } else if let Some((_, effect)) = recursive(name) {
                    apply(
                        effect,
                        &mut parsed.recursive_set,
                        &mut parsed.recursive_clear,
                    );
                } else if let Some((key, value)) = name.split_once('=') {
                    parsed.data.push((key.into(), value.into()));
                } else {
                    parsed.flags.push(name.into());
                }
            }
        }
    }
    times.apply(&mut parsed);
    Ok(parsed)
}

/// The access times of the mount itself, as mount(2) combines its flags: clearing one does
/// nothing to what the mount has, and setting any sets them all.
#[derive(Default)]
struct AccessTimes {
    no_time: bool,
    relative: bool,
    strict: bool,
    no_directories: bool,
}

impl AccessTimes {
    /// Whether the option is one of them.
    fn take(&mut self, name: &str) -> bool {
        let (flag, value) = match name {
            "noatime" => (&mut self.no_time, true),
            "atime" => (&mut self.no_time, false),
            "relatime" => (&mut self.relative, true),
            "norelatime" => (&mut self.relative, false),
            "strictatime" => (&mut self.strict, true),
            "nostrictatime" => (&mut self.strict, false),
            "nodiratime" => (&mut self.no_directories, true),
            "diratime" => (&mut self.no_directories, false),
            _ => return false,
        };
        *flag = value;
        true
    }

    fn apply(&self, options: &mut MountOptions) {
        if !(self.no_time || self.relative || self.strict || self.no_directories) {
            return;
        }
        options.clear |= sys::MOUNT_ATTR_ATIME | sys::MOUNT_ATTR_NODIRATIME;
        options.set |= match (self.strict, self.no_time) {
            (true, _) => sys::MOUNT_ATTR_STRICTATIME,
            (false, true) => sys::MOUNT_ATTR_NOATIME,
            (false, false) => 0,
        };
        if self.no_directories {
            options.set |= sys::MOUNT_ATTR_NODIRATIME;
        }
    }
}

fn apply(effect: &Effect, set: &mut u64, clear: &mut u64) {
    match effect {
        Effect::Set(bits) => {
            *set |= bits;
            *clear &= !bits;
        }
        Effect::Clear(bits) => {
            *clear |= bits;
            *set &= !bits;
        }
        Effect::AccessTime(bits) => {
            *set = *set & !sys::MOUNT_ATTR_ATIME | bits;
            *clear |= sys::MOUNT_ATTR_ATIME;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(|&option| option.into()).collect();
        parse(&options, "mounts[0]").expect("options")
    }

    #[test]
    fn the_last_of_two_opposites_decides() {
        assert_eq!(parsed(&["ro", "rw"]).set, 0);
        assert_eq!(parsed(&["rw", "ro"]).set, sys::MOUNT_ATTR_RDONLY);
        let times = parsed(&["noatime", "strictatime"]);
        assert_eq!(
            (times.set, times.clear),
            (
                sys::MOUNT_ATTR_STRICTATIME,
                sys::MOUNT_ATTR_ATIME | sys::MOUNT_ATTR_NODIRATIME
            )
        );
    }

    #[test]
    fn options_are_told_apart() {
        let options = parsed(&["rbind", "rro", "rslave", "size=64k", "newinstance"]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.recursive_set, sys::MOUNT_ATTR_RDONLY);
        assert_eq!(options.propagation, [(libc::MS_SLAVE, true)]);
        assert_eq!(options.data, [("size".into(), "64k".into())]);
        assert_eq!(options.flags, ["newinstance"]);
        let error = parse(&["mand".into()], "mounts[3]").expect_err("refused");
        assert!(
            error.to_string().contains("mounts[3].options: 'mand'"),
            "{error}"
        );
    }
}
