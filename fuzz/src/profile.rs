//! Profiles made of arbitrary bytes, and what their rules decide: config-linux.md, "Seccomp", with
//! libseccomp's reading of it.
//!
//! - A rule without conditions covers all others of its call; of several the first that holds
//!   decides. One with the default action says nothing.
//! - Two conditions of one rule on the same argument are alternatives.
//! - A number above all that the profile names fails with `ENOSYS`, unless calls are let through
//!   by default.

use arbitrary::Arbitrary;
use serde_json::{Value, json};

use crate::program::Call;

/// Calls that no other call contains, with their numbers on x86-64, i386 and x32.
const CALLS: [(&str, [u32; 3]); 10] = [
    ("read", [0, 3, X32_BIT]),
    ("write", [1, 4, X32_BIT + 1]),
    ("ioctl", [16, 54, X32_BIT + 514]),
    ("clone", [56, 120, X32_BIT + 56]),
    ("kill", [62, 37, X32_BIT + 62]),
    ("personality", [135, 136, X32_BIT + 135]),
    ("openat", [257, 295, X32_BIT + 257]),
    ("unshare", [272, 310, X32_BIT + 272]),
    ("bpf", [321, 357, X32_BIT + 321]),
    ("openat2", [437, 437, X32_BIT + 437]),
];

const X32_BIT: u32 = 0x4000_0000;
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_ARM: u32 = 0x4000_0028;
const KILL_PROCESS: u32 = 0x8000_0000;
const NO_SUCH_CALL: u32 = 0x0005_0000 | 38;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Action {
    Allow,
    Log,
    Errno(u8),
    Trace(u8),
    Trap,
    KillThread,
    KillProcess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    MaskedEqual,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Condition {
    argument: u8,
    comparison: Comparison,
    value: Number,
    second: Number,
}

/// Numbers whose halves are often equal, as mistakes are made between them.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Number {
    Small(u8),
    High(u8),
    Both(u8, u8),
    Negative(u8),
    Any(u64),
}

#[derive(Debug, Clone, Arbitrary)]
pub struct Rule {
    calls: Vec<u8>,
    action: Action,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Arbitrary)]
pub struct Profile {
    default: Action,
    x86: bool,
    x32: bool,
    rules: Vec<Rule>,
}

/// A call to try: one of the table's or near it, with arguments at or near what is compared with.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Sample {
    call: u8,
    architecture: u8,
    offset: i8,
    arguments: [(u8, i8); 6],
}

impl Profile {
    pub fn to_json(&self) -> String {
        let mut architectures = vec!["SCMP_ARCH_X86_64"];
        if self.x86 {
            architectures.push("SCMP_ARCH_X86");
        }
        if self.x32 {
            architectures.push("SCMP_ARCH_X32");
        }
        let (action, errno) = self.default.words();
        let mut profile = json!({
            "defaultAction": action,
            "architectures": architectures,
            "syscalls": self.rules.iter().map(Rule::to_json).collect::<Vec<_>>(),
        });
        if let Some(errno) = errno {
            profile["defaultErrnoRet"] = errno.into();
        }
        profile.to_string()
    }

    /// The calls that are worth trying.
    pub fn calls(&self, samples: &[Sample]) -> Vec<Call> {
        let conditions = self.rules.iter().flat_map(|rule| &rule.conditions);
        let mut values: Vec<u64> = conditions
            .flat_map(|condition| [condition.value.number(), condition.second.number()])
            .collect();
        values.extend([0, u64::MAX]);
        samples
            .iter()
            .map(|sample| {
                let (_, numbers) = CALLS[usize::from(sample.call) % CALLS.len()];
                let (architecture, number) = match sample.architecture % 8 {
                    0..4 => (AUDIT_X86_64, numbers[0]),
                    4 | 5 => (AUDIT_I386, numbers[1]),
                    6 => (AUDIT_X86_64, numbers[2]),
                    _ => (AUDIT_ARM, numbers[0]),
                };
                let arguments = sample.arguments.map(|(index, delta)| {
                    let value = values[usize::from(index) % values.len()];
                    // Most often exactly what is compared with.
                    value.wrapping_add_signed((delta / 64).into())
                });
                Call {
                    architecture,
                    number: number.wrapping_add_signed((sample.offset / 64).into()),
                    arguments,
                }
            })
            .collect()
    }

    /// The answer that the rules ask for.
    pub fn decide(&self, call: &Call) -> u32 {
        let is_x32 = call.number & X32_BIT != 0;
        let (column, width) = match call.architecture {
            AUDIT_X86_64 if is_x32 && !self.x32 => return NO_SUCH_CALL,
            AUDIT_X86_64 if is_x32 => (2, u64::MAX),
            AUDIT_X86_64 => (0, u64::MAX),
            AUDIT_I386 if self.x86 => (1, u64::from(u32::MAX)),
            _ => return KILL_PROCESS,
        };
        let numbers = self.rules.iter().flat_map(|rule| rule.numbers(column));
        let largest = numbers.max();
        if !self.default.lets_through() && largest.is_some_and(|largest| call.number > largest) {
            return NO_SUCH_CALL;
        }
        let rules: Vec<&Rule> = self
            .rules
            .iter()
            .filter(|rule| rule.action.answer() != self.default.answer())
            .filter(|rule| rule.numbers(column).any(|number| number == call.number))
            .collect();
        let covering = rules.iter().find(|rule| rule.conditions.is_empty());
        let decided = covering.or_else(|| {
            let mut rules = rules.iter();
            rules.find(|rule| rule.holds(&call.arguments, width))
        });
        decided.map_or(self.default, |rule| rule.action).answer()
    }
}

impl Rule {
    fn numbers(&self, column: usize) -> impl Iterator<Item = u32> {
        let calls = self.calls.iter();
        calls.map(move |call| CALLS[usize::from(*call) % CALLS.len()].1[column])
    }

    fn holds(&self, arguments: &[u64; 6], width: u64) -> bool {
        let mut conditions = self.conditions.iter();
        let mut seen = [0; 6];
        for condition in &self.conditions {
            seen[condition.index()] += 1;
        }
        if seen.iter().any(|times| *times > 1) {
            conditions.any(|condition| condition.holds(arguments, width))
        } else {
            conditions.all(|condition| condition.holds(arguments, width))
        }
    }

    fn to_json(&self) -> Value {
        let names: Vec<_> = self
            .calls
            .iter()
            .map(|call| CALLS[usize::from(*call) % CALLS.len()].0)
            // A name that no architecture has says nothing.
            .chain(["no_such_call"])
            .collect();
        let arguments: Vec<_> = self.conditions.iter().map(Condition::to_json).collect();
        let (action, errno) = self.action.words();
        let mut rule = json!({"names": names, "action": action, "args": arguments});
        if let Some(errno) = errno {
            rule["errnoRet"] = errno.into();
        }
        rule
    }
}

impl Condition {
    fn index(&self) -> usize {
        usize::from(self.argument) % 6
    }

    fn holds(&self, arguments: &[u64; 6], width: u64) -> bool {
        let argument = arguments[self.index()] & width;
        let (value, second) = (self.value.number() & width, self.second.number() & width);
        match self.comparison {
            Comparison::NotEqual => argument != value,
            Comparison::Less => argument < value,
            Comparison::LessOrEqual => argument <= value,
            Comparison::Equal => argument == value,
            Comparison::GreaterOrEqual => argument >= value,
            Comparison::Greater => argument > value,
            Comparison::MaskedEqual => argument & value == second,
        }
    }

    fn to_json(&self) -> Value {
        let operator = match self.comparison {
            Comparison::NotEqual => "SCMP_CMP_NE",
            Comparison::Less => "SCMP_CMP_LT",
            Comparison::LessOrEqual => "SCMP_CMP_LE",
            Comparison::Equal => "SCMP_CMP_EQ",
            Comparison::GreaterOrEqual => "SCMP_CMP_GE",
            Comparison::Greater => "SCMP_CMP_GT",
            Comparison::MaskedEqual => "SCMP_CMP_MASKED_EQ",
        };
        json!({
            "index": self.index(),
            "value": self.value.number(),
            "valueTwo": self.second.number(),
            "op": operator,
        })
    }
}

impl Number {
    fn number(self) -> u64 {
        match self {
            Number::Small(low) => low.into(),
            Number::High(high) => u64::from(high) << 32,
            Number::Both(high, low) => u64::from(high) << 32 | u64::from(low),
            Number::Negative(number) => u64::MAX - u64::from(number),
            Number::Any(number) => number,
        }
    }
}

impl Action {
    /// In libseccomp's words, with the number beside them.
    fn words(self) -> (&'static str, Option<u8>) {
        match self {
            Action::Allow => ("SCMP_ACT_ALLOW", None),
            Action::Log => ("SCMP_ACT_LOG", None),
            Action::Errno(errno) => ("SCMP_ACT_ERRNO", Some(errno)),
            Action::Trace(data) => ("SCMP_ACT_TRACE", Some(data)),
            Action::Trap => ("SCMP_ACT_TRAP", None),
            Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
            Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        }
    }

    /// As seccomp(2) has it.
    fn answer(self) -> u32 {
        match self {
            Action::Allow => 0x7fff_0000,
            Action::Log => 0x7ffc_0000,
            Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Action::Trace(data) => 0x7ff0_0000 | u32::from(data),
            Action::Trap => 0x0003_0000,
            Action::KillThread => 0,
            Action::KillProcess => KILL_PROCESS,
        }
    }

    fn lets_through(self) -> bool {
        matches!(self, Action::Allow | Action::Log | Action::Trace(_))
    }
}
