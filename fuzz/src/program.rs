//! Classic BPF as seccomp(2) takes it.

/// A system call, as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    pub number: u32,
    pub arguments: [u64; 6],
}

/// Code, jump if true, jump if false, value.
type Instruction = (u16, u8, u8, u32);

#[derive(Debug)]
pub struct Program(Vec<Instruction>);

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_SET: u16 = 0x45;

/// The kernel's `BPF_MAXINSNS`, and the size of `struct seccomp_data`.
const LONGEST: usize = 4096;
const DATA_SIZE: u32 = 64;

impl Program {
    pub fn new(instructions: Vec<Instruction>) -> Self {
        Self(instructions)
    }

    /// Fails unless the kernel would take it: every jump ends inside, the end is a return, every
    /// load is of a word of the data.
    pub fn check(&self) {
        let length = self.0.len();
        assert!((1..=LONGEST).contains(&length), "{length} instructions");
        for (place, &(code, on_true, on_false, value)) in self.0.iter().enumerate() {
            let reaches =
                |distance: usize| assert!(place + 1 + distance < length, "jump at {place}");
            match code {
                LOAD => assert!(
                    value % 4 == 0 && value < DATA_SIZE,
                    "load of {value} at {place}"
                ),
                JUMP => reaches(value as usize),
                JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_EQUAL | JUMP_SET => {
                    reaches(on_true.into());
                    reaches(on_false.into());
                }
                AND | RETURN => {}
                code => panic!("code {code:#x} at {place}"),
            }
        }
        assert_eq!(self.0[length - 1].0, RETURN, "the last instruction");
    }

    /// What is returned for the call.
    pub fn run(&self, call: &Call) -> u32 {
        let (mut accumulator, mut place) = (0, 0);
        loop {
            let (code, on_true, on_false, value) = self.0[place];
            place += 1;
            let holds = match code {
                LOAD => {
                    accumulator = call.word(value);
                    continue;
                }
                AND => {
                    accumulator &= value;
                    continue;
                }
                JUMP => {
                    place += value as usize;
                    continue;
                }
                RETURN => return value,
                JUMP_EQUAL => accumulator == value,
                JUMP_GREATER => accumulator > value,
                JUMP_GREATER_EQUAL => accumulator >= value,
                JUMP_SET => accumulator & value != 0,
                code => panic!("code {code:#x}"),
            };
            place += usize::from(if holds { on_true } else { on_false });
        }
    }
}

impl Call {
    /// A word of `struct seccomp_data`: number, architecture, instruction pointer, arguments.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            8 | 12 => 0,
            _ => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                (argument >> (8 * (offset % 8))) as u32
            }
        }
    }
}
