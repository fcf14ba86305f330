//! Reads `linux.seccomp` of an OCI configuration (config-linux.md, "Seccomp").

use bulkhead_model::{Error, Result};
use serde::Deserialize;

use super::rule::{Action, Profile, Rule};
use super::words::{self, ArgumentText};
use super::{Filter, compile};

/// As it is written. Unknown properties are ignored, as the specification asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OciProfile {
    default_action: Option<String>,
    default_errno_ret: Option<u16>,
    architectures: Option<Vec<String>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<RuleText>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleText {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<ArgumentText>>,
}

/// Who is to answer the calls of `SCMP_ACT_NOTIFY`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listener<'a> {
    pub(crate) path: &'a str,
    pub(crate) metadata: &'a str,
}

impl OciProfile {
    /// The compiled filter; `None` if the profile says nothing at all.
    ///
    /// # Errors
    /// `InvalidInput` with the field for what cannot be enforced.
    pub(crate) fn filter(&self) -> Result<Option<Filter>> {
        let rules = self.syscalls.as_deref().unwrap_or_default();
        let default = match self.default_action.as_deref() {
            None | Some("") if rules.is_empty() => return Ok(None),
            None | Some("") => {
                return Err(Error::invalid("linux.seccomp.defaultAction: it is missing"));
            }
            Some(name) => within("defaultAction", words::action(name, self.default_errno_ret))?,
        };
        if default == Action::NOTIFY {
            return Err(Error::invalid(
                "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action",
            ));
        }
        let mut profile = Profile {
            default,
            others: within(
                "architectures",
                words::others(self.architectures.as_deref().unwrap_or_default()),
            )?,
            rules: Vec::new(),
            // What runc takes where nothing is said.
            flags: match &self.flags {
                None => words::SPEC_ALLOW,
                Some(names) => within("flags", words::flags(names))?,
            },
        };
        for (index, rule) in rules.iter().enumerate() {
            rule.add(index, &mut profile.rules)?;
        }
        self.check_listener(&mut profile)?;
        within("syscalls", compile::compile(&profile))
            .map(|program| Some(Filter::new(&program, profile.flags)))
    }

    fn check_listener(&self, profile: &mut Profile) -> Result<()> {
        let path = self.listener_path.as_deref().unwrap_or_default();
        let metadata = self.listener_metadata.as_deref().unwrap_or_default();
        if path.is_empty() && !metadata.is_empty() {
            return Err(Error::invalid(
                "linux.seccomp.listenerMetadata: it needs a listenerPath",
            ));
        }
        if self.listener().is_none() {
            if profile.flags & words::WAIT_KILLABLE_RECV != 0 {
                return Err(Error::invalid(
                    "linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule \
                     with SCMP_ACT_NOTIFY",
                ));
            }
            return Ok(());
        }
        if path.is_empty() {
            return Err(Error::invalid(
                "linux.seccomp.listenerPath: it is needed for SCMP_ACT_NOTIFY",
            ));
        }
        profile.flags |= words::NEW_LISTENER;
        Ok(())
    }

    pub(crate) fn listener(&self) -> Option<Listener<'_>> {
        let rules = self.syscalls.as_deref().unwrap_or_default();
        rules
            .iter()
            .any(|rule| rule.action == "SCMP_ACT_NOTIFY")
            .then(|| Listener {
                path: self.listener_path.as_deref().unwrap_or_default(),
                metadata: self.listener_metadata.as_deref().unwrap_or_default(),
            })
    }
}

impl RuleText {
    fn add(&self, index: usize, rules: &mut Vec<Rule>) -> Result<()> {
        let field = |name: &str| format!("syscalls[{index}].{name}");
        if self.names.is_empty() || self.names.iter().any(String::is_empty) {
            return Err(Error::invalid(format!(
                "linux.seccomp.{}: name at least one system call, each not empty",
                field("names")
            )));
        }
        let action = within(
            &field("action"),
            words::action(&self.action, self.errno_ret),
        )?;
        // The listener's descriptor is announced by writing.
        if action == Action::NOTIFY && self.names.iter().any(|name| name == "write") {
            return Err(Error::invalid(format!(
                "linux.seccomp.{}: SCMP_ACT_NOTIFY cannot be used for the write syscall",
                field("action")
            )));
        }
        let arguments = self.args.as_deref().unwrap_or_default();
        let conditions = arguments
            .iter()
            .enumerate()
            .map(|(number, argument)| {
                let field = format!("syscalls[{index}].args[{number}]");
                within(&field, words::condition(argument))
            })
            .collect::<Result<Vec<_>>>()?;
        rules.extend(words::rules(&self.names, conditions, action));
        Ok(())
    }
}

fn within<T>(field: &str, result: Result<T>) -> Result<T> {
    result.map_err(|error| {
        Error::new(error.kind(), format!("linux.seccomp.{field}")).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Result<Option<Filter>> {
        serde_json::from_str::<OciProfile>(text)
            .expect("JSON")
            .filter()
    }

    #[test]
    fn flags_are_as_runc_takes_them() {
        for (text, flags) in [
            (r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#, 4),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": []}"#, 0),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW",
                    "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"]}"#,
                2,
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "listenerMetadata": "m",
                    "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                    "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}"#,
                40,
            ),
        ] {
            assert_eq!(
                filter(text).expect(text).expect(text).flags(),
                flags,
                "{text}"
            );
        }
        assert!(filter("{}").expect("nothing").is_none());
    }

    #[test]
    fn what_cannot_be_enforced_names_its_field() {
        for (text, part) in [
            (
                r#"{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}]}"#,
                "defaultAction: it",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#,
                "defaultAction: the action 'SCMP_ACT_MAYBE'",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}"#,
                "as default action",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#,
                "no error number",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}"#,
                "architectures: the architecture 'SCMP_ARCH_VAX'",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"]}"#,
                "flags: the flag 'FAST'",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#,
                "needs a rule",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "m"}"#,
                "listenerMetadata",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}"#,
                "linux.seccomp.listenerPath",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": [{"names": ["mkdir", "write"], "action": "SCMP_ACT_NOTIFY"}]}"#,
                "SCMP_ACT_NOTIFY cannot be used for the write syscall",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}"#,
                "syscalls[0].names",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "errnoRet": 3}]}"#,
                "syscalls[0].action",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
                "syscalls[0].args[0]: there is no argument 6",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 0, "op": "EQ"}]}]}"#,
                "args[0]: the comparison 'EQ'",
            ),
        ] {
            let error = filter(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn architectures_that_cannot_run_here_add_nothing() {
        let plain = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#;
        let named = plain.replacen('{', r#"{"architectures": ["SCMP_ARCH_S390X"],"#, 1);
        let i386 = plain.replacen('{', r#"{"architectures": ["SCMP_ARCH_X86"],"#, 1);
        let length = |text: &str| filter(text).expect(text).expect(text).instructions().len();
        assert_eq!(length(&named), length(plain));
        assert!(length(&i386) > length(plain));
    }
}
