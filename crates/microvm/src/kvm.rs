//! A guest of a few instructions, run through the KVM interface
//! (`Documentation/virt/kvm/api.rst`).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::sys::kvm as sys;

/// Guest memory: code at 0x1000, data at 0x2000.
const MEMORY: usize = 0x4000;
const CODE: u64 = 0x1000;

/// In 32-bit protected mode without paging, ring 0:
/// 20000 times: read memory, add, write memory, count down; then halt.
const PROGRAM: [u8; 21] = [
    0xb9, 0x20, 0x4e, 0x00, 0x00, // mov ecx, 20000
    0xbe, 0x00, 0x20, 0x00, 0x00, // mov esi, 0x2000
    0x8b, 0x06, // again: mov eax, [esi]
    0x83, 0xc0, 0x01, // add eax, 1
    0x89, 0x06, // mov [esi], eax
    0x49, // dec ecx
    0x75, 0xf6, // jnz again
    0xf4, // hlt
];

/// Runs the loop once, and says how much of the processor's time it took: on a busy machine the
/// clock on the wall would tell of the others.
///
/// # Errors
/// If the device cannot be opened, or the guest did anything but run to its halt.
pub(crate) fn run_loop() -> io::Result<Duration> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    let mut guest = sys::Guest::new(device.as_fd(), MEMORY)?;
    guest.write(CODE as usize, &PROGRAM);
    guest.enter_protected_mode(CODE)?;
    let start = processor_time();
    let reason = guest.run()?;
    let time = processor_time().saturating_sub(start);
    if reason != sys::EXIT_HALT {
        return Err(io::Error::other(format!(
            "a guest of eight instructions stopped with reason {reason}"
        )));
    }
    if guest.read(0x2000) != 20_000_u32.to_le_bytes() {
        return Err(io::Error::other("a guest computed a wrong result"));
    }
    Ok(time)
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
