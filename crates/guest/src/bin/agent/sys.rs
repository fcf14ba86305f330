//! The system calls that have no safe form elsewhere. The agent has one thread: nothing here may
//! be called from a second one.
#![allow(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Forks into the new namespaces of `flags` (`CLONE_NEW…`). `None` in the child.
pub fn fork(flags: libc::c_int) -> io::Result<Option<Pid>> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: with no stack and no CLONE_VM this is fork(2); the process has a single thread, so
    // that the child's copy of every lock and allocator is in a consistent state.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    Ok(Pid::from_raw(pid as i32))
}

/// Moves this process into new namespaces (`CLONE_NEW…`).
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor table is not among what callers unshare.
    checked(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Blocks SIGCHLD and gives a descriptor that is readable when it came.
pub fn child_signal() -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by sigemptyset before it is used; all pointers are to it.
    let descriptor = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    checked(descriptor.into())?;
    // SAFETY: signalfd has just made the descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Gives every signal its default action and blocks none, as a program expects at its start.
pub fn reset_signals() {
    // SAFETY: SIG_DFL is a valid action for every signal; those that cannot be changed answer
    // EINVAL, which is of no interest. `set` is initialised before it is used.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers. `Pid` is never 0 or negative, so that no group is meant.
    checked(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }.into()).map(drop)
}

pub fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length belong to `name`.
    checked(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Mixes the bytes into the kernel's random numbers, and makes all that come depend on them
/// (random(4)).
pub fn seed_random(seed: &[u8]) -> io::Result<()> {
    /// What `struct rand_pool_info` is followed by is part of it here.
    #[repr(C)]
    struct Pool {
        entropy_bits: libc::c_int,
        length: libc::c_int,
        bytes: [u8; 64],
    }
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let mut pool = Pool {
        entropy_bits: 0,
        length: 0,
        bytes: [0; 64],
    };
    let length = seed.len().min(pool.bytes.len());
    pool.bytes[..length].copy_from_slice(&seed[..length]);
    pool.length = length as libc::c_int;
    pool.entropy_bits = pool.length * 8;
    let device = std::fs::File::options().write(true).open("/dev/urandom")?;
    let device = device.as_raw_fd();
    // SAFETY: `pool` has the form that the call reads, says how long its bytes are, and lives
    // through it.
    checked(unsafe { libc::ioctl(device, RNDADDENTROPY as _, &raw const pool) }.into())?;
    // SAFETY: no pointers.
    checked(unsafe { libc::ioctl(device, RNDRESEEDCRNG as _, 0) }.into()).map(drop)
}

pub fn set_clock(unix_time_nanoseconds: u64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: (unix_time_nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (unix_time_nanoseconds % 1_000_000_000) as i64,
    };
    // SAFETY: `time` lives through the call.
    checked(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) }.into()).map(drop)
}

/// Ends the machine at once. The monitor ends with it.
pub fn power_off() -> ! {
    // SAFETY: no pointers.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
        libc::_exit(1)
    }
}

/// Ends this process without running anything of the parent's that it has a copy of.
pub fn exit(code: i32) -> ! {
    // SAFETY: no pointers.
    unsafe { libc::_exit(code) }
}

/// Makes `descriptor` the descriptor `target` of a program that is executed.
pub fn duplicate_onto(descriptor: BorrowedFd<'_>, target: i32) -> io::Result<()> {
    // SAFETY: no pointers; `target` is one of the standard descriptors, which nothing owns here.
    checked(unsafe { libc::dup2(descriptor.as_raw_fd(), target) }.into()).map(drop)
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq is plain data for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0, which ends the name.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
        .iter_mut()
        .zip(name.bytes())
    {
        *to = from as libc::c_char;
    }
    request
}

fn interface_ioctl(
    socket: BorrowedFd<'_>,
    number: libc::c_int,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: `request` is an ifreq, which all requests of this file take.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), number, request) }.into()).map(drop)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: a sockaddr is plain data for which all zeros are valid.
    let mut socket_address: libc::sockaddr = unsafe { std::mem::zeroed() };
    socket_address.sa_family = libc::AF_INET as libc::sa_family_t;
    // In a sockaddr_in two bytes of port come before the address.
    for (to, from) in socket_address.sa_data[2..6]
        .iter_mut()
        .zip(address.octets())
    {
        *to = from as libc::c_char;
    }
    socket_address
}

pub fn rename_interface(socket: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
    let mut request = interface_request(from);
    // SAFETY: a name is the part of the union that SIOCSIFNAME reads.
    request.ifr_ifru.ifru_newname = interface_request(to).ifr_name;
    interface_ioctl(socket, libc::SIOCSIFNAME as libc::c_int, &mut request)
}

pub fn set_interface_mtu(socket: BorrowedFd<'_>, name: &str, mtu: u32) -> io::Result<()> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_mtu = mtu as libc::c_int;
    interface_ioctl(socket, libc::SIOCSIFMTU as libc::c_int, &mut request)
}

pub fn set_interface_address(
    socket: BorrowedFd<'_>,
    name: &str,
    address: Ipv4Addr,
    netmask: Ipv4Addr,
) -> io::Result<()> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_addr = socket_address(address);
    interface_ioctl(socket, libc::SIOCSIFADDR as libc::c_int, &mut request)?;
    request.ifr_ifru.ifru_netmask = socket_address(netmask);
    interface_ioctl(socket, libc::SIOCSIFNETMASK as libc::c_int, &mut request)
}

pub fn set_interface_up(socket: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    interface_ioctl(socket, libc::SIOCSIFFLAGS as libc::c_int, &mut request)
}

pub fn add_default_route(socket: BorrowedFd<'_>, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: an rtentry is plain data for which all zeros are valid.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let number = libc::SIOCADDRT as libc::c_int;
    // SAFETY: SIOCADDRT takes an rtentry, which lives through the call; its device name is null.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), number, &route) }.into()).map(drop)
}

pub fn block_all_signals() -> io::Result<()> {
    // SAFETY: `set` is initialised by sigfillset before it is used.
    let result = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut())
    };
    checked(result.into()).map(drop)
}

/// Waits for any signal; all of them are blocked.
pub fn wait_for_signal() -> i32 {
    // SAFETY: `set` is initialised by sigfillset before it is used; no information is asked for.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        loop {
            let signal = libc::sigwaitinfo(&set, std::ptr::null_mut());
            if signal > 0 {
                return signal;
            }
        }
    }
}

/// Closes everything that was opened or inherited. What owns a descriptor must not be used again.
pub fn close_all_descriptors() {
    // SAFETY: no pointers; the caller runs nothing afterwards that has a descriptor.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
    }
}
