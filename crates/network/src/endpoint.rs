//! A sandbox's connection to a bridge: a veth pair for a container, a TAP device for a micro VM.
//!
//! Invariant: nothing has to be taken away afterwards. A veth pair goes with the namespace that
//! holds its peer, a TAP device with the descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_model::{Endpoint, Error, Result};
use ipnet::Ipv4Net;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bridge::{disable_ipv6, open_routing};
use crate::link::{LinkChange, Routing, VethPeer};
use crate::name::device_group;
use crate::sys;

/// Connects the container whose init is `pid`: `endpoint.interface` appears in its network
/// namespace with address and MAC, up, and with the default route if `default_route`.
///
/// # Errors
/// `NotFound` if the process or the bridge is gone; otherwise `Host`. Nothing is left behind.
pub fn attach_container(pid: u32, endpoint: &Endpoint, default_route: bool) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| {
            Error::not_found(format!(
                "open the network namespace of process {pid}: the container is not running"
            ))
            .with_source(io::Error::from(error))
        })?;
    attach_namespace(namespace.as_fd(), endpoint, default_route)
}

/// As [`attach_container`], for an open network namespace.
pub fn attach_namespace(
    namespace: BorrowedFd<'_>,
    endpoint: &Endpoint,
    default_route: bool,
) -> Result<()> {
    let mut routing = open_routing()?;
    let bridge = bridge_index(&mut routing, endpoint)?;
    let failed = |what: &str, error: io::Error| {
        Error::host(format!(
            "{what} {} for interface {} on bridge {}",
            endpoint.host_device, endpoint.interface, endpoint.bridge
        ))
        .with_source(error)
    };
    add_veth(&mut routing, namespace, endpoint)
        .map_err(|error| failed("create veth pair", error))?;
    let connected = set_up_host_end(&mut routing, endpoint, bridge)
        .and_then(|()| set_up_inside(namespace, endpoint, default_route));
    connected.map_err(|error| {
        if let Ok(Some(link)) = routing.link(&endpoint.host_device) {
            let _ = routing.delete_link(link.index);
        }
        failed("set up veth pair", error)
    })
}

/// Opens a TAP device in the endpoint's bridge, with virtio-net headers. It vanishes when the
/// last copy of the descriptor is closed.
///
/// # Errors
/// `Unsupported` if the host has no TUN driver, `NotFound` if the bridge is gone, `Conflict` if
/// another process has the device open; otherwise `Host`.
pub fn open_tap(endpoint: &Endpoint) -> Result<OwnedFd> {
    let mut routing = open_routing()?;
    let bridge = bridge_index(&mut routing, endpoint)?;
    let tun = rustix::fs::open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| match error {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            Error::unsupported("open /dev/net/tun: load the driver with 'modprobe tun'")
        }
        _ => Error::host("open /dev/net/tun").with_source(io::Error::from(error)),
    })?;
    let device = &endpoint.host_device;
    sys::set_tap(&tun, device).map_err(|error| {
        if error.raw_os_error() == Some(libc::EBUSY) {
            return Error::conflict(format!(
                "TAP device {device} is in use by another process: wait for that micro VM to end"
            ))
            .retryable();
        }
        Error::host(format!("create TAP device {device}")).with_source(error)
    })?;
    set_up_host_end(&mut routing, endpoint, bridge).map_err(|error| {
        Error::host(format!(
            "put TAP device {device} on bridge {}",
            endpoint.bridge
        ))
        .with_source(error)
    })?;
    Ok(tun)
}

fn bridge_index(routing: &mut Routing, endpoint: &Endpoint) -> Result<u32> {
    let bridge = routing.link(&endpoint.bridge).map_err(|error| {
        Error::host(format!("look up bridge {}", endpoint.bridge)).with_source(error)
    })?;
    bridge.map(|link| link.index).ok_or_else(|| {
        Error::not_found(format!(
            "bridge {} is not on the host: its network was removed or never made",
            endpoint.bridge
        ))
    })
}

fn add_veth(
    routing: &mut Routing,
    namespace: BorrowedFd<'_>,
    endpoint: &Endpoint,
) -> io::Result<()> {
    let peer = VethPeer {
        name: &endpoint.interface,
        mac: endpoint.mac,
        namespace,
    };
    match routing.add_veth(&endpoint.host_device, endpoint.mtu, &peer) {
        // The kernel takes a dead namespace's devices away some time after its last process: what
        // has our name is the same sandbox's device from before its restart.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            let Some(stale) = routing.link(&endpoint.host_device)? else {
                return routing.add_veth(&endpoint.host_device, endpoint.mtu, &peer);
            };
            routing.delete_link(stale.index)?;
            routing.add_veth(&endpoint.host_device, endpoint.mtu, &peer)
        }
        other => other,
    }
}

fn set_up_host_end(routing: &mut Routing, endpoint: &Endpoint, bridge: u32) -> io::Result<()> {
    let link = routing
        .link(&endpoint.host_device)?
        .ok_or(io::ErrorKind::NotFound)?;
    disable_ipv6(&endpoint.host_device);
    routing.set_link(
        link.index,
        &LinkChange {
            up: true,
            mtu: Some(endpoint.mtu),
            master: Some(bridge),
            group: Some(device_group(&endpoint.bridge)),
            alias: None,
        },
    )?;
    routing.set_hairpin(link.index)
}

/// Configures the container's side, on a thread that enters the namespace and ends in it.
fn set_up_inside(
    namespace: BorrowedFd<'_>,
    endpoint: &Endpoint,
    default_route: bool,
) -> io::Result<()> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new()
            .name("attach".to_owned())
            .spawn_scoped(scope, || {
                move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
                configure_interface(endpoint, default_route)
            })?;
        inside
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the configuring thread panicked")))
    })
}

fn configure_interface(endpoint: &Endpoint, default_route: bool) -> io::Result<()> {
    let mut routing = Routing::open()?;
    let link = routing
        .link(&endpoint.interface)?
        .ok_or(io::ErrorKind::NotFound)?;
    disable_ipv6(&endpoint.interface);
    let address = Ipv4Net::new(endpoint.address, endpoint.prefix_length)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    routing.add_address(link.index, address)?;
    let up = LinkChange {
        up: true,
        ..LinkChange::default()
    };
    routing.set_link(link.index, &up)?;
    if let Some(loopback) = routing.link("lo")?
        && !loopback.up
    {
        routing.set_link(loopback.index, &up)?;
    }
    if default_route {
        routing.add_default_route(link.index, endpoint.gateway)?;
    }
    Ok(())
}
