//! Puts the sandbox's root together in the agent's own mount namespace: devices, volumes and the
//! files of `/etc`. Only what must be seen from inside the workload's PID namespace is left to
//! [`crate::spawn`].

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use bulkhead_guest::{Configuration, GuestMount, GuestMountSource};
use bulkhead_model::{Error, ErrorKind, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, makedev, mkdirat, mknodat, openat2,
};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, mount, mount_bind, mount_bind_recursive, mount_move, mount_remount,
};

use crate::boot::{ROOT, RUN};

type Io<T> = rustix::io::Result<T>;

/// Name, major and minor number of the devices that every container has.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Where `/dev` is made before the sandbox has a root.
const PREPARED_DEV: &str = "/run/dev";

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Mounts everything of the configuration below [`ROOT`].
pub fn prepare(configuration: &Configuration) -> Result<()> {
    let step = |what: &str, result: Io<()>| {
        result.map_err(|errno| Error::host(format!("{what} in the guest")).with_source(errno))
    };
    step("make the mount points", make_mount_points())?;
    step("make /dev", make_devices(configuration))?;
    step("write the files of /etc", write_etc(configuration))?;
    for (index, entry) in configuration.mounts.iter().enumerate() {
        make_mount(index, entry).map_err(|errno| {
            let kind = match errno {
                Errno::NOTDIR | Errno::ISDIR | Errno::LOOP => ErrorKind::InvalidInput,
                _ => ErrorKind::Host,
            };
            Error::new(kind, format!("mount {} in the guest", entry.target)).with_source(errno)
        })?;
    }
    if configuration.root_read_only {
        step(
            "make the root read-only",
            remount(Path::new(ROOT), MountFlags::RDONLY),
        )?;
    }
    Ok(())
}

fn make_mount_points() -> Io<()> {
    let root = open_root()?;
    for directory in ["proc", "sys", "dev", "etc"] {
        make_directories(&root, Path::new(directory))?;
    }
    Ok(())
}

/// Makes the `/dev` of a sandbox that is not privileged, all but what its configuration says.
pub fn prepare_devices() -> Io<()> {
    fs::create_dir(PREPARED_DEV)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    mount_dev("tmpfs", Path::new(PREPARED_DEV))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fill_dev(&rustix::fs::open(PREPARED_DEV, flags, Mode::empty())?)
}

fn make_devices(configuration: &Configuration) -> Io<()> {
    // The image may have anything at /dev, a link that leads elsewhere included (CVE-2026-41579).
    let root = open_root()?;
    let find = || resolve(&root, Path::new("dev"), OFlags::DIRECTORY);
    if configuration.privileged {
        mount_dev("devtmpfs", &descriptor_path(&find()?))?;
        fill_dev(&find()?)?;
    } else {
        mount_move(PREPARED_DEV, descriptor_path(&find()?))?;
    }
    let options = CString::new(format!("mode=1777,size={}", configuration.shm_size))
        .map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount_in_dev(&find()?, "shm", "tmpfs", flags, &options)
}

fn mount_dev(kind: &str, target: &Path) -> Io<()> {
    let flags = MountFlags::NOSUID | MountFlags::STRICTATIME;
    mount(kind, target, kind, flags, c"mode=0755,size=65536k")
}

/// What is the same in every sandbox.
fn fill_dev(dev: &OwnedFd) -> Io<()> {
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        match mknodat(
            dev,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        ) {
            Ok(()) => rustix::fs::chmodat(dev, name, mode, AtFlags::empty())?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    for (name, target) in LINKS {
        match rustix::fs::unlinkat(dev, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        rustix::fs::symlinkat(target, dev, name)?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount_in_dev(dev, "pts", "devpts", flags, options)?;
    mount_in_dev(dev, "mqueue", "mqueue", flags | MountFlags::NODEV, c"")
}

fn mount_in_dev(
    dev: &OwnedFd,
    name: &str,
    kind: &str,
    flags: MountFlags,
    options: &CStr,
) -> Io<()> {
    match mkdirat(dev, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let target = resolve(dev, Path::new(name), OFlags::DIRECTORY)?;
    mount(kind, descriptor_path(&target), kind, flags, options)
}

/// The files are in the agent's tmpfs and bound over those of the image, which stays unchanged.
fn write_etc(configuration: &Configuration) -> Io<()> {
    let etc = &configuration.etc;
    let root = open_root()?;
    for (name, text) in [
        ("hosts", &etc.hosts),
        ("resolv.conf", &etc.resolv_conf),
        ("hostname", &etc.hostname),
    ] {
        let path = Path::new(RUN).join(name);
        fs::write(&path, text)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let target = make_file(&root, &Path::new("etc").join(name))?;
        mount_bind(&path, descriptor_path(&target))?;
    }
    Ok(())
}

fn make_mount(index: usize, entry: &GuestMount) -> Io<()> {
    let root = open_root()?;
    let target = Path::new(&entry.target);
    let mut flags = MountFlags::empty();
    if entry.read_only {
        flags |= MountFlags::RDONLY;
    }
    match &entry.source {
        GuestMountSource::Tmpfs { size, mode } => {
            let mut options = format!("mode={:o}", mode.unwrap_or(0o1777));
            if let Some(size) = size {
                options.push_str(&format!(",size={size}"));
            }
            let options = CString::new(options).map_err(|_| Errno::INVAL)?;
            make_directories(&root, target)?;
            let target = resolve(&root, target, OFlags::DIRECTORY)?;
            let flags = flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount(
                "tmpfs",
                descriptor_path(&target),
                "tmpfs",
                flags,
                options.as_c_str(),
            )
        }
        GuestMountSource::Shared { tag, file } => {
            // `mmap` lets a program map files for writing, which a database's files need; with
            // one guest on the share there is nobody to be coherent with but the host's readers.
            let options = c"trans=virtio,version=9p2000.L,msize=512000,cache=mmap,posixacl";
            let Some(file) = file else {
                make_directories(&root, target)?;
                let target = resolve(&root, target, OFlags::DIRECTORY)?;
                return mount(tag.as_str(), descriptor_path(&target), "9p", flags, options);
            };
            let share = PathBuf::from(format!("{RUN}/share-{index}"));
            fs::create_dir(&share).map_err(|_| Errno::IO)?;
            mount(tag.as_str(), &share, "9p", flags, options)?;
            let target = make_file(&root, target)?;
            // A share that is read-only is so under every mount of it.
            mount_bind(share.join(file), descriptor_path(&target))
        }
    }
}

/// A directory of the sandbox's root to mount on, whatever links lead there.
pub fn mount_point(path: &str) -> Io<MountPoint> {
    resolve(&open_root()?, Path::new(path), OFlags::DIRECTORY).map(MountPoint)
}

/// A directory that was found and is held.
#[derive(Debug)]
pub struct MountPoint(OwnedFd);

impl MountPoint {
    pub fn path(&self) -> PathBuf {
        descriptor_path(&self.0)
    }
}

/// Opens the sandbox's root as it is now: a descriptor from before a mount sees below it.
fn open_root() -> Io<OwnedFd> {
    rustix::fs::open(
        ROOT,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Opens a path inside `root`, whatever links are on the way (CVE-2024-45310).
fn resolve(root: &OwnedFd, path: &Path, flags: OFlags) -> Io<OwnedFd> {
    openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC | flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Makes the directories of `path` that do not exist, all of them inside `root`.
fn make_directories(root: &OwnedFd, path: &Path) -> Io<()> {
    let mut made = PathBuf::from("/");
    let mut parent = resolve(root, &made, OFlags::DIRECTORY)?;
    for component in path.components() {
        let std::path::Component::Normal(name) = component else {
            continue;
        };
        made.push(name);
        parent = match resolve(root, &made, OFlags::DIRECTORY) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                resolve(root, &made, OFlags::DIRECTORY)?
            }
            Err(errno) => return Err(errno),
        };
    }
    Ok(())
}

/// Opens the file to mount on, and makes it first where it does not exist.
fn make_file(root: &OwnedFd, path: &Path) -> Io<OwnedFd> {
    match resolve(root, path, OFlags::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().ok_or(Errno::INVAL)?;
    make_directories(root, parent)?;
    let parent = resolve(root, parent, OFlags::DIRECTORY)?;
    // A dangling link (a systemd image's resolv.conf) is replaced: its target is nobody's.
    match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    drop(rustix::fs::openat(
        &parent,
        name,
        flags,
        Mode::from_raw_mode(0o644),
    )?);
    resolve(root, path, OFlags::empty())
}

/// A path that means what the descriptor means, for system calls that take no descriptor.
fn descriptor_path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()))
}

fn remount(path: &Path, flags: MountFlags) -> Io<()> {
    mount_remount(path, MountFlags::BIND | flags, c"")
}

/// Hides what Docker hides and protects what it protects, seen from the root of the calling
/// process.
pub fn mask_paths() -> Io<()> {
    const MASKED: [&str; 10] = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
    ];
    const PROTECTED: [&str; 5] = [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ];
    for path in MASKED {
        let Ok(found) = rustix::fs::statat(CWD, path, AtFlags::empty()) else {
            continue;
        };
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, c"size=0k")?;
        } else {
            mount_bind("/dev/null", path)?;
        }
    }
    for path in PROTECTED {
        match mount_bind_recursive(path, path) {
            Ok(()) => remount(
                Path::new(path),
                MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            )?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
