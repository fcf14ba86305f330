//! Gives the guest's interfaces their names, addresses and routes.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_model::{Endpoint, Error, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::sys;

/// Sets the loopback interface up.
pub fn prepare() -> io::Result<()> {
    sys::set_interface_up(control_socket()?.as_fd(), "lo")
}

fn control_socket() -> rustix::io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
    socket_with(family, kind, SocketFlags::CLOEXEC, None)
}

/// Sets the endpoints' interfaces up; the first one has the default route.
pub fn configure(endpoints: &[Endpoint]) -> Result<()> {
    if endpoints.is_empty() {
        return Ok(());
    }
    let socket = control_socket()
        .map_err(|errno| Error::host("open a socket to set the network up").with_source(errno))?;
    let socket = socket.as_fd();
    let failed = |name: &str, error: io::Error| {
        Error::host(format!("set up the interface {name} in the guest")).with_source(error)
    };
    for (index, endpoint) in endpoints.iter().enumerate() {
        let name = endpoint.interface.as_str();
        let steps = || -> io::Result<()> {
            let device = find_device(&endpoint.mac)?;
            if device != name {
                sys::rename_interface(socket, &device, name)?;
            }
            sys::set_interface_mtu(socket, name, endpoint.mtu)?;
            sys::set_interface_address(
                socket,
                name,
                endpoint.address,
                netmask(endpoint.prefix_length),
            )?;
            sys::set_interface_up(socket, name)?;
            if index == 0 {
                sys::add_default_route(socket, endpoint.gateway)?;
            }
            Ok(())
        };
        steps().map_err(|error| failed(name, error))?;
    }
    Ok(())
}

fn netmask(prefix_length: u8) -> Ipv4Addr {
    let bits = u32::MAX
        .checked_shl(32 - u32::from(prefix_length.min(32)))
        .unwrap_or(0);
    Ipv4Addr::from(bits)
}

/// The name that the kernel gave the device with this hardware address.
fn find_device(mac: &[u8; 6]) -> io::Result<String> {
    let wanted = mac
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":");
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        if address.trim_end() == wanted {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no device has the address {wanted}"),
    ))
}
