//! The instructions of classic BPF, and the conditions of a rule in them.

use crate::sys::Instruction;

use super::rule::{Comparison, Condition};

/// Offsets into `struct seccomp_data`.
pub(super) const OFFSET_NUMBER: u32 = 0;
pub(super) const OFFSET_ARCHITECTURE: u32 = 4;
pub(super) const OFFSET_ARGUMENTS: u32 = 16;

pub(super) const LOAD: u16 = 0x20;
pub(super) const RETURN: u16 = 0x06;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(super) const AND: u16 = 0x54;

pub(super) const fn statement(code: u16, value: u32) -> Instruction {
    branch(code, value, 0, 0)
}

pub(super) const fn branch(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        value,
    }
}

/// How wide an architecture's arguments are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Bits32,
    Bits64,
}

/// Falls through to what follows if the condition holds; otherwise jumps over `rest`
/// instructions.
pub(super) fn check(condition: &Condition, width: Width, rest: usize) -> Vec<Instruction> {
    // At most six conditions of at most six instructions each, so that this fits.
    let fail = rest as u8;
    match width {
        Width::Bits32 => check_low(condition, fail),
        Width::Bits64 => check_both(condition, fail),
    }
}

/// A value's upper half means nothing here, as for a -1 in 64 bits.
fn check_low(condition: &Condition, fail: u8) -> Vec<Instruction> {
    let low = condition.value as u32;
    let mut program = vec![statement(LOAD, OFFSET_ARGUMENTS + 8 * condition.argument)];
    if let Comparison::MaskedEqual { mask } | Comparison::MaskedNotEqual { mask } =
        condition.comparison
    {
        program.push(statement(AND, mask as u32));
    }
    program.push(match condition.comparison {
        Comparison::Equal | Comparison::MaskedEqual { .. } => branch(JUMP_EQUAL, low, 0, fail),
        Comparison::NotEqual | Comparison::MaskedNotEqual { .. } => {
            branch(JUMP_EQUAL, low, fail, 0)
        }
        Comparison::Greater => branch(JUMP_GREATER, low, 0, fail),
        Comparison::GreaterOrEqual => branch(JUMP_GREATER_EQUAL, low, 0, fail),
        Comparison::Less => branch(JUMP_GREATER_EQUAL, low, fail, 0),
        Comparison::LessOrEqual => branch(JUMP_GREATER, low, fail, 0),
    });
    program
}

/// A word of the argument is 32 bits wide, the upper one is at the higher offset.
fn check_both(condition: &Condition, fail: u8) -> Vec<Instruction> {
    let low_offset = OFFSET_ARGUMENTS + 8 * condition.argument;
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
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
