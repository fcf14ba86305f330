//! Guests for tests: a root of busybox, directories of their own, and the kernel that was built.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use bulkhead_microvm::{Accelerator, Launcher, MicroVmBackend, MicroVmConfig};
use bulkhead_model::testing::{Fixture, GROUP, PASSWD};
use bulkhead_model::{
    Backend, ByteSize, EtcFiles, Kind, NetworkMode, ProcessSpec, Resources, RootFilesystem,
    SandboxSpec, Security,
};
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

/// Why no guest can run on this host.
pub fn why_not() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("micro VMs need root for their root filesystem's owners".into());
    }
    if kernel().is_none() {
        return Some("there is no guest kernel: run 'make kernel', or set BULKHEAD_KERNEL".into());
    }
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mkfs.erofs", "erofs-utils"),
        ("mkfs.ext4", "e2fsprogs"),
        ("busybox", "busybox-static"),
    ] {
        let found = Command::new(program).arg("--help").output().is_ok();
        if !found {
            return Some(format!("{program} is missing: install {package}"));
        }
    }
    None
}

/// `BULKHEAD_KERNEL`, or the newest that was built.
fn kernel() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("BULKHEAD_KERNEL") {
        return Some(PathBuf::from(path));
    }
    let entries = fs::read_dir("/var/cache/bulkhead/kernel").ok()?;
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("vmlinux-"))
        .max_by_key(|entry| {
            entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
        })
        .map(|entry| entry.path())
}

/// A backend with directories that are removed with it.
pub struct Guests {
    pub backend: MicroVmBackend,
    pub directory: TempDir,
    layer: PathBuf,
    count: AtomicU32,
}

impl Guests {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("bulkhead-microvm-")
            .tempdir()
            .expect("temporary directory");
        let layer = directory.path().join("layer");
        make_layer(&layer);
        let backend = MicroVmBackend::new(config(&directory.path().join("cache")));
        Self {
            backend,
            directory,
            layer,
            count: AtomicU32::new(0),
        }
    }
}

pub fn config(cache_dir: &Path) -> MicroVmConfig {
    MicroVmConfig {
        qemu: "qemu-system-x86_64".into(),
        kernel: kernel().expect("a kernel was looked for before"),
        cache_dir: cache_dir.to_owned(),
        accelerator: Accelerator::Tcg,
        launcher: Launcher {
            program: "/proc/self/exe".into(),
            arguments: vec!["microvm-launch".into()],
        },
        control_groups: Vec::new(),
    }
}

fn make_layer(layer: &Path) {
    for directory in ["bin", "etc", "tmp", "home/web"] {
        fs::create_dir_all(layer.join(directory)).expect("layer");
    }
    fs::copy(BUSYBOX, layer.join("bin/busybox")).expect("busybox");
    for applet in applets().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", layer.join("bin").join(applet)).expect("applet");
    }
    fs::write(layer.join("etc/passwd"), PASSWD).expect("passwd");
    fs::write(layer.join("etc/group"), GROUP).expect("group");
}

fn applets() -> &'static str {
    static APPLETS: OnceLock<String> = OnceLock::new();
    APPLETS.get_or_init(|| {
        let output = Command::new(BUSYBOX)
            .arg("--list")
            .output()
            .expect("busybox");
        String::from_utf8(output.stdout).expect("names of applets")
    })
}

impl Fixture for Guests {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    fn spec(&self, args: &[&str]) -> SandboxSpec {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let own = self.directory.path().join(number.to_string());
        let (state_dir, run_dir) = (own.join("state"), own.join("run"));
        for directory in [&state_dir, &run_dir] {
            fs::create_dir_all(directory).expect("directories of the sandbox");
        }
        SandboxSpec {
            id: format!("{number:064x}"),
            name: format!("test-{number}"),
            kind: Kind::Microvm,
            hostname: "test".into(),
            process: ProcessSpec {
                args: args.iter().map(|argument| (*argument).to_owned()).collect(),
                env: vec!["PATH=/bin".into()],
                cwd: "/".into(),
                ..ProcessSpec::default()
            },
            root: RootFilesystem {
                layers: vec![self.layer.clone()],
                chain_id: "ab".repeat(32),
                writable: state_dir.join("writable"),
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
            state_dir,
            run_dir,
        }
    }

    fn directory(&self) -> PathBuf {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.path().join(format!("given-{number}"));
        fs::create_dir(&directory).expect("directory");
        directory
    }
}
