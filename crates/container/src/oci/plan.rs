//! The decided form of a configuration: what the helper carries out, with nothing left to look
//! up or to refuse.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};

use crate::{labels, namespaces};

use super::bounds;
use super::config::{self, Config, Device, Hook, IdMapping, TimeOffset};
use super::mappings;
use super::mount_options::{self, MountOptions};
use super::network_devices;
use super::user_namespace::Mappings;

/// The namespaces of the specification with their `CLONE_*` flags.
pub(super) const NAMESPACES: [(&str, i32); 8] = [
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", libc::CLONE_NEWIPC),
    ("mount", libc::CLONE_NEWNS),
    ("network", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("time", libc::CLONE_NEWTIME),
    ("user", libc::CLONE_NEWUSER),
    ("uts", libc::CLONE_NEWUTS),
];

/// What lxcfs and its like may cover below `/proc`; anything else there is refused.
pub(super) const PROC_EXCEPTIONS: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
];

#[derive(Debug)]
pub(super) struct Plan {
    /// New namespaces, as `CLONE_*` flags; and those that exist, by path.
    pub(super) new: i32,
    pub(super) joined: Vec<(i32, PathBuf)>,
    pub(super) user_mappings: Vec<IdMapping>,
    pub(super) group_mappings: Vec<IdMapping>,
    pub(super) time_offsets: BTreeMap<String, TimeOffset>,
    pub(super) rootfs: PathBuf,
    pub(super) read_only: bool,
    pub(super) no_pivot: bool,
    /// `MS_*` flags.
    pub(super) propagation: Option<(u64, bool)>,
    pub(super) hostname: String,
    pub(super) domainname: String,
    pub(super) mounts: Vec<Mount>,
    pub(super) devices: Vec<Device>,
    pub(super) masked: Vec<String>,
    pub(super) read_only_paths: Vec<String>,
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) create_container: Vec<Hook>,
    pub(super) start_container: Vec<Hook>,
    /// The root and the sources of bind mounts are the host's to open.
    pub(super) from_host: bool,
    /// The runtime has hooks of its own to run before the root is changed.
    pub(super) pauses: bool,
}

#[derive(Debug)]
pub(super) struct Mount {
    pub(super) target: String,
    pub(super) source: String,
    pub(super) kind: MountKind,
    pub(super) options: MountOptions,
    pub(super) id_map: Option<IdMap>,
}

/// How the ids of an id-mapped mount are mapped: as here, or without mappings as in the
/// container's user namespace.
#[derive(Debug)]
pub(super) struct IdMap {
    pub(super) users: Vec<IdMapping>,
    pub(super) groups: Vec<IdMapping>,
    pub(super) recursive: bool,
}

#[derive(Debug)]
pub(super) enum MountKind {
    Bind,
    Cgroup,
    Filesystem(String),
    /// Changes what is mounted there already.
    Remount,
}

impl Mount {
    /// SELinux labels no file of procfs or sysfs by a mount.
    fn set_label(&mut self, label: Option<&str>) {
        if let (MountKind::Filesystem(kind), Some(label)) = (&self.kind, label)
            && !matches!(kind.as_str(), "proc" | "sysfs")
        {
            self.options.data.push(("context".into(), label.into()));
        }
    }
}

impl Plan {
    /// # Errors
    /// Names the field that is wrong (`InvalidInput`) or not supported (`Unsupported`).
    pub(super) fn new(config: &Config, bundle: &Path, no_pivot: bool) -> Result<Self> {
        check_version(&config.oci_version)?;
        bounds::check(config)?;
        let linux = &config.linux;
        let (new, joined) = namespaces_of(config)?;
        let own = |flag: i32| new & flag != 0 || joined.iter().any(|(joined, _)| *joined == flag);
        for (field, text) in [
            ("hostname", &config.hostname),
            ("domainname", &config.domainname),
        ] {
            if !text.is_empty() && !own(libc::CLONE_NEWUTS) {
                return Err(Error::invalid(format!(
                    "{field}: it needs a uts namespace in linux.namespaces"
                )));
            }
        }
        if !linux.time_offsets.is_empty() && new & libc::CLONE_NEWTIME == 0 {
            return Err(Error::invalid(
                "linux.timeOffsets: it needs a new time namespace",
            ));
        }
        namespaces::check_sysctls(&linux.sysctl, own(libc::CLONE_NEWNET))
            .map_err(|error| Error::invalid("linux.sysctl").with_source(error))?;
        let ipc = linux.sysctl.keys().any(|name| !name.starts_with("net"));
        if ipc && !own(libc::CLONE_NEWIPC) {
            return Err(Error::invalid(
                "linux.sysctl: it needs an ipc namespace in linux.namespaces",
            ));
        }
        let root = config
            .root
            .as_ref()
            .ok_or_else(|| Error::invalid("root: it is missing"))?;
        let rootfs = bundle.join(&root.path);
        let rootfs = rootfs.canonicalize().map_err(|error| {
            Error::invalid(format!("root.path: {}", rootfs.display())).with_source(error)
        })?;
        if !rootfs.is_dir() {
            return Err(Error::invalid(format!(
                "root.path: {} is not a directory",
                rootfs.display()
            )));
        }
        let propagation = match linux.rootfs_propagation.as_deref() {
            None | Some("") => None,
            Some(name) => Some(mount_options::propagation(name).ok_or_else(|| {
                Error::invalid(format!(
                    "linux.rootfsPropagation: '{name}' is none of private, shared, slave and \
                     unbindable"
                ))
            })?),
        };
        for (field, paths) in [
            ("linux.maskedPaths", &linux.masked_paths),
            ("linux.readonlyPaths", &linux.readonly_paths),
        ] {
            if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
                return Err(Error::invalid(format!("{field}: '{path}' is not absolute")));
            }
        }
        let hooks = &config.hooks;
        check_hooks(hooks)?;
        mappings::check(config, new, &joined)?;
        network_devices::check(&linux.net_devices, own(libc::CLONE_NEWNET))?;
        let label = mount_label(linux.mount_label.as_deref())?;
        let mounts = config
            .mounts
            .iter()
            .enumerate()
            .map(|(index, mount)| {
                let namespace = own(libc::CLONE_NEWUSER);
                let mut mount = mount_of(mount, index, (bundle, &rootfs), namespace)?;
                mount.set_label(label);
                Ok(mount)
            })
            .collect::<Result<_>>()?;
        let from_host = own(libc::CLONE_NEWUSER)
            && new & libc::CLONE_NEWNS != 0
            && rustix::process::geteuid().is_root();
        Ok(Self {
            new,
            joined,
            user_mappings: linux.uid_mappings.clone(),
            group_mappings: linux.gid_mappings.clone(),
            time_offsets: linux.time_offsets.clone(),
            rootfs,
            read_only: root.readonly,
            no_pivot,
            propagation,
            hostname: config.hostname.clone(),
            domainname: config.domainname.clone(),
            mounts,
            devices: devices_of(&linux.devices)?,
            masked: linux.masked_paths.clone(),
            read_only_paths: linux.readonly_paths.clone(),
            sysctls: linux.sysctl.clone(),
            create_container: hooks.create_container.clone(),
            start_container: hooks.start_container.clone(),
            from_host,
            pauses: !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty(),
        })
    }

    /// Whether the source of this mount is the host's to open: for the root of a user namespace,
    /// and to map its ids.
    pub(super) fn is_from_host(&self, mount: &Mount) -> bool {
        matches!(mount.kind, MountKind::Bind) && (self.from_host || mount.id_map.is_some())
    }

    /// Whether the container has a namespace of this flag, new or joined.
    pub(super) fn has(&self, flag: i32) -> bool {
        self.new & flag != 0 || self.joined_path(flag).is_some()
    }

    /// Whether its namespaces need a process that joins and makes them before the clone of the
    /// container's.
    pub(super) fn needs_child(&self) -> bool {
        !self.joined.is_empty() || self.new & (libc::CLONE_NEWUSER | libc::CLONE_NEWTIME) != 0
    }

    /// The path of the namespace of this flag that is to be joined.
    pub(super) fn joined_path(&self, flag: i32) -> Option<&Path> {
        let joined = self.joined.iter().find(|(joined, _)| *joined == flag);
        joined.map(|(_, path)| path.as_path())
    }

    pub(super) fn mappings(&self) -> Mappings<'_> {
        Mappings {
            users: &self.user_mappings,
            groups: &self.group_mappings,
        }
    }
}

/// The label of what is mounted for the container (config-linux.md, "Mount Label").
fn mount_label(label: Option<&str>) -> Result<Option<&str>> {
    let label = label.filter(|label| !label.is_empty());
    if label.is_some() && !labels::selinux_is_enabled() {
        return Err(Error::unsupported(
            "linux.mountLabel: selinux label is specified in config, but selinux is disabled or \
             not supported on this host: leave it out",
        ));
    }
    Ok(label)
}

fn check_version(version: &str) -> Result<()> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] => Ok(()),
        _ => Err(Error::invalid(format!(
            "ociVersion: '{version}' is not a version 1 of the specification"
        ))),
    }
}

type Joined = Vec<(i32, PathBuf)>;

fn namespaces_of(config: &Config) -> Result<(i32, Joined)> {
    let (mut new, mut joined, mut seen) = (0, Vec::new(), 0);
    for (index, namespace) in config.linux.namespaces.iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        let flag = match NAMESPACES.iter().find(|(name, _)| *name == namespace.kind) {
            Some((_, flag)) => *flag,
            None => {
                return Err(Error::invalid(format!(
                    "{field}.type: '{}' is no namespace",
                    namespace.kind
                )));
            }
        };
        if seen & flag != 0 {
            return Err(Error::invalid(format!(
                "{field}.type: '{}' is there twice",
                namespace.kind
            )));
        }
        seen |= flag;
        match namespace.path.as_deref().filter(|path| !path.is_empty()) {
            None => new |= flag,
            Some(path) => joined.push((flag, path.into())),
        }
    }
    Ok((new, joined))
}

fn check_hooks(hooks: &config::Hooks) -> Result<()> {
    for (field, hooks) in [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ] {
        for (index, hook) in hooks.iter().enumerate() {
            if !hook.path.starts_with('/') {
                return Err(Error::invalid(format!(
                    "hooks.{field}[{index}].path: '{}' is not absolute",
                    hook.path
                )));
            }
            if hook.timeout == Some(0) {
                return Err(Error::invalid(format!(
                    "hooks.{field}[{index}].timeout: it is not greater than zero"
                )));
            }
        }
    }
    Ok(())
}

fn mount_of(
    mount: &config::Mount,
    index: usize,
    (bundle, rootfs): (&Path, &Path),
    has_user_namespace: bool,
) -> Result<Mount> {
    let field = format!("mounts[{index}]");
    let mut options = mount_options::parse(&mount.options, &field)?;
    options.bind |= mount.kind.as_deref() == Some("bind");
    let id_map = mappings::of_mount(mount, &options, &field, has_user_namespace)?;
    // Relative ones are deprecated, and taken as from the root; one that begins with the root's own
    // path on the host is taken as in it, as runc does.
    let target = Path::new(&mount.destination);
    let target = target.strip_prefix(rootfs).unwrap_or(target);
    let target = format!("/{}", target.to_string_lossy().trim_start_matches('/'));
    let source = mount.source.clone().unwrap_or_default();
    let kind = match mount.kind.as_deref() {
        _ if options.remount => MountKind::Remount,
        _ if options.bind => MountKind::Bind,
        Some("cgroup" | "cgroup2") => MountKind::Cgroup,
        Some(kind) if !kind.is_empty() && kind != "none" => MountKind::Filesystem(kind.into()),
        _ => return Err(Error::invalid(format!("{field}.type: it is missing"))),
    };
    if options.copy_up && !matches!(&kind, MountKind::Filesystem(kind) if kind == "tmpfs") {
        return Err(Error::invalid(format!(
            "{field}.options: 'tmpcopyup' needs the type tmpfs"
        )));
    }
    let source = if options.bind {
        if let Some(flag) = options.flags.first() {
            return Err(Error::invalid(format!(
                "{field}.options: '{flag}': bind mounts cannot have any filesystem-specific \
                 options applied"
            )));
        }
        if let Some((name, _)) = options.data.first() {
            return Err(Error::invalid(format!(
                "{field}.options: '{name}': bind mounts cannot have any filesystem-specific \
                 options applied"
            )));
        }
        bundle.join(source).to_string_lossy().into_owned()
    } else {
        source
    };
    Ok(Mount {
        target,
        source,
        kind,
        options,
        id_map,
    })
}

fn devices_of(devices: &[Device]) -> Result<Vec<Device>> {
    for (index, device) in devices.iter().enumerate() {
        let field = format!("linux.devices[{index}]");
        if !matches!(device.kind.as_str(), "b" | "c" | "u" | "p") {
            return Err(Error::invalid(format!(
                "{field}.type: '{}' is none of b, c, u and p",
                device.kind
            )));
        }
        for (name, number) in [("major", device.major), ("minor", device.minor)] {
            if u32::try_from(number).is_err() {
                return Err(Error::invalid(format!(
                    "{field}.{name}: {number} is no device number"
                )));
            }
        }
        if !device.path.starts_with('/') {
            return Err(Error::invalid(format!(
                "{field}.path: '{}' is not absolute",
                device.path
            )));
        }
    }
    Ok(devices.to_vec())
}
