//! What the guest needs before it is told anything: the kernel's file systems and the channel.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use bulkhead_guest::{DISK_SERIAL, IMAGE_SERIAL, OWN_PLACES, PLACES, PORT_NAME};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};

/// Where the sandbox's root is put together.
pub const ROOT: &str = "/root";
/// The read-only image.
const IMAGE: &str = "/image";
/// The sandbox's own disk.
const DISK: &str = "/disk";
/// The agent's own tmpfs.
pub const RUN: &str = "/run";

/// Mounts what the agent itself needs.
pub fn mount_system() -> io::Result<()> {
    for directory in ["/proc", "/sys", "/dev", ROOT, IMAGE, DISK, RUN] {
        fs::create_dir_all(directory)?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount("proc", "/proc", "proc", flags, None)?;
    mount("sysfs", "/sys", "sysfs", flags, None)?;
    mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, None)?;
    mount("tmpfs", RUN, "tmpfs", flags, c"mode=0755")?;
    Ok(())
}

/// Lets the kernel look again at the places where it found no device when it booted: a guest that
/// goes on from a template has got its disks and interfaces since.
pub fn find_devices() -> io::Result<()> {
    // By their names, which costs less than to look what there is.
    let mut driver = File::options()
        .write(true)
        .open("/sys/bus/platform/drivers/virtio-mmio/bind")?;
    for place in OWN_PLACES..PLACES {
        match driver.write(format!("virtio-mmio.{place}").as_bytes()) {
            // The place is empty, or had its device at boot.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EBUSY)) => {}
            result => drop(result?),
        }
    }
    Ok(())
}

/// Joins the image and the sandbox's disk to its root.
pub fn mount_root() -> io::Result<()> {
    let image = find_disk(IMAGE_SERIAL)?;
    mount(image, IMAGE, "erofs", MountFlags::RDONLY, None)?;
    let disk = find_disk(DISK_SERIAL)?;
    mount(disk, DISK, "ext4", MountFlags::NOATIME, None)?;
    for directory in ["/disk/upper", "/disk/work"] {
        fs::create_dir_all(directory)?;
    }
    mount(
        "overlay",
        ROOT,
        "overlay",
        MountFlags::empty(),
        c"lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work",
    )?;
    Ok(())
}

/// The order of disks is the monitor's affair; the serial number says which is which.
fn find_disk(serial: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim_end() == serial {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("the monitor gave the guest no disk '{serial}'"),
    ))
}

/// Opens the virtio-console port that leads to the supervisor.
pub fn open_channel() -> io::Result<OwnedFd> {
    // Devices are probed before PID 1 runs, but the port's name comes in a message of its own.
    for _ in 0..2000 {
        if let Some(path) = find_port()? {
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let port = rustix::fs::open(path, flags, Mode::empty())?;
            wait_until_connected(&port)?;
            return Ok(port);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "the monitor gave the guest no channel",
    ))
}

/// A port hangs up as long as the monitor has not said that its other side is open.
fn wait_until_connected(port: &OwnedFd) -> io::Result<()> {
    loop {
        let mut descriptors = [PollFd::new(port, PollFlags::empty())];
        poll(&mut descriptors, Some(&Timespec::default()))?;
        if !descriptors[0].revents().contains(PollFlags::HUP) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn find_port() -> io::Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir("/sys/class/virtio-ports") else {
        return Ok(None);
    };
    for entry in entries {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return Ok(Some(PathBuf::from("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}
