//! The device policy of cgroup v1: a default with exceptions (kernel:
//! `admin-guide/cgroup-v1/devices.rst`).
//!
//! Invariant: a rule that the kernel would take without effect is an error, and a change of the
//! policy never denies in between what is allowed before and after it.

use std::collections::BTreeMap;
use std::path::Path;

use bulkhead_model::{Error, Result};

use super::{DeviceRule, files};

/// The devices of one exception: their kind, and their numbers (`None` is every).
type Devices = (char, Option<u32>, Option<u32>);

/// What the rules come to: bits of `rwm` for each exception from the default.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Policy {
    allows: bool,
    exceptions: BTreeMap<Devices, u8>,
}

impl Policy {
    fn of_rules(rules: &[DeviceRule]) -> Result<Self> {
        let mut policy = Self::default();
        for rule in rules {
            policy.apply(rule)?;
        }
        Ok(policy)
    }

    /// Reads `devices.list`.
    fn of_list(list: &str) -> Self {
        let mut policy = Self::default();
        for line in list.lines() {
            let mut fields = line.split([' ', ':']);
            let kind = fields.next().and_then(|kind| kind.chars().next());
            let mut number = || fields.next().map(|number| number.parse().ok());
            let (Some(kind), Some(major), Some(minor)) = (kind, number(), number()) else {
                continue;
            };
            if kind == 'a' {
                policy.allows = true;
                policy.exceptions.clear();
            } else {
                let access = bits(fields.next().unwrap_or_default());
                policy.exceptions.insert((kind, major, minor), access);
            }
        }
        policy
    }

    fn apply(&mut self, rule: &DeviceRule) -> Result<()> {
        if rule.kind == 'a' {
            self.allows = rule.allow;
            self.exceptions.clear();
            return Ok(());
        }
        let (devices, access) = ((rule.kind, rule.major, rule.minor), bits(&rule.access));
        if rule.allow != self.allows {
            *self.exceptions.entry(devices).or_default() |= access;
            return Ok(());
        }
        let covers = |all: Option<u32>, one: Option<u32>| all.is_none() || all == one;
        let broader = self.exceptions.iter().find(|(exception, excepted)| {
            **exception != devices
                && exception.0 == rule.kind
                && covers(exception.1, rule.major)
                && covers(exception.2, rule.minor)
                && *excepted & access != 0
        });
        if let Some((exception, excepted)) = broader {
            return Err(Error::unsupported(format!(
                "linux.resources.devices: cgroup v1 cannot take '{}' out of '{}': list the \
                 devices one by one",
                text(devices, access),
                text(*exception, *excepted)
            )));
        }
        if let Some(left) = self.exceptions.get_mut(&devices) {
            *left &= !access;
            if *left == 0 {
                self.exceptions.remove(&devices);
            }
        }
        Ok(())
    }
}

/// Puts the policy that the rules come to into force.
pub(super) fn set_rules(path: &Path, rules: &[DeviceRule]) -> Result<()> {
    let wanted = Policy::of_rules(rules)?;
    let mut current = Policy::of_list(&files::read(&path.join("devices.list"))?);
    let (allow, deny) = (path.join("devices.allow"), path.join("devices.deny"));
    if wanted.allows {
        files::write(&allow, "a")?;
        for (devices, access) in &wanted.exceptions {
            files::write(&deny, &text(*devices, *access))?;
        }
        return Ok(());
    }
    if current.allows {
        files::write(&deny, "a")?;
        current = Policy::default();
    }
    for (devices, access) in &wanted.exceptions {
        let missing = access & !current.exceptions.get(devices).unwrap_or(&0);
        if missing != 0 {
            files::write(&allow, &text(*devices, missing))?;
        }
    }
    for (devices, access) in &current.exceptions {
        let excess = access & !wanted.exceptions.get(devices).unwrap_or(&0);
        if excess != 0 {
            files::write(&deny, &text(*devices, excess))?;
        }
    }
    Ok(())
}

/// What is allowed, as systemd has it: specifiers of devices with letters of `rwm`; nothing if all
/// is but exceptions.
pub(super) fn allowed(rules: &[DeviceRule]) -> Result<Option<Vec<(String, String)>>> {
    let policy = Policy::of_rules(rules)?;
    if policy.allows {
        return Ok(None);
    }
    let specifier = |(kind, major, minor): Devices| {
        let class = if kind == 'b' { "block" } else { "char" };
        match (major, minor) {
            (Some(major), Some(minor)) => Some(format!("/dev/{class}/{major}:{minor}")),
            (Some(major), None) => Some(format!("{class}-{major}")),
            (None, None) => Some(format!("{class}-*")),
            // It has no form of this; the kernel is told of it besides.
            (None, Some(_)) => None,
        }
    };
    let entries = policy.exceptions.iter();
    let entries =
        entries.filter_map(|(devices, access)| Some((specifier(*devices)?, letters(*access))));
    Ok(Some(entries.collect()))
}

fn bits(access: &str) -> u8 {
    let bit = |letter| match letter {
        'r' => 1,
        'w' => 2,
        'm' => 4,
        _ => 0,
    };
    access.chars().fold(0, |bits, letter| bits | bit(letter))
}

/// As the kernel's files have it.
fn text((kind, major, minor): Devices, access: u8) -> String {
    let number = |number: Option<u32>| number.map_or("*".into(), |number| number.to_string());
    format!(
        "{kind} {}:{} {}",
        number(major),
        number(minor),
        letters(access)
    )
}

fn letters(access: u8) -> String {
    let letters = ['r', 'w', 'm'].into_iter().enumerate();
    letters
        .filter(|(index, _)| access & 1 << index != 0)
        .map(|(_, letter)| letter)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: char, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule {
            allow,
            kind,
            major: (kind != 'a').then_some(1),
            minor,
            access: access.into(),
        }
    }

    #[test]
    fn rules_come_to_exceptions() {
        let rules = [
            rule(false, 'a', None, "rwm"),
            rule(true, 'c', Some(3), "rw"),
            rule(true, 'c', Some(3), "m"),
            rule(true, 'c', Some(5), "rwm"),
            rule(false, 'c', Some(5), "w"),
            rule(false, 'c', Some(11), "rw"),
        ];
        let policy = Policy::of_rules(&rules).expect("policy");
        assert_eq!(policy, Policy::of_list("c 1:3 rwm\nc 1:5 rm\n"));
        let everything = Policy::of_list("a *:* rwm\n");
        assert!(everything.allows && everything.exceptions.is_empty());
    }

    #[test]
    fn systemd_has_specifiers() {
        let rules = [rule(true, 'c', Some(3), "rwm"), rule(true, 'b', None, "r")];
        let allowed = allowed(&rules).expect("rules").expect("a list");
        let pair = |(first, second): (&str, &str)| (first.to_owned(), second.to_owned());
        assert_eq!(
            allowed,
            [("block-1", "r"), ("/dev/char/1:3", "rwm")].map(pair)
        );
    }

    #[test]
    fn a_rule_without_effect_is_an_error() {
        let rules = [rule(true, 'c', None, "rw"), rule(false, 'c', Some(11), "w")];
        let error = Policy::of_rules(&rules).expect_err("hole").to_string();
        assert!(error.contains("'c 1:11 w' out of 'c 1:* rw'"), "{error}");
    }

    #[test]
    fn a_change_writes_what_differs() {
        let directory = tempfile::tempdir().expect("directory");
        let file = |name: &str| directory.path().join(name);
        let changed = |list: &str, rules: &[DeviceRule]| {
            for name in ["devices.allow", "devices.deny"] {
                std::fs::write(file(name), "").expect("file");
            }
            std::fs::write(file("devices.list"), list).expect("list");
            set_rules(directory.path(), rules).expect("rules");
            ["devices.allow", "devices.deny"]
                .map(|name| std::fs::read_to_string(file(name)).expect("read"))
        };
        let rules = [
            rule(false, 'a', None, "rwm"),
            rule(true, 'c', Some(3), "rw"),
        ];
        assert_eq!(changed("c 1:3 rw\n", &rules), ["", ""]);
        assert_eq!(changed("c 1:3 rwm\n", &rules), ["", "c 1:3 m"]);
        assert_eq!(
            changed("c 1:3 r\nb 8:0 m\n", &rules),
            ["c 1:3 w", "b 8:0 m"]
        );
        assert_eq!(changed("a *:* rwm\n", &rules), ["c 1:3 rw", "a"]);
        let all = [rule(true, 'a', None, "rwm")];
        assert_eq!(changed("", &all), ["a", ""]);
    }
}
