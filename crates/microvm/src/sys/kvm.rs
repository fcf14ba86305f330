//! The KVM interface, as far as one processor and one piece of memory go
//! (`Documentation/virt/kvm/api.rst`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

const CREATE_VM: u64 = 0xae01;
const GET_VCPU_MMAP_SIZE: u64 = 0xae04;
const CREATE_VCPU: u64 = 0xae41;
const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
const SET_TSS_ADDRESS: u64 = 0xae47;
const RUN: u64 = 0xae80;
const SET_REGISTERS: u64 = 0x4090_ae82;
const GET_SPECIAL_REGISTERS: u64 = 0x8138_ae83;
const SET_SPECIAL_REGISTERS: u64 = 0x4138_ae84;

/// Why a guest stopped: it executed `hlt`.
pub(crate) const EXIT_HALT: u32 = 5;

/// Where `struct kvm_run` has the reason of an exit.
const EXIT_REASON_OFFSET: usize = 8;

#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_address: u64,
    size: u64,
    host_address: u64,
}

#[repr(C)]
#[derive(Default)]
struct Registers {
    /// rax to r15, none of which the program expects anything of.
    general: [u64; 16],
    rip: u64,
    rflags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Segment {
    base: u64,
    limit: u32,
    selector: u16,
    kind: u8,
    present: u8,
    dpl: u8,
    db: u8,
    s: u8,
    l: u8,
    g: u8,
    avl: u8,
    unusable: u8,
    padding: u8,
}

#[repr(C)]
#[derive(Default)]
struct SpecialRegisters {
    cs: Segment,
    data: [Segment; 5],
    tr: Segment,
    ldt: Segment,
    gdt: [u64; 2],
    idt: [u64; 2],
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    cr8: u64,
    efer: u64,
    apic_base: u64,
    interrupts: [u64; 4],
}

/// Memory of ours that is unmapped with it.
struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(length: usize, flags: libc::c_int, descriptor: libc::c_int) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so that no memory in use is replaced.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                flags,
                descriptor,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { address, length })
    }

    /// Copies bytes out. A guest may write at the same time, which makes them any bytes.
    fn read(&self, offset: usize) -> [u8; 4] {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.length);
        // SAFETY: the place is inside the mapping and aligned; volatile, because a guest writes it.
        unsafe {
            let place = self.address.as_ptr().add(offset);
            place.cast::<u32>().read_volatile().to_le_bytes()
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and no pointer into it is given out.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
    }
}

/// A guest with one processor.
pub(crate) struct Guest {
    // In the order in which they must go: the machine, then the memory that it uses.
    processor: OwnedFd,
    _machine: OwnedFd,
    state: Mapping,
    memory: Mapping,
}

/// # Safety
/// The argument must be what the request takes: a number, or a pointer to its structure.
unsafe fn ioctl(descriptor: BorrowedFd<'_>, request: u64, argument: u64) -> io::Result<i32> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::ioctl(descriptor.as_raw_fd(), request as libc::c_int, argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn pointer<T>(value: &mut T) -> u64 {
    std::ptr::from_mut(value) as u64
}

impl Guest {
    pub(crate) fn new(device: BorrowedFd<'_>, memory_length: usize) -> io::Result<Self> {
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let memory = Mapping::new(memory_length, anonymous, -1)?;
        // SAFETY: the requests take numbers; CREATE_VM and CREATE_VCPU answer with new
        // descriptors; the memory region's structure and the memory live long enough.
        unsafe {
            let machine = OwnedFd::from_raw_fd(ioctl(device, CREATE_VM, 0)?);
            // Intel's processors without "unrestricted guest" need three pages of the guest's
            // address space; others do not mind.
            ioctl(machine.as_fd(), SET_TSS_ADDRESS, 0xfffb_d000)?;
            let mut region = MemoryRegion {
                slot: 0,
                flags: 0,
                guest_address: 0,
                size: memory_length as u64,
                host_address: memory.address.as_ptr() as u64,
            };
            ioctl(
                machine.as_fd(),
                SET_USER_MEMORY_REGION,
                pointer(&mut region),
            )?;
            let processor = OwnedFd::from_raw_fd(ioctl(machine.as_fd(), CREATE_VCPU, 0)?);
            let length = ioctl(device, GET_VCPU_MMAP_SIZE, 0)? as usize;
            let state = Mapping::new(length, libc::MAP_SHARED, processor.as_raw_fd())?;
            Ok(Self {
                processor,
                _machine: machine,
                state,
                memory,
            })
        }
    }

    /// Writes into the guest's memory.
    pub(crate) fn write(&mut self, address: usize, bytes: &[u8]) {
        assert!(address + bytes.len() <= self.memory.length);
        // SAFETY: the place is inside the mapping, and the guest does not run.
        unsafe {
            let place = self.memory.address.as_ptr().add(address);
            place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    pub(crate) fn read(&self, address: usize) -> [u8; 4] {
        self.memory.read(address)
    }

    /// Sets the processor to 32-bit protected mode in ring 0, about to execute `entry`.
    pub(crate) fn enter_protected_mode(&mut self, entry: u64) -> io::Result<()> {
        let code = Segment {
            limit: u32::MAX,
            selector: 8,
            kind: 11,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Segment::default()
        };
        let data = Segment {
            selector: 16,
            kind: 3,
            ..code
        };
        let mut special = SpecialRegisters::default();
        let mut registers = Registers {
            rip: entry,
            rflags: 2,
            ..Registers::default()
        };
        let processor = self.processor.as_fd();
        // SAFETY: each request gets a pointer to its own structure, which lives through the call.
        unsafe {
            ioctl(processor, GET_SPECIAL_REGISTERS, pointer(&mut special))?;
            special.cs = code;
            special.data = [data; 5];
            special.cr0 |= 1;
            ioctl(processor, SET_SPECIAL_REGISTERS, pointer(&mut special))?;
            ioctl(processor, SET_REGISTERS, pointer(&mut registers))?;
        }
        Ok(())
    }

    /// Runs until the guest stops, and says why.
    pub(crate) fn run(&mut self) -> io::Result<u32> {
        // SAFETY: RUN takes no argument; what it writes is the shared state, which is mapped, and
        // the guest's memory, to which no reference exists.
        unsafe { ioctl(self.processor.as_fd(), RUN, 0)? };
        Ok(u32::from_le_bytes(self.state.read(EXIT_REASON_OFFSET)))
    }
}
