//! Reads a profile in Docker's JSON form.

use bulkhead_model::{Error, Result};
use serde::Deserialize;

use crate::capabilities::CapabilitySet;

use super::compile::{Action, Comparison, Condition, Profile, Rule};
use super::syscalls;

const ARCHITECTURE: &str = "amd64";
const OCI_ARCHITECTURE: &str = "SCMP_ARCH_X86_64";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileText {
    default_action: String,
    default_errno_ret: Option<u16>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchitectureText>>,
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchitectureText {
    architecture: String,
    #[serde(rename = "subArchitectures")]
    _sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleText {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<ArgumentText>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<FilterText>,
    excludes: Option<FilterText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArgumentText {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FilterText {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// # Errors
/// `InvalidInput` for anything that is not understood, except the name of a call that this
/// architecture does not have: such a rule has nothing to say here.
pub(super) fn parse(text: &str, capabilities: CapabilitySet) -> Result<Profile> {
    let profile: ProfileText = serde_json::from_str(text)
        .map_err(|error| Error::invalid("read the seccomp profile").with_source(error))?;
    let names_ours = match (&profile.architectures, &profile.arch_map) {
        (Some(names), _) => names.iter().any(|name| name == OCI_ARCHITECTURE),
        (None, Some(map)) => map
            .iter()
            .any(|entry| entry.architecture == OCI_ARCHITECTURE),
        (None, None) => true,
    };
    if !names_ours {
        return Err(Error::invalid(format!(
            "the seccomp profile is not for this architecture: add {OCI_ARCHITECTURE}"
        )));
    }
    let mut rules = Vec::new();
    for rule in &profile.syscalls {
        add(rule, capabilities, &mut rules)?;
    }
    Ok(Profile {
        default: action(&profile.default_action, profile.default_errno_ret)?,
        rules,
        flags: flags(profile.flags.as_deref().unwrap_or_default())?,
    })
}

fn add(rule: &RuleText, capabilities: CapabilitySet, rules: &mut Vec<Rule>) -> Result<()> {
    let action = action(&rule.action, rule.errno_ret)?;
    let arguments = rule.args.as_deref().unwrap_or_default();
    let conditions = arguments
        .iter()
        .map(condition)
        .collect::<Result<Vec<_>>>()?;
    let included = rule
        .includes
        .as_ref()
        .map_or(Ok(true), |filter| includes(filter, capabilities))?;
    let excluded = rule
        .excludes
        .as_ref()
        .is_some_and(|filter| excludes(filter, capabilities));
    if !included || excluded {
        return Ok(());
    }
    let names = match (&rule.name, &rule.names) {
        (Some(name), None) => std::slice::from_ref(name),
        (None, Some(names)) => names.as_slice(),
        _ => {
            return Err(Error::invalid(
                "the seccomp profile has a rule without exactly one of 'name' and 'names'",
            ));
        }
    };
    // Two conditions on one argument are alternatives in this format.
    let mut indices: Vec<u32> = conditions
        .iter()
        .map(|condition| condition.argument)
        .collect();
    indices.sort_unstable();
    let alternatives = indices.windows(2).any(|pair| pair[0] == pair[1]);
    for call in names.iter().filter_map(|name| syscalls::number(name)) {
        if alternatives {
            rules.extend(conditions.iter().map(|&condition| Rule {
                call,
                conditions: vec![condition],
                action,
            }));
        } else {
            rules.push(Rule {
                call,
                conditions: conditions.clone(),
                action,
            });
        }
    }
    Ok(())
}

fn action(name: &str, errno: Option<u16>) -> Result<Action> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::ALLOW,
        "SCMP_ACT_ERRNO" => Action::errno(errno.unwrap_or(libc::EPERM as u16)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => Action::KILL_PROCESS,
        "SCMP_ACT_TRAP" => Action::TRAP,
        "SCMP_ACT_TRACE" => Action::trace(errno.unwrap_or(libc::EPERM as u16)),
        "SCMP_ACT_LOG" => Action::LOG,
        other => {
            return Err(Error::invalid(format!(
                "the seccomp profile has the action '{other}', which is not supported"
            )));
        }
    })
}

fn condition(text: &ArgumentText) -> Result<Condition> {
    if text.index > 5 {
        return Err(Error::invalid(format!(
            "the seccomp profile names argument {}, and a system call has arguments 0 to 5",
            text.index
        )));
    }
    let (comparison, value) = match text.op.as_str() {
        "SCMP_CMP_NE" => (Comparison::NotEqual, text.value),
        "SCMP_CMP_LT" => (Comparison::Less, text.value),
        "SCMP_CMP_LE" => (Comparison::LessOrEqual, text.value),
        "SCMP_CMP_EQ" => (Comparison::Equal, text.value),
        "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, text.value),
        "SCMP_CMP_GT" => (Comparison::Greater, text.value),
        "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual { mask: text.value }, text.value_two),
        other => {
            return Err(Error::invalid(format!(
                "the seccomp profile has the comparison '{other}', which does not exist"
            )));
        }
    };
    Ok(Condition {
        argument: text.index,
        comparison,
        value,
    })
}

fn includes(filter: &FilterText, capabilities: CapabilitySet) -> Result<bool> {
    let arches = filter.arches.is_empty() || filter.arches.iter().any(|arch| arch == ARCHITECTURE);
    let caps = filter.caps.iter().all(|name| capabilities.contains(name));
    let kernel =
        match &filter.min_kernel {
            None => true,
            Some(minimum) => kernel_version(&rustix::system::uname().release().to_string_lossy())
                >= Some(kernel_version(minimum).ok_or_else(|| {
                    Error::invalid(format!(
                        "the seccomp profile has the kernel version '{minimum}': write it as 4.8"
                    ))
                })?),
        };
    Ok(arches && caps && kernel)
}

fn excludes(filter: &FilterText, capabilities: CapabilitySet) -> bool {
    filter.arches.iter().any(|arch| arch == ARCHITECTURE)
        || filter.caps.iter().any(|name| capabilities.contains(name))
}

fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn flags(names: &[String]) -> Result<u32> {
    names.iter().try_fold(0, |flags, name| match name.as_str() {
        // All threads at once: the process has one when the filter is installed.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(flags),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(flags | 1 << 1),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(flags | 1 << 2),
        other => Err(Error::invalid(format!(
            "the seccomp profile has the flag '{other}', which is not supported"
        ))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: CapabilitySet = CapabilitySet(0);

    #[test]
    fn a_profile_in_dockers_form_is_read() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {"name": "clone", "action": "SCMP_ACT_ALLOW", "comment": "", "excludes": {"caps": ["CAP_SYS_ADMIN"]},
                 "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["vhangup"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390"]}},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}
            ]}"#;
        let profile = parse(text, NONE).expect("profile");
        assert_eq!(profile.default, Action::errno(38));
        let calls: Vec<u32> = profile.rules.iter().map(|rule| rule.call).collect();
        let number = |name| syscalls::number(name).expect(name);
        assert_eq!(
            calls,
            [
                number("read"),
                number("clone"),
                number("ptrace"),
                number("personality"),
                number("personality")
            ]
        );
        let admin = parse(text, CapabilitySet(1 << 21)).expect("profile");
        assert!(admin.rules.iter().any(|rule| rule.call == number("mount")));
        assert!(!admin.rules.iter().any(|rule| rule.call == number("clone")));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (text, part) in [
            ("{", "line 1"),
            (r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#, "SCMP_ACT_MAYBE"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "sysclls": []}"#,
                "sysclls",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM"]}"#,
                "SCMP_ARCH_X86_64",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#,
                "SCMP_ACT_NOTIFY",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}"#,
                "'names'",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
                "argument 6",
            ),
        ] {
            let error = parse(text, NONE).expect_err(text);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
