//! The words of libseccomp that profiles are written in (config-linux.md, "Seccomp").

use bulkhead_model::{Error, Result};
use serde::Deserialize;

use super::rule::{Action, Architecture, Comparison, Condition, Rule};

/// All actions, sorted.
pub(crate) const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// All comparisons, sorted.
pub(crate) const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// All architectures, sorted, with those whose programs this kernel can run.
pub(crate) const ARCHITECTURES: [(&str, Option<Architecture>); 23] = [
    ("SCMP_ARCH_AARCH64", None),
    ("SCMP_ARCH_ARM", None),
    ("SCMP_ARCH_LOONGARCH64", None),
    ("SCMP_ARCH_M68K", None),
    ("SCMP_ARCH_MIPS", None),
    ("SCMP_ARCH_MIPS64", None),
    ("SCMP_ARCH_MIPS64N32", None),
    ("SCMP_ARCH_MIPSEL", None),
    ("SCMP_ARCH_MIPSEL64", None),
    ("SCMP_ARCH_MIPSEL64N32", None),
    ("SCMP_ARCH_PARISC", None),
    ("SCMP_ARCH_PARISC64", None),
    ("SCMP_ARCH_PPC", None),
    ("SCMP_ARCH_PPC64", None),
    ("SCMP_ARCH_PPC64LE", None),
    ("SCMP_ARCH_RISCV64", None),
    ("SCMP_ARCH_S390", None),
    ("SCMP_ARCH_S390X", None),
    ("SCMP_ARCH_SH", None),
    ("SCMP_ARCH_SHEB", None),
    ("SCMP_ARCH_X32", Some(Architecture::X32)),
    ("SCMP_ARCH_X86", Some(Architecture::X86)),
    ("SCMP_ARCH_X86_64", Some(Architecture::X86_64)),
];

/// All flags with their bits of seccomp(2). `TSYNC` is for all threads at once, and the process
/// has one when the filter is installed.
pub(crate) const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", WAIT_KILLABLE_RECV),
];

pub(super) const SPEC_ALLOW: u32 = 1 << 2;
pub(super) const NEW_LISTENER: u32 = 1 << 3;
pub(super) const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// A condition as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ArgumentText {
    pub(super) index: u32,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: String,
}

/// # Errors
/// `InvalidInput` for a word that is none, and for an error number beside an action that has none.
pub(super) fn action(name: &str, errno: Option<u16>) -> Result<Action> {
    const DEFAULT: u16 = libc::EPERM as u16;
    let action = match name {
        "SCMP_ACT_ERRNO" => return Ok(Action::errno(errno.unwrap_or(DEFAULT))),
        "SCMP_ACT_TRACE" => return Ok(Action::trace(errno.unwrap_or(DEFAULT))),
        "SCMP_ACT_ALLOW" => Action::ALLOW,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => Action::KILL_PROCESS,
        "SCMP_ACT_TRAP" => Action::TRAP,
        "SCMP_ACT_LOG" => Action::LOG,
        "SCMP_ACT_NOTIFY" => Action::NOTIFY,
        other => {
            return Err(Error::invalid(format!(
                "the action '{other}' does not exist: use one of {}",
                ACTIONS.join(", ")
            )));
        }
    };
    if errno.is_some() {
        return Err(Error::invalid(format!(
            "the action {name} has no error number: leave it out"
        )));
    }
    Ok(action)
}

/// # Errors
/// `InvalidInput` for an argument that no call has, or a comparison that does not exist.
pub(super) fn condition(text: &ArgumentText) -> Result<Condition> {
    if text.index > 5 {
        return Err(Error::invalid(format!(
            "there is no argument {}: a system call has arguments 0 to 5",
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
                "the comparison '{other}' does not exist: use one of {}",
                OPERATORS.join(", ")
            )));
        }
    };
    Ok(Condition {
        argument: text.index,
        comparison,
        value,
    })
}

/// One rule, or one for each condition where two are on the same argument: these are
/// alternatives in this format.
pub(super) fn rules(
    names: &[String],
    conditions: Vec<Condition>,
    action: Action,
) -> impl Iterator<Item = Rule> {
    let mut indices: Vec<u32> = conditions
        .iter()
        .map(|condition| condition.argument)
        .collect();
    indices.sort_unstable();
    let alternatives = if indices.windows(2).any(|pair| pair[0] == pair[1]) {
        conditions.into_iter().map(|one| vec![one]).collect()
    } else {
        vec![conditions]
    };
    alternatives.into_iter().map(move |conditions| Rule {
        names: names.iter().map(|name| name.clone().into()).collect(),
        conditions,
        action,
    })
}

/// # Errors
/// `InvalidInput` for a name that libseccomp does not know. An architecture that this kernel
/// cannot run adds nothing.
pub(super) fn others(names: &[String]) -> Result<Vec<Architecture>> {
    let mut others = Vec::new();
    for name in names {
        let known = ARCHITECTURES.iter().find(|(known, _)| known == name);
        let Some((_, architecture)) = known else {
            return Err(Error::invalid(format!(
                "the architecture '{name}' does not exist: use names such as SCMP_ARCH_X86_64"
            )));
        };
        others.extend(architecture.filter(|architecture| *architecture != Architecture::X86_64));
    }
    Ok(others)
}

/// # Errors
/// `InvalidInput` for a flag that does not exist.
pub(super) fn flags(names: &[String]) -> Result<u32> {
    names.iter().try_fold(0, |flags, name| {
        match FLAGS.iter().find(|(known, _)| known == name) {
            Some((_, bit)) => Ok(flags | bit),
            None => Err(Error::invalid(format!(
                "the flag '{name}' does not exist: use one of {}",
                FLAGS.map(|(known, _)| known).join(", ")
            ))),
        }
    })
}
