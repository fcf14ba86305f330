//! The device policy (config-linux.md, "Allowed Device list").

use bulkhead_model::{Error, Result};

use crate::cgroup::DeviceRule;

use super::super::config;

/// What every container may use whatever its rules say, as runc has it: TYPE, major, minor.
const ALWAYS: [(char, Option<u32>, Option<u32>, &str); 11] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(1), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

/// The device policy: nothing, then the configuration's rules, then what every container has
/// (config-linux.md, "Allowed Device list").
pub(in crate::oci) fn device_rules(rules: &[config::DeviceRule]) -> Result<Vec<DeviceRule>> {
    let mut policy = vec![DeviceRule {
        allow: false,
        kind: 'a',
        major: None,
        minor: None,
        access: "rwm".into(),
    }];
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("linux.resources.devices[{index}]");
        let kind = match rule.kind.as_deref() {
            None | Some("" | "a") => 'a',
            Some("b") => 'b',
            Some("c" | "u") => 'c',
            Some(other) => {
                return Err(Error::invalid(format!(
                    "{field}.type: '{other}' is none of a, b and c"
                )));
            }
        };
        let access = match rule.access.as_deref() {
            None | Some("") => "rwm".to_owned(),
            Some(access) => access.to_owned(),
        };
        // The letter `a` is in configurations that runc takes, where it says nothing.
        let access = access.replace('a', "");
        if access.is_empty() || access.chars().any(|letter| !"rwm".contains(letter)) {
            return Err(Error::invalid(format!(
                "{field}.access: '{access}' has other than r, w and m"
            )));
        }
        let number = |name: &str, number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => u32::try_from(number).map(Some).map_err(|_| {
                Error::invalid(format!("{field}.{name}: {number} is no device number"))
            }),
        };
        let (major, minor) = (number("major", rule.major)?, number("minor", rule.minor)?);
        let kinds: &[char] =
            if kind == 'a' && (major.is_some() || minor.is_some() || access != "rwm") {
                // v1 takes `a` for everything alone.
                &['b', 'c']
            } else {
                &[kind]
            };
        for &kind in kinds {
            policy.push(DeviceRule {
                allow: rule.allow,
                kind,
                major,
                minor,
                access: access.clone(),
            });
        }
    }
    // After "everything", v1 refuses to be told of single devices.
    let everything = policy
        .last()
        .is_some_and(|rule| rule.allow && rule.kind == 'a');
    if !everything {
        policy.extend(
            ALWAYS
                .iter()
                .map(|&(kind, major, minor, access)| DeviceRule {
                    allow: true,
                    kind,
                    major,
                    minor,
                    access: access.into(),
                }),
        );
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_policy_begins_with_nothing() {
        let rules = |text| {
            let resources: config::Resources = config::parse(text, "resources").expect("resources");
            device_rules(&resources.devices)
        };
        let none = rules("{}").expect("rules");
        assert!(!none[0].allow && none[0].kind == 'a' && none.len() == 12);
        let all = rules(r#"{"devices": [{"allow": true, "access": "rwm"}]}"#).expect("rules");
        assert_eq!(all.len(), 2);
        let error = rules(r#"{"devices": [{"allow": true, "access": "rx"}]}"#).expect_err("access");
        assert!(
            error
                .to_string()
                .contains("linux.resources.devices[0].access"),
            "{error}"
        );
    }
}
