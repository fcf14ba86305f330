//! What a filter is made of: rules over calls by name, for some architectures.

use std::borrow::Cow;

/// What the kernel does at a call: a `SECCOMP_RET_*` value with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Action(pub(crate) u32);

impl Action {
    pub(crate) const ALLOW: Self = Self(0x7fff_0000);
    pub(crate) const LOG: Self = Self(0x7ffc_0000);
    pub(crate) const NOTIFY: Self = Self(0x7fc0_0000);
    pub(crate) const TRAP: Self = Self(0x0003_0000);
    pub(crate) const KILL_THREAD: Self = Self(0);
    pub(crate) const KILL_PROCESS: Self = Self(0x8000_0000);
    const TRACE: u32 = 0x7ff0_0000;
    const KIND: u32 = 0xffff_0000;

    pub(crate) const fn errno(errno: u16) -> Self {
        Self(0x0005_0000 | errno as u32)
    }

    pub(crate) const fn trace(data: u16) -> Self {
        Self(Self::TRACE | data as u32)
    }

    /// The call is carried out, or a tracer sees to it.
    pub(super) fn lets_through(self) -> bool {
        self == Self::ALLOW || self == Self::LOG || self.0 & Self::KIND == Self::TRACE
    }

    /// As the kernel ranks the answers of several filters: the lesser number, where
    /// `KILL_PROCESS` is negative.
    pub(super) fn is_stricter_than(self, other: Self) -> bool {
        let rank = |action: Self| (action.0 & Self::KIND) as i32;
        rank(self) < rank(other)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// The argument's bits under the mask equal the value.
    MaskedEqual {
        mask: u64,
    },
    /// The argument's bits under the mask differ from the value.
    MaskedNotEqual {
        mask: u64,
    },
}

/// A condition on one of the six arguments of a call, as an unsigned number as wide as the
/// architecture's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) argument: u32,
    pub(crate) comparison: Comparison,
    pub(crate) value: u64,
}

/// An action for calls if all conditions hold. A name that an architecture does not have says
/// nothing there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) names: Vec<Cow<'static, str>>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) action: Action,
}

#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) default: Action,
    /// Those beside x86-64, which every filter is for. Programs of one that is not named are
    /// killed: their calls have other numbers.
    pub(crate) others: Vec<Architecture>,
    pub(crate) rules: Vec<Rule>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
}

/// An architecture whose programs this kernel can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86_64,
    /// i386, with arguments of 32 bits.
    X86,
    X32,
}

/// Calls of the x32 interface have this bit in their number.
pub(super) const X32_BIT: u32 = 0x4000_0000;
