//! Compiles rules to a classic BPF program: for each architecture a tree of comparisons over the
//! call's number, as a list of 400 comparisons would be paid for at every system call.
//!
//! Two things are decided here beyond the rules themselves:
//! - A call whose number is above all that the profile names did not exist when the profile was
//!   written. Unless calls are let through by default it fails with `ENOSYS`, so that a newer C
//!   library falls back to what the profile knows.
//! - i386 can make the calls of sockets and of System V IPC through one call each. A rule applies
//!   there too; as the arguments cannot be seen, a rule with conditions applies if it is stricter
//!   than the default, and always.

use std::collections::BTreeMap;

use bulkhead_model::{Error, Result};

use crate::sys::Instruction;

use super::check::{
    JUMP, JUMP_EQUAL, JUMP_GREATER_EQUAL, LOAD, OFFSET_ARCHITECTURE, OFFSET_NUMBER, RETURN, Width,
    branch, check, statement,
};
use super::rule::{Action, Architecture, Comparison, Condition, Profile, X32_BIT};
use super::syscalls;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386`.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;

/// The kernel's `BPF_MAXINSNS`.
const MAXIMUM_LENGTH: usize = 4096;

const NO_SUCH_CALL: Action = Action::errno(libc::ENOSYS as u16);

/// What is decided at a call: the first alternative whose conditions hold.
type Leaf = Vec<(Vec<Condition>, Action)>;

/// # Errors
/// `InvalidInput` if the program would be longer than the kernel takes.
pub(crate) fn compile(profile: &Profile) -> Result<Vec<Instruction>> {
    let mut native = vec![statement(LOAD, OFFSET_NUMBER)];
    let calls = tree(&ranges(profile, Architecture::X86_64), Width::Bits64);
    if profile.others.contains(&Architecture::X32) {
        native.extend(fork(X32_BIT, calls));
        native.extend(tree(&ranges(profile, Architecture::X32), Width::Bits64));
    } else {
        native.push(branch(JUMP_GREATER_EQUAL, X32_BIT, 0, 1));
        native.push(statement(RETURN, NO_SUCH_CALL.0));
        native.extend(calls);
    }
    let mut program = vec![statement(LOAD, OFFSET_ARCHITECTURE)];
    program.extend(only_for(AUDIT_X86_64, native));
    if profile.others.contains(&Architecture::X86) {
        let mut i386 = vec![statement(LOAD, OFFSET_NUMBER)];
        i386.extend(tree(&ranges(profile, Architecture::X86), Width::Bits32));
        program.extend(only_for(AUDIT_I386, i386));
    }
    program.push(statement(RETURN, Action::KILL_PROCESS.0));
    if program.len() > MAXIMUM_LENGTH {
        return Err(Error::invalid(format!(
            "the seccomp profile compiles to {} instructions, and the kernel takes {MAXIMUM_LENGTH}: \
             use fewer rules with arguments",
            program.len()
        )));
    }
    Ok(program)
}

/// Runs `body`, which returns on every way, if the architecture was loaded and is this one.
fn only_for(audit: u32, body: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = vec![
        branch(JUMP_EQUAL, audit, 1, 0),
        statement(JUMP, body.len() as u32),
    ];
    program.extend(body);
    program
}

/// The calls as ranges with the same treatment: each with its first number, without gaps.
fn ranges(profile: &Profile, architecture: Architecture) -> Vec<(u32, Leaf)> {
    let default: Leaf = vec![(Vec::new(), profile.default)];
    let first = match architecture {
        Architecture::X32 => X32_BIT,
        Architecture::X86_64 | Architecture::X86 => 0,
    };
    let mut ranges: Vec<(u32, Leaf)> = vec![(first, default.clone())];
    let mut next = first;
    for (call, mut leaf) in leaves(profile, architecture) {
        if leaf
            .last()
            .is_some_and(|(conditions, _)| !conditions.is_empty())
        {
            leaf.push((Vec::new(), profile.default));
        }
        shorten(&mut leaf);
        if call > next {
            push(&mut ranges, next, default.clone());
        }
        push(&mut ranges, call, leaf);
        next = call + 1;
    }
    let known = largest(profile, architecture).filter(|_| !profile.default.lets_through());
    match known {
        Some(largest) => {
            if largest >= next {
                push(&mut ranges, next, default);
            }
            push(&mut ranges, largest + 1, vec![(Vec::new(), NO_SUCH_CALL)]);
        }
        None => push(&mut ranges, next, default),
    }
    ranges
}

/// The largest number that the profile names, whatever it says of it.
fn largest(profile: &Profile, architecture: Architecture) -> Option<u32> {
    let names = profile.rules.iter().flat_map(|rule| &rule.names);
    names
        .filter_map(|name| syscalls::number(architecture, name))
        .max()
}

/// The alternatives of each call that is named. Those of a call inside another one come before
/// that one's own.
fn leaves(profile: &Profile, architecture: Architecture) -> BTreeMap<u32, Leaf> {
    let mut own: BTreeMap<u32, Leaf> = BTreeMap::new();
    let mut inner: BTreeMap<(u32, u32), Leaf> = BTreeMap::new();
    // One that says what is said by default would only hide others.
    let rules = profile.rules.iter();
    for rule in rules.filter(|rule| rule.action != profile.default) {
        let alternative = (rule.conditions.clone(), rule.action);
        for name in &rule.names {
            if let Some(call) = syscalls::number(architecture, name) {
                add(own.entry(call).or_default(), alternative.clone());
            }
            if let Some(place) = syscalls::multiplexed(architecture, name) {
                add(inner.entry(place).or_default(), alternative.clone());
            }
        }
    }
    for ((call, selector), leaf) in inner.into_iter().rev() {
        let is_selected = Condition {
            argument: 0,
            // The upper half of ipc's number is a version.
            comparison: Comparison::MaskedEqual { mask: 0xffff },
            value: selector.into(),
        };
        let decided = leaf
            .into_iter()
            .find(|(conditions, action)| {
                conditions.is_empty() || action.is_stricter_than(profile.default)
            })
            .map(|(_, action)| (vec![is_selected], action));
        own.entry(call).or_default().splice(0..0, decided);
    }
    own.retain(|_, leaf| !leaf.is_empty());
    own
}

/// A rule without conditions covers all others of its call, as in libseccomp.
fn add(leaf: &mut Leaf, alternative: (Vec<Condition>, Action)) {
    let covered = leaf
        .first()
        .is_some_and(|(conditions, _)| conditions.is_empty());
    if covered {
        return;
    }
    if alternative.0.is_empty() {
        leaf.clear();
    }
    leaf.push(alternative);
}

/// Leaves out the last alternatives that decide as what comes after them all.
fn shorten(leaf: &mut Leaf) {
    let Some((_, last)) = leaf.pop() else {
        return;
    };
    while leaf.last().is_some_and(|(_, action)| *action == last) {
        leaf.pop();
    }
    leaf.push((Vec::new(), last));
}

fn push(ranges: &mut Vec<(u32, Leaf)>, first: u32, leaf: Leaf) {
    match ranges.last_mut() {
        Some((_, last)) if *last == leaf => {}
        Some((start, last)) if *start == first => *last = leaf,
        _ => ranges.push((first, leaf)),
    }
}

fn tree(ranges: &[(u32, Leaf)], width: Width) -> Vec<Instruction> {
    if let [(_, leaf)] = ranges {
        return self::leaf(leaf, width);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let mut program = fork(right[0].0, tree(left, width));
    program.extend(tree(right, width));
    program
}

/// Goes on with `left` for a number below the pivot, and behind it for others.
fn fork(pivot: u32, left: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = match u8::try_from(left.len()) {
        Ok(distance) => vec![branch(JUMP_GREATER_EQUAL, pivot, distance, 0)],
        // A conditional jump reaches 255 instructions; an unconditional one reaches all.
        Err(_) => vec![
            branch(JUMP_GREATER_EQUAL, pivot, 0, 1),
            statement(JUMP, left.len() as u32),
        ],
    };
    program.extend(left);
    program
}

fn leaf(rules: &Leaf, width: Width) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (conditions, action) in rules {
        // Built from the end: every failing check jumps behind this rule's return.
        let mut body = vec![statement(RETURN, action.0)];
        for condition in conditions.iter().rev() {
            let mut checks = check(condition, width, body.len());
            checks.extend(body);
            body = checks;
        }
        program.extend(body);
    }
    program
}

#[cfg(test)]
mod tests {
    use super::super::emulator::run;
    use super::super::rule::Rule;
    use super::*;

    const REFUSED: Action = Action::errno(1);

    fn profile(rules: Vec<Rule>) -> Profile {
        Profile {
            default: REFUSED,
            others: vec![],
            rules,
            flags: 0,
        }
    }

    fn rule(name: &'static str, conditions: Vec<Condition>, action: Action) -> Rule {
        Rule {
            names: vec![name.into()],
            conditions,
            action,
        }
    }

    fn allow(name: &'static str, conditions: Vec<Condition>) -> Rule {
        rule(name, conditions, Action::ALLOW)
    }

    fn argument(argument: u32, comparison: Comparison, value: u64) -> Condition {
        Condition {
            argument,
            comparison,
            value,
        }
    }

    fn equal(value: u64) -> Condition {
        argument(0, Comparison::Equal, value)
    }

    /// What is decided at a call of x86-64 with this first argument.
    fn decide(rules: Vec<Rule>, name: &str, first: u64) -> Action {
        let program = compile(&profile(rules)).expect("compiles");
        let call = syscalls::number(Architecture::X86_64, name).expect(name);
        run(&program, AUDIT_X86_64, call, [first, 0, 0, 0, 0, 0])
    }

    fn allows(rules: Vec<Rule>, name: &str, first: u64) -> bool {
        decide(rules, name, first) == Action::ALLOW
    }

    #[test]
    fn every_name_gets_its_own_action() {
        let names = [
            "read", "close", "fork", "vfork", "execve", "openat2", "getcwd",
        ];
        let rules: Vec<_> = names.map(|name| allow(name, vec![])).into();
        let program = compile(&profile(rules)).expect("compiles");
        let allowed = names.map(|name| syscalls::number(Architecture::X86_64, name).expect(name));
        for call in 0..1000 {
            let expected = match call {
                call if allowed.contains(&call) => Action::ALLOW,
                // What is newer than all that is named is not there.
                438.. => NO_SUCH_CALL,
                _ => REFUSED,
            };
            let decided = run(&program, AUDIT_X86_64, call, [0; 6]);
            assert_eq!(decided, expected, "call {call}");
        }
        for (audit, call, expected) in [
            (AUDIT_I386, 0, Action::KILL_PROCESS),
            (0xc000_00b7, 0, Action::KILL_PROCESS),
            (AUDIT_X86_64, X32_BIT, NO_SUCH_CALL),
        ] {
            assert_eq!(run(&program, audit, call, [0; 6]), expected);
        }
    }

    #[test]
    fn each_architecture_has_numbers_of_its_own() {
        let all = Profile {
            others: vec![Architecture::X86, Architecture::X32],
            ..profile(vec![
                allow("mkdir", vec![]),
                allow("execve", vec![]),
                allow("llistxattr", vec![]),
                allow("_llseek", vec![]),
            ])
        };
        let program = compile(&all).expect("compiles");
        for (audit, call, expected) in [
            (AUDIT_X86_64, 83, Action::ALLOW),
            (AUDIT_X86_64, 39, REFUSED),
            (AUDIT_X86_64, 59, Action::ALLOW),
            (AUDIT_X86_64, 196, NO_SUCH_CALL),
            (AUDIT_I386, 39, Action::ALLOW),
            (AUDIT_I386, 83, REFUSED),
            (AUDIT_I386, 140, Action::ALLOW),
            (AUDIT_I386, 233, Action::ALLOW),
            (AUDIT_I386, 234, NO_SUCH_CALL),
            (AUDIT_X86_64, X32_BIT + 83, Action::ALLOW),
            (AUDIT_X86_64, X32_BIT + 520, Action::ALLOW),
            (AUDIT_X86_64, X32_BIT + 59, REFUSED),
            (AUDIT_X86_64, X32_BIT + 521, NO_SUCH_CALL),
            (0xc000_00b7, 83, Action::KILL_PROCESS),
        ] {
            let decided = run(&program, audit, call, [0; 6]);
            assert_eq!(decided, expected, "{audit:#x} {call:#x}");
        }
    }

    #[test]
    fn a_profile_that_lets_through_by_default_knows_no_missing_calls() {
        for default in [Action::ALLOW, Action::LOG, Action::trace(7)] {
            let open = Profile {
                default,
                others: vec![Architecture::X86],
                ..profile(vec![rule("read", vec![], REFUSED)])
            };
            let program = compile(&open).expect("compiles");
            assert_eq!(run(&program, AUDIT_X86_64, 9999, [0; 6]), default);
            assert_eq!(run(&program, AUDIT_X86_64, 0, [0; 6]), REFUSED);
            assert_eq!(run(&program, AUDIT_I386, 3, [0; 6]), REFUSED);
        }
    }

    #[test]
    fn arguments_of_i386_are_of_32_bits() {
        let minus_one = Profile {
            others: vec![Architecture::X86],
            ..profile(vec![
                allow("personality", vec![equal(u64::MAX)]),
                allow("mlock", vec![argument(1, Comparison::Less, 100)]),
            ])
        };
        let program = compile(&minus_one).expect("compiles");
        let at = |call, arguments| run(&program, AUDIT_I386, call, arguments);
        assert_eq!(at(136, [0xffff_ffff, 0, 0, 0, 0, 0]), Action::ALLOW);
        assert_eq!(at(136, [1, 0, 0, 0, 0, 0]), REFUSED);
        assert_eq!(at(150, [0, 99, 0, 0, 0, 0]), Action::ALLOW);
        assert_eq!(at(150, [0, 100, 0, 0, 0, 0]), REFUSED);
        let native = run(&program, AUDIT_X86_64, 135, [0xffff_ffff, 0, 0, 0, 0, 0]);
        assert_eq!(native, REFUSED);
    }

    #[test]
    fn a_rule_reaches_into_the_calls_that_carry_others() {
        const SOCKETCALL: u32 = 102;
        const IPC: u32 = 117;
        let others = vec![Architecture::X86];
        let closed = Profile {
            others: others.clone(),
            ..profile(vec![
                // The family cannot be seen there: not allowed.
                allow("socket", vec![equal(1)]),
                allow("bind", vec![]),
                allow("shmat", vec![]),
            ])
        };
        let program = compile(&closed).expect("compiles");
        let at = |call, first| run(&program, AUDIT_I386, call, [first, 1, 0, 0, 0, 0]);
        assert_eq!(at(359, 1), Action::ALLOW);
        assert_eq!(at(SOCKETCALL, 1), REFUSED);
        assert_eq!(at(SOCKETCALL, 2), Action::ALLOW);
        assert_eq!(at(SOCKETCALL, 3), REFUSED);
        assert_eq!(at(IPC, 21), Action::ALLOW);
        assert_eq!(at(IPC, (1 << 16) | 21), Action::ALLOW);
        assert_eq!(at(IPC, 22), REFUSED);

        let open = Profile {
            default: Action::ALLOW,
            others,
            ..profile(vec![
                rule("socket", vec![equal(40)], REFUSED),
                rule("socketcall", vec![], Action::LOG),
            ])
        };
        let program = compile(&open).expect("compiles");
        let at = |call, first| run(&program, AUDIT_I386, call, [first, 0, 0, 0, 0, 0]);
        assert_eq!(at(359, 40), REFUSED);
        assert_eq!(at(359, 1), Action::ALLOW);
        // The family cannot be seen there: refused.
        assert_eq!(at(SOCKETCALL, 1), REFUSED);
        assert_eq!(at(SOCKETCALL, 2), Action::LOG);
    }

    #[test]
    fn comparisons_are_of_64_unsigned_bits() {
        let samples = [
            0,
            1,
            5,
            6,
            7,
            u32::MAX as u64,
            1 << 32,
            (1 << 32) + 6,
            (6 << 32) + 6,
            u64::MAX,
        ];
        type Truth = fn(u64, u64) -> bool;
        let comparisons: [(Comparison, Truth); 8] = [
            (Comparison::NotEqual, |a, b| a != b),
            (Comparison::Less, |a, b| a < b),
            (Comparison::LessOrEqual, |a, b| a <= b),
            (Comparison::Equal, |a, b| a == b),
            (Comparison::GreaterOrEqual, |a, b| a >= b),
            (Comparison::Greater, |a, b| a > b),
            (
                Comparison::MaskedEqual {
                    mask: 0x1_0000_0006,
                },
                |a, b| a & 0x1_0000_0006 == b,
            ),
            (Comparison::MaskedNotEqual { mask: 0xffff_ffff }, |a, b| {
                a & 0xffff_ffff != b
            }),
        ];
        for (comparison, truth) in comparisons {
            for value in samples {
                let rules = vec![allow("mmap", vec![argument(0, comparison, value)])];
                for first in samples {
                    assert_eq!(
                        allows(rules.clone(), "mmap", first),
                        truth(first, value),
                        "{first:#x} {comparison:?} {value:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn rules_of_one_call_are_alternatives_and_one_without_conditions_covers_them() {
        let both = vec![allow("mmap", vec![equal(1)]), allow("mmap", vec![equal(2)])];
        assert!(allows(both.clone(), "mmap", 1) && allows(both.clone(), "mmap", 2));
        assert!(!allows(both.clone(), "mmap", 3));
        let mut covered = both;
        covered.push(allow("mmap", vec![]));
        assert!(allows(covered.clone(), "mmap", 3));
        let program = compile(&profile(covered)).expect("compiles");
        let plain = compile(&profile(vec![allow("mmap", vec![])])).expect("compiles");
        assert_eq!(program, plain);
        let different = vec![
            rule("mmap", vec![equal(1)], REFUSED),
            rule("mmap", vec![equal(1)], Action::trace(3)),
        ];
        assert_eq!(decide(different, "mmap", 1), Action::trace(3));
    }

    #[test]
    fn conditions_of_one_rule_must_all_hold() {
        let equal = |number, value| argument(number, Comparison::Equal, value);
        let rules = vec![allow("mmap", vec![equal(0, 1), equal(5, 2), equal(2, 3)])];
        let program = compile(&profile(rules)).expect("compiles");
        let decide = |arguments| run(&program, AUDIT_X86_64, 9, arguments) == Action::ALLOW;
        assert!(decide([1, 9, 3, 9, 9, 2]));
        assert!(
            !decide([0, 9, 3, 9, 9, 2])
                && !decide([1, 9, 0, 9, 9, 2])
                && !decide([1, 9, 3, 9, 9, 0])
        );
    }

    #[test]
    fn actions_are_ranked_as_the_kernel_does() {
        let ranked = [
            Action::KILL_PROCESS,
            Action::KILL_THREAD,
            Action::TRAP,
            Action::errno(1),
            Action::NOTIFY,
            Action::trace(1),
            Action::LOG,
            Action::ALLOW,
        ];
        for pair in ranked.windows(2) {
            assert!(pair[0].is_stricter_than(pair[1]), "{pair:?}");
            assert!(!pair[1].is_stricter_than(pair[0]), "{pair:?}");
        }
        assert!(!Action::errno(1).is_stricter_than(Action::errno(38)));
    }
}
