//! Compiles rules to a classic BPF program: a tree of comparisons over the call's number, as a
//! list of 400 comparisons would be paid for at every system call.

use std::collections::BTreeMap;

use bulkhead_model::{Error, Result};

use crate::sys::Instruction;

/// What the kernel does at a call: a `SECCOMP_RET_*` value with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Action(pub(crate) u32);

impl Action {
    pub(crate) const ALLOW: Self = Self(0x7fff_0000);
    pub(crate) const LOG: Self = Self(0x7ffc_0000);
    pub(crate) const TRAP: Self = Self(0x0003_0000);
    pub(crate) const KILL_THREAD: Self = Self(0);
    pub(crate) const KILL_PROCESS: Self = Self(0x8000_0000);

    pub(crate) const fn errno(errno: u16) -> Self {
        Self(0x0005_0000 | errno as u32)
    }

    pub(crate) const fn trace(data: u16) -> Self {
        Self(0x7ff0_0000 | data as u32)
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

/// A condition on one of the six arguments of a call, as an unsigned 64-bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) argument: u32,
    pub(crate) comparison: Comparison,
    pub(crate) value: u64,
}

/// An action for a call if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) call: u32,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) action: Action,
}

#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) default: Action,
    pub(crate) rules: Vec<Rule>,
    pub(crate) flags: u32,
}

/// `AUDIT_ARCH_X86_64`.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Calls of the x32 interface have this bit; we have none of them.
const X32_BIT: u32 = 0x4000_0000;
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;

/// The kernel's `BPF_MAXINSNS`.
const MAXIMUM_LENGTH: usize = 4096;

type Leaf = Vec<(Vec<Condition>, Action)>;

/// # Errors
/// `InvalidInput` if the program would be longer than the kernel takes.
pub(crate) fn compile(profile: &Profile) -> Result<Vec<Instruction>> {
    let ranges = ranges(profile);
    let mut program = vec![
        statement(LOAD, OFFSET_ARCHITECTURE),
        branch(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        statement(RETURN, Action::KILL_PROCESS.0),
        statement(LOAD, OFFSET_NUMBER),
        branch(JUMP_GREATER_EQUAL, X32_BIT, 0, 1),
        statement(RETURN, Action::errno(libc::ENOSYS as u16).0),
    ];
    program.extend(tree(&ranges));
    if program.len() > MAXIMUM_LENGTH {
        return Err(Error::invalid(format!(
            "the seccomp profile compiles to {} instructions, and the kernel takes {MAXIMUM_LENGTH}: \
             use fewer rules with arguments",
            program.len()
        )));
    }
    Ok(program)
}

/// The calls as ranges with the same treatment: each with its first number, without gaps.
fn ranges(profile: &Profile) -> Vec<(u32, Leaf)> {
    let mut calls: BTreeMap<u32, Leaf> = BTreeMap::new();
    for rule in &profile.rules {
        let leaf = calls.entry(rule.call).or_default();
        // A rule without conditions covers all others of its call, as in libseccomp.
        if leaf
            .first()
            .is_some_and(|(conditions, _)| conditions.is_empty())
        {
            continue;
        }
        if rule.conditions.is_empty() {
            leaf.clear();
        }
        leaf.push((rule.conditions.clone(), rule.action));
    }
    let default: Leaf = vec![(Vec::new(), profile.default)];
    let mut ranges: Vec<(u32, Leaf)> = vec![(0, default.clone())];
    let mut next = 0;
    for (call, mut leaf) in calls {
        if leaf
            .last()
            .is_some_and(|(conditions, _)| !conditions.is_empty())
        {
            leaf.push((Vec::new(), profile.default));
        }
        if call > next {
            push(&mut ranges, next, default.clone());
        }
        push(&mut ranges, call, leaf);
        next = call + 1;
    }
    push(&mut ranges, next, default);
    ranges
}

fn push(ranges: &mut Vec<(u32, Leaf)>, first: u32, leaf: Leaf) {
    match ranges.last_mut() {
        Some((_, last)) if *last == leaf => {}
        Some((start, last)) if *start == first => *last = leaf,
        _ => ranges.push((first, leaf)),
    }
}

fn tree(ranges: &[(u32, Leaf)]) -> Vec<Instruction> {
    if let [(_, leaf)] = ranges {
        return self::leaf(leaf);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let pivot = right[0].0;
    let left = tree(left);
    let mut program = match u8::try_from(left.len()) {
        Ok(distance) => vec![branch(JUMP_GREATER_EQUAL, pivot, distance, 0)],
        // A conditional jump reaches 255 instructions; an unconditional one reaches all.
        Err(_) => vec![
            branch(JUMP_GREATER_EQUAL, pivot, 0, 1),
            statement(JUMP, left.len() as u32),
        ],
    };
    program.extend(left);
    program.extend(tree(right));
    program
}

fn leaf(rules: &Leaf) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (conditions, action) in rules {
        // Built from the end: every failing check jumps behind this rule's return.
        let mut body = vec![statement(RETURN, action.0)];
        for condition in conditions.iter().rev() {
            let mut checks = check(condition, body.len());
            checks.extend(body);
            body = checks;
        }
        program.extend(body);
    }
    program
}

/// Falls through to what follows if the condition holds; otherwise jumps over `rest`
/// instructions. A word of the argument is 32 bits wide, the upper one is at the higher offset.
fn check(condition: &Condition, rest: usize) -> Vec<Instruction> {
    let low_offset = OFFSET_ARGUMENTS + 8 * condition.argument;
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    // At most six conditions of at most six instructions each, so that this fits.
    let fail = rest as u8;
    let load_high = statement(LOAD, low_offset + 4);
    let load_low = statement(LOAD, low_offset);
    match condition.comparison {
        Comparison::Equal => vec![
            load_high,
            branch(JUMP_EQUAL, high, 0, fail + 2),
            load_low,
            branch(JUMP_EQUAL, low, 0, fail),
        ],
        Comparison::NotEqual => vec![
            load_high,
            branch(JUMP_EQUAL, high, 0, 2),
            load_low,
            branch(JUMP_EQUAL, low, fail, 0),
        ],
        Comparison::MaskedEqual { mask } => vec![
            load_high,
            statement(AND, (mask >> 32) as u32),
            branch(JUMP_EQUAL, high, 0, fail + 3),
            load_low,
            statement(AND, mask as u32),
            branch(JUMP_EQUAL, low, 0, fail),
        ],
        Comparison::MaskedNotEqual { mask } => vec![
            load_high,
            statement(AND, (mask >> 32) as u32),
            branch(JUMP_EQUAL, high, 0, 3),
            load_low,
            statement(AND, mask as u32),
            branch(JUMP_EQUAL, low, fail, 0),
        ],
        Comparison::Greater | Comparison::GreaterOrEqual => {
            let code = match condition.comparison {
                Comparison::Greater => JUMP_GREATER,
                _ => JUMP_GREATER_EQUAL,
            };
            vec![
                load_high,
                branch(JUMP_GREATER, high, 3, 0),
                branch(JUMP_EQUAL, high, 0, fail + 2),
                load_low,
                branch(code, low, 0, fail),
            ]
        }
        Comparison::Less | Comparison::LessOrEqual => {
            let code = match condition.comparison {
                Comparison::Less => JUMP_GREATER_EQUAL,
                _ => JUMP_GREATER,
            };
            vec![
                load_high,
                branch(JUMP_GREATER, high, fail + 3, 0),
                branch(JUMP_EQUAL, high, 0, 2),
                load_low,
                branch(code, low, fail, 0),
            ]
        }
    }
}

const fn statement(code: u16, value: u32) -> Instruction {
    branch(code, value, 0, 0)
}

const fn branch(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program over a call, as the kernel would.
    fn run(program: &[Instruction], architecture: u32, call: u32, arguments: [u64; 6]) -> Action {
        let load = |offset: u32| match offset {
            OFFSET_NUMBER => call,
            OFFSET_ARCHITECTURE => architecture,
            _ => {
                let word = arguments[((offset - OFFSET_ARGUMENTS) / 8) as usize];
                if (offset - OFFSET_ARGUMENTS).is_multiple_of(8) {
                    word as u32
                } else {
                    (word >> 32) as u32
                }
            }
        };
        let (mut accumulator, mut counter) = (0, 0);
        loop {
            let instruction = program[counter];
            counter += 1;
            let holds = match instruction.code {
                LOAD => {
                    accumulator = load(instruction.value);
                    continue;
                }
                AND => {
                    accumulator &= instruction.value;
                    continue;
                }
                JUMP => {
                    counter += instruction.value as usize;
                    continue;
                }
                RETURN => return Action(instruction.value),
                JUMP_EQUAL => accumulator == instruction.value,
                JUMP_GREATER => accumulator > instruction.value,
                JUMP_GREATER_EQUAL => accumulator >= instruction.value,
                code => panic!("code {code:#x}"),
            };
            let jump = if holds {
                instruction.jump_true
            } else {
                instruction.jump_false
            };
            counter += usize::from(jump);
        }
    }

    fn rule(call: u32, conditions: Vec<Condition>) -> Rule {
        Rule {
            call,
            conditions,
            action: Action::ALLOW,
        }
    }

    fn decide(rules: Vec<Rule>, call: u32, first: u64) -> bool {
        let profile = Profile {
            default: Action::errno(1),
            rules,
            flags: 0,
        };
        let program = compile(&profile).expect("compiles");
        run(&program, ARCHITECTURE, call, [first, 0, 0, 0, 0, 0]) == Action::ALLOW
    }

    #[test]
    fn every_number_gets_its_own_action() {
        let allowed: Vec<u32> = (0..400)
            .filter(|call| call % 3 == 0 || call % 7 == 0)
            .collect();
        let rules: Vec<_> = allowed.iter().map(|&call| rule(call, vec![])).collect();
        let profile = Profile {
            default: Action::errno(1),
            rules,
            flags: 0,
        };
        let program = compile(&profile).expect("compiles");
        for call in 0..1000 {
            let expected = if allowed.contains(&call) {
                Action::ALLOW
            } else {
                Action::errno(1)
            };
            assert_eq!(
                run(&program, ARCHITECTURE, call, [0; 6]),
                expected,
                "call {call}"
            );
        }
        assert_eq!(run(&program, 0x4000_0003, 0, [0; 6]), Action::KILL_PROCESS);
        assert_eq!(
            run(&program, ARCHITECTURE, X32_BIT, [0; 6]),
            Action::errno(38)
        );
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
                for argument in samples {
                    let condition = Condition {
                        argument: 0,
                        comparison,
                        value,
                    };
                    assert_eq!(
                        decide(vec![rule(9, vec![condition])], 9, argument),
                        truth(argument, value),
                        "{argument:#x} {comparison:?} {value:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn rules_of_one_call_are_alternatives_and_one_without_conditions_covers_them() {
        let equal = |value| Condition {
            argument: 0,
            comparison: Comparison::Equal,
            value,
        };
        let both = vec![rule(9, vec![equal(1)]), rule(9, vec![equal(2)])];
        assert!(decide(both.clone(), 9, 1) && decide(both.clone(), 9, 2));
        assert!(!decide(both.clone(), 9, 3));
        let mut covered = both;
        covered.push(rule(9, vec![]));
        assert!(decide(covered, 9, 3));
    }

    #[test]
    fn conditions_of_one_rule_must_all_hold() {
        let condition = |argument, value| Condition {
            argument,
            comparison: Comparison::Equal,
            value,
        };
        let profile = Profile {
            default: Action::errno(1),
            rules: vec![rule(
                9,
                vec![condition(0, 1), condition(5, 2), condition(2, 3)],
            )],
            flags: 0,
        };
        let program = compile(&profile).expect("compiles");
        let decide = |arguments| run(&program, ARCHITECTURE, 9, arguments) == Action::ALLOW;
        assert!(decide([1, 9, 3, 9, 9, 2]));
        assert!(
            !decide([0, 9, 3, 9, 9, 2])
                && !decide([1, 9, 0, 9, 9, 2])
                && !decide([1, 9, 3, 9, 9, 0])
        );
    }
}
