//! The device policy of cgroup v2: a BPF program that decides over every open and `mknod`
//! (kernel: `include/uapi/linux/bpf.h`, `BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! Invariant: a sandbox's policy is the same as `v1::DEVICE_RULES`, and a group has one program at
//! a time: a new one replaces the old, so that neither hole nor excess is in between.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use bulkhead_model::Result;

use crate::failure::Context;
use crate::sys;

use super::DeviceRule;

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_PROG_DETACH: u32 = 9;
const BPF_PROG_GET_FD_BY_ID: u32 = 13;
const BPF_PROG_QUERY: u32 = 16;
const BPF_F_ALLOW_MULTI: u32 = 2;
/// Linux 5.6.
const BPF_F_REPLACE: u32 = 4;
/// More programs than anybody attaches to one group.
const MAXIMUM_PROGRAMS: usize = 64;

/// Read and written by the program's registers: `access_type` (access in the upper half, type in
/// the lower), `major`, `minor`.
const ACCESS_MAKE: i32 = 1;
const TYPE_CHARACTER: i32 = 2;

/// Major and minor (`None`: all) of the character devices that may be used.
const CHARACTER_DEVICES: [(i32, Option<i32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    attach_flags: u32,
    replace: u32,
    unused: u32,
}

#[repr(C)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    identifiers: u64,
    count: u32,
    unused: u32,
}

#[repr(C)]
struct IdentifierAttributes {
    identifier: u32,
    next: u32,
    flags: u32,
}

/// Attaches the policy to the group; it is gone with the group.
///
/// # Errors
/// `Host` if the kernel has no such programs (`CONFIG_CGROUP_BPF`).
pub(super) fn attach(group: &Path) -> Result<()> {
    load(group, program())
}

/// Attaches the policy that these rules make: the last that matches decides, and none is a no.
pub(super) fn attach_rules(group: &Path, rules: &[DeviceRule]) -> Result<()> {
    load(group, program_of(rules))
}

fn load(group: &Path, program: Vec<u64>) -> Result<()> {
    let doing = || {
        "restrict the container's devices by a BPF program: the kernel needs CONFIG_CGROUP_BPF"
            .to_owned()
    };
    let directory = File::open(group).host(|| format!("open {}", group.display()))?;
    let mut load = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    let loaded = sys::returned(sys::bpf(BPF_PROG_LOAD, &mut load).host(doing)?);
    let attached = attached(&directory).host(doing)?;
    let with = |flags: u32, program: &OwnedFd, replace: Option<&OwnedFd>| AttachAttributes {
        target: directory.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: flags,
        replace: replace.map_or(0, |program| program.as_raw_fd() as u32),
        unused: 0,
    };
    if let [old] = attached.as_slice() {
        let mut replace = with(BPF_F_ALLOW_MULTI | BPF_F_REPLACE, &loaded, Some(old));
        if sys::bpf(BPF_PROG_ATTACH, &mut replace).is_ok() {
            return Ok(());
        }
    }
    let mut attach = with(BPF_F_ALLOW_MULTI, &loaded, None);
    sys::bpf(BPF_PROG_ATTACH, &mut attach).host(doing)?;
    for old in &attached {
        sys::bpf(BPF_PROG_DETACH, &mut with(0, old, None)).host(doing)?;
    }
    Ok(())
}

/// The programs that decide over the group's devices already.
fn attached(directory: &File) -> io::Result<Vec<OwnedFd>> {
    let mut identifiers = [0_u32; MAXIMUM_PROGRAMS];
    let mut query = QueryAttributes {
        target: directory.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        identifiers: identifiers.as_mut_ptr() as u64,
        count: identifiers.len() as u32,
        unused: 0,
    };
    sys::bpf(BPF_PROG_QUERY, &mut query)?;
    let found = identifiers.iter().take(query.count as usize);
    let open = |&identifier: &u32| {
        let mut attributes = IdentifierAttributes {
            identifier,
            next: 0,
            flags: 0,
        };
        sys::bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes).map(sys::returned)
    };
    // One that has gone meanwhile is not in the way.
    Ok(found
        .filter_map(|identifier| open(identifier).ok())
        .collect())
}

/// One instruction: opcode, registers (destination in the lower half), offset, immediate.
const fn instruction(opcode: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    opcode as u64
        | (registers as u64) << 8
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

/// r2 = type, r3 = access, r4 = major, r5 = minor; returns 1 to allow.
fn program() -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const MOVE: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    let allow = [instruction(MOVE, 0, 0, 1), instruction(EXIT, 0, 0, 0)];
    let mut program = vec![
        instruction(LOAD_WORD, 0x12, 0, 0),
        instruction(0x57, 2, 0, 0xffff),
        instruction(LOAD_WORD, 0x13, 0, 0),
        instruction(0x77, 3, 0, 16),
        instruction(LOAD_WORD, 0x14, 4, 0),
        instruction(LOAD_WORD, 0x15, 8, 0),
        // Making a node opens nothing.
        instruction(JUMP_NOT_EQUAL, 3, 2, ACCESS_MAKE),
        allow[0],
        allow[1],
        // No block devices.
        instruction(0x15, 2, 2, TYPE_CHARACTER),
        instruction(MOVE, 0, 0, 0),
        instruction(EXIT, 0, 0, 0),
    ];
    for (major, minor) in CHARACTER_DEVICES {
        match minor {
            Some(minor) => {
                program.push(instruction(JUMP_NOT_EQUAL, 4, 3, major));
                program.push(instruction(JUMP_NOT_EQUAL, 5, 2, minor));
            }
            None => program.push(instruction(JUMP_NOT_EQUAL, 4, 2, major)),
        }
        program.extend(allow);
    }
    program.push(instruction(MOVE, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0));
    program
}

/// The rules from the last to the first, each a block that is left at what does not match.
fn program_of(rules: &[DeviceRule]) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER: u8 = 0xbf;
    const AND: u8 = 0x57;
    const EXIT: u8 = 0x95;
    let mut program = vec![
        instruction(LOAD_WORD, 0x12, 0, 0),
        instruction(AND, 2, 0, 0xffff),
        instruction(LOAD_WORD, 0x13, 0, 0),
        instruction(0x77, 3, 0, 16),
        instruction(LOAD_WORD, 0x14, 4, 0),
        instruction(LOAD_WORD, 0x15, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let bits = rule.access.chars().fold(0, |bits, letter| {
            bits | match letter {
                'm' => ACCESS_MAKE,
                'r' => 2,
                _ => 4,
            }
        });
        // Each as opcode, register and value; all jump to behind the block.
        let mut conditions = Vec::new();
        match rule.kind {
            'b' => conditions.push((2, 1)),
            'c' => conditions.push((2, TYPE_CHARACTER)),
            _ => {}
        }
        conditions.extend(rule.major.map(|major| (4, major as i32)));
        conditions.extend(rule.minor.map(|minor| (5, minor as i32)));
        let mut block = Vec::new();
        // An allowance covers an access that asks for nothing else; a prohibition covers one
        // that asks for any of it.
        block.push(instruction(MOVE_REGISTER, 0x31, 0, 0));
        let (mask, opcode) = if rule.allow {
            (!bits & 7, JUMP_NOT_EQUAL)
        } else {
            (bits, 0x15)
        };
        block.push(instruction(AND, 1, 0, mask));
        let length = (conditions.len() + 4) as i16;
        block.push(instruction(opcode, 1, length - 2, 0));
        for (index, (register, value)) in conditions.into_iter().enumerate() {
            let offset = length - 3 - index as i16;
            block.push(instruction(JUMP_NOT_EQUAL, register, offset, value));
        }
        block.push(instruction(MOVE, 0, 0, rule.allow.into()));
        block.push(instruction(EXIT, 0, 0, 0));
        program.extend(block);
    }
    program.push(instruction(MOVE, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0));
    program
}
