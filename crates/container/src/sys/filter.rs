//! seccomp(2).

use std::io;

use super::check;

/// One instruction of a classic BPF program, as `struct sock_filter` has it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) value: u32,
}

const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;

/// Installs a seccomp filter with the `SECCOMP_FILTER_FLAG_*` given; with `NEW_LISTENER` among
/// them, the number of a new descriptor is returned.
pub(crate) fn install_filter(program: &[Instruction], flags: u32) -> io::Result<i64> {
    let length =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }
    let program = Program {
        length,
        instructions: program.as_ptr(),
    };
    // SAFETY: the structure is laid out as `struct sock_fprog`, its pointer covers `length`
    // instructions, and both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            &raw const program,
        )
    })
}

/// Whether the kernel knows these `SECCOMP_FILTER_FLAG_*`; nothing is installed.
pub(crate) fn knows_filter_flags(flags: u32) -> bool {
    // SAFETY: a null program is refused, with EFAULT where the flags have been accepted.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            std::ptr::null::<u8>(),
        )
    });
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EFAULT))
}
