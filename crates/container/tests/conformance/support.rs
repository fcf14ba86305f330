//! A root of busybox, specifications over it, and looks at the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_container::{ContainerBackend, Helper};
use bulkhead_model::testing::{Fixture, GROUP, PASSWD};
use bulkhead_model::{
    Backend, ByteSize, EtcFiles, Kind, NetworkMode, ProcessSpec, Resources, RootFilesystem,
    SandboxSpec, Security,
};
use tempfile::TempDir;

/// The cgroup that this run's sandboxes are in.
pub fn cgroup_parent() -> String {
    format!("bulkhead-test-{}", std::process::id())
}

/// A test of containers alone.
pub type HostScenario = (&'static str, fn(&Host));

/// One scenario's directories and backend.
pub struct Host {
    directory: TempDir,
    backend: ContainerBackend,
    count: AtomicU64,
}

impl Host {
    pub fn new() -> Self {
        let helper = Helper {
            program: "/proc/self/exe".into(),
            arguments: vec!["container-init".into()],
        };
        Self {
            directory: tempfile::Builder::new()
                .prefix("bulkhead-")
                .tempdir()
                .expect("directory"),
            backend: ContainerBackend::new(helper).with_cgroup_parent(cgroup_parent()),
            count: AtomicU64::new(0),
        }
    }

    /// An empty directory of this scenario's own.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.path().join(format!("{name}-{number}"));
        fs::create_dir(&path).expect("directory");
        path
    }

    pub fn container_backend(&self) -> &ContainerBackend {
        &self.backend
    }

    /// Fails if anything of the sandbox is left on the host.
    pub fn assert_no_trace(&self, spec: &SandboxSpec) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let own = self.directory.path().to_str().expect("path");
        assert!(!mounts.contains(own), "a mount is left: {mounts}");
        for hierarchy in bulkhead_container::cgroup::probe()
            .expect("cgroups")
            .hierarchies()
        {
            let group = hierarchy.mount_point.join(cgroup_parent()).join(&spec.id);
            assert!(!group.exists(), "{} is left", group.display());
        }
        let writable = format!("{}/", spec.root.writable.display());
        for process in fs::read_dir("/proc").expect("processes").flatten() {
            let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            assert!(
                !mounts.contains(&writable),
                "process {:?} is left",
                process.file_name()
            );
        }
        for directory in [&spec.state_dir, &spec.run_dir] {
            let left: Vec<_> = fs::read_dir(directory)
                .expect("directory")
                .flatten()
                .collect();
            assert!(left.is_empty(), "{left:?} is left");
        }
    }
}

impl Fixture for Host {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    fn spec(&self, args: &[&str]) -> SandboxSpec {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:032x}{number:032x}", std::process::id());
        SandboxSpec {
            name: format!("test-{number}"),
            kind: Kind::Container,
            hostname: "sandbox".into(),
            process: ProcessSpec {
                args: args.iter().map(|&arg| arg.to_owned()).collect(),
                env: vec!["PATH=/bin".into()],
                cwd: "/".into(),
                ..ProcessSpec::default()
            },
            root: RootFilesystem {
                layers: vec![layer().to_owned()],
                chain_id: "0".repeat(64),
                writable: self.fresh("writable"),
                size: None,
                read_only: false,
            },
            mounts: Vec::new(),
            network: NetworkMode::None,
            etc: EtcFiles::default(),
            resources: Resources::default(),
            security: Security::default(),
            sysctls: BTreeMap::new(),
            shm_size: ByteSize::from_mib(64),
            state_dir: self.fresh("state"),
            run_dir: self.fresh("run"),
            id,
        }
    }

    fn directory(&self) -> PathBuf {
        self.fresh("bind")
    }
}

/// The one read-only layer that all scenarios share, removed at the end of the process.
pub fn layer() -> &'static Path {
    static LAYER: OnceLock<PathBuf> = OnceLock::new();
    LAYER.get_or_init(|| {
        let root = std::env::temp_dir().join(format!("bulkhead-layer-{}", std::process::id()));
        make_layer(&root);
        root
    })
}

/// A sandbox's group in the hierarchy that has `controller`.
pub fn group(spec: &SandboxSpec, controller: &str) -> Option<PathBuf> {
    let layout = bulkhead_container::cgroup::probe().expect("cgroups");
    layout
        .hierarchies()
        .find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
        .map(|hierarchy| hierarchy.mount_point.join(cgroup_parent()).join(&spec.id))
}

/// Removes the shared layer; to be called when all scenarios have ended.
pub fn remove_layer() {
    let root = std::env::temp_dir().join(format!("bulkhead-layer-{}", std::process::id()));
    if root.exists() {
        fs::remove_dir_all(root).expect("remove the layer");
    }
}

fn make_layer(root: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox: install Debian's package busybox-static");
    for directory in ["bin", "etc", "tmp", "root", "home/web"] {
        fs::create_dir_all(root.join(directory)).expect("directory");
    }
    fs::copy(busybox, root.join("bin/busybox")).expect("copy busybox");
    let list = Command::new(busybox)
        .arg("--list")
        .output()
        .expect("list of applets");
    for applet in String::from_utf8_lossy(&list.stdout).lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet)).expect("applet");
        }
    }
    fs::write(root.join("etc/passwd"), PASSWD).expect("passwd");
    fs::write(root.join("etc/group"), GROUP).expect("group");
}
