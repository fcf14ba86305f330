//! Reads a profile in Docker's JSON form.

use bulkhead_model::{Error, Result};
use serde::Deserialize;

use crate::capabilities::CapabilitySet;

use super::rule::{Action, Architecture, Profile, Rule};
use super::words::{self, ArgumentText};

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
    sub_architectures: Option<Vec<String>>,
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
    let mut rules = Vec::new();
    for rule in &profile.syscalls {
        add(rule, capabilities, &mut rules)?;
    }
    let default = within(words::action(
        &profile.default_action,
        profile.default_errno_ret,
    ))?;
    let notifies = |action| action == Action::NOTIFY;
    if notifies(default) || rules.iter().any(|rule| notifies(rule.action)) {
        return Err(Error::invalid(
            "the seccomp profile has the action SCMP_ACT_NOTIFY: nobody would answer it",
        ));
    }
    Ok(Profile {
        default,
        others: others(&profile)?,
        rules,
        flags: within(words::flags(profile.flags.as_deref().unwrap_or_default()))?,
    })
}

/// Those of `archMap` are for the architecture that they stand beside.
fn others(profile: &ProfileText) -> Result<Vec<Architecture>> {
    if let Some(names) = &profile.architectures {
        return within(words::others(names));
    }
    let map = profile.arch_map.as_deref().unwrap_or_default();
    let ours = map
        .iter()
        .find(|entry| entry.architecture == OCI_ARCHITECTURE);
    match ours.and_then(|entry| entry.sub_architectures.as_deref()) {
        Some(names) => within(words::others(names)),
        None => Ok(Vec::new()),
    }
}

fn within<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| Error::new(error.kind(), "the seccomp profile").with_source(error))
}

fn add(rule: &RuleText, capabilities: CapabilitySet, rules: &mut Vec<Rule>) -> Result<()> {
    let action = within(words::action(&rule.action, rule.errno_ret))?;
    let arguments = rule.args.as_deref().unwrap_or_default();
    let conditions = arguments
        .iter()
        .map(|argument| within(words::condition(argument)))
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
    rules.extend(words::rules(names, conditions, action));
    Ok(())
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
        assert_eq!(profile.others, [Architecture::X86]);
        let first = |rule: &Rule| rule.names[0].to_string();
        let calls: Vec<String> = profile.rules.iter().map(first).collect();
        assert_eq!(
            calls,
            ["read", "clone", "ptrace", "personality", "personality"]
        );
        let admin = parse(text, CapabilitySet(1 << 21)).expect("profile");
        assert!(admin.rules.iter().any(|rule| rule.names[0] == "mount"));
        assert!(!admin.rules.iter().any(|rule| rule.names[0] == "clone"));
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
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}"#,
                "SCMP_ARCH_VAX",
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
