//! Runs a program over a call, as the kernel would.

use crate::sys::Instruction;

use super::check::{
    AND, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, OFFSET_ARCHITECTURE,
    OFFSET_ARGUMENTS, OFFSET_NUMBER, RETURN,
};
use super::rule::Action;

pub(super) fn run(
    program: &[Instruction],
    architecture: u32,
    call: u32,
    arguments: [u64; 6],
) -> Action {
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
