//! A build context, a base image with busybox in it, and a runner that really runs.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_image::build::{BuildEvent, BuildOptions, Builder, RunStep, StepRunner};
use bulkhead_image::{ImageId, ImageStore};
use bulkhead_model::{Error, MountSource, Result};

use super::Archive;

const BUSYBOX: &str = "/bin/busybox";

/// Runs a step in namespaces of its own, in a root made of the step's overlay.
pub struct Unshared;

const SCRIPT: &str = r#"
mount --make-rprivate /
mount -t overlay overlay -o "$OPTIONS,redirect_dir=off,metacopy=off,index=off" "$ROOT"
while read -r kind source target; do
    if [ -d "$source" ] || [ "$kind" = tmpfs ]; then
        mkdir -p "$ROOT$target"
    else
        mkdir -p "$(dirname "$ROOT$target")"
        [ -e "$ROOT$target" ] || : >"$ROOT$target"
    fi
    case $kind in
    tmpfs) mount -t tmpfs tmpfs "$ROOT$target" ;;
    ro) mount --bind "$source" "$ROOT$target" && mount -o remount,bind,ro "$ROOT$target" ;;
    rw) mount --bind "$source" "$ROOT$target" ;;
    esac
done <"$MOUNTS"
exec chroot --userspec="$STEP_USER" "$ROOT" "$@"
"#;

impl StepRunner for Unshared {
    fn run(&self, step: &RunStep, output: &mut dyn Write) -> Result<i32> {
        let beside = step.upper.parent().expect("a parent");
        let root = beside.join("root");
        fs::create_dir(&root).unwrap();
        let mut mounts = String::from("ro /etc/hostname /etc/resolv.conf\n");
        for mount in &step.mounts {
            let kind = if mount.read_only { "ro" } else { "rw" };
            match &mount.source {
                MountSource::Bind(path) => {
                    mounts.push_str(&format!("{kind} {} {}\n", path.display(), mount.target));
                }
                MountSource::Tmpfs { .. } => {
                    mounts.push_str(&format!("tmpfs - {}\n", mount.target))
                }
            }
        }
        let list = beside.join("mounts");
        fs::write(&list, mounts).unwrap();
        let lower: Vec<_> = step
            .layers
            .iter()
            .map(|layer| layer.to_str().unwrap())
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            step.upper.display(),
            step.work.display()
        );
        let user = if step.user.is_empty() {
            "0:0"
        } else {
            &step.user
        };
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut child = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-ec",
                SCRIPT,
                "sh",
            ])
            .args([BUSYBOX, "env", "-i"])
            .args(&step.env)
            .args([BUSYBOX, "sh", "-c", "cd \"$0\" && exec \"$@\"", &step.cwd])
            .args(&step.args)
            .env("OPTIONS", options)
            .env("ROOT", &root)
            .env("MOUNTS", &list)
            .env("STEP_USER", user)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .map_err(|error| Error::host("start a step").with_source(error))?;
        let mut buffer = [0; 4096];
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => break,
                read => output.write_all(&buffer[..read]).unwrap(),
            }
        }
        Ok(child.wait().unwrap().code().unwrap_or(255))
    }
}

/// What a build gave.
pub struct Outcome {
    pub result: Result<ImageId>,
    pub events: Vec<BuildEvent>,
}

impl Outcome {
    pub fn id(&self) -> ImageId {
        match &self.result {
            Ok(id) => *id,
            Err(error) => panic!("{error}"),
        }
    }

    pub fn error(&self) -> String {
        self.result.as_ref().expect_err("an error").to_string()
    }

    pub fn cached(&self) -> usize {
        let cached = |event: &&BuildEvent| matches!(event, BuildEvent::Cached { .. });
        self.events.iter().filter(cached).count()
    }

    pub fn started(&self) -> usize {
        let started = |event: &&BuildEvent| matches!(event, BuildEvent::Started { .. });
        self.events.iter().filter(started).count()
    }

    pub fn output(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                BuildEvent::Output { line, .. } => Some(line.as_str()),
                _ => None,
            })
            .collect()
    }
}

/// A build context and a store that has the image `busybox`.
pub struct Project {
    pub directory: tempfile::TempDir,
    pub store: ImageStore,
    pub options: BuildOptions,
}

impl Project {
    /// `None`, said aloud, where busybox is not installed.
    pub fn new() -> Option<Self> {
        let Ok(busybox) = fs::read(BUSYBOX) else {
            eprintln!("skipped: {BUSYBOX} is missing (package busybox-static)");
            return None;
        };
        let (directory, store) = super::store();
        let mut archive = Archive::new()
            .directory("./", 0o755, 0)
            .directory("bin/", 0o755, 0)
            .directory("etc/", 0o755, 0)
            .directory("tmp/", 0o1777, 0)
            .directory("usr/lib/", 0o755, 0)
            .link("lib", tar::EntryType::Symlink, "usr/lib")
            .file(
                "etc/passwd",
                b"root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n",
            )
            .file("etc/group", b"root:x:0:\nweb:x:44:\nssl:x:55:\n")
            .program("bin/busybox", &busybox);
        for applet in [
            "sh", "cat", "ls", "mkdir", "rm", "echo", "stat", "id", "wc", "sleep", "touch",
            "chmod", "mv",
        ] {
            archive = archive.link(&format!("bin/{applet}"), tar::EntryType::Symlink, "busybox");
        }
        store
            .import(&archive.finish()[..], Some("busybox"), &[], None)
            .unwrap();
        let context = directory.path().join("context");
        fs::create_dir(&context).unwrap();
        let options = BuildOptions {
            dockerfile: context.join("Dockerfile"),
            dockerfile_name: "Dockerfile".to_owned(),
            context,
            tags: vec!["built".to_owned()],
            ..BuildOptions::default()
        };
        Some(Self {
            directory,
            store,
            options,
        })
    }

    pub fn file(&self, path: &str, content: &str) -> &Self {
        let path = self.options.context.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        let path = self.options.context.join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub fn build(&self, dockerfile: &str) -> Outcome {
        self.file("Dockerfile", dockerfile);
        self.build_with(&self.options)
    }

    pub fn build_with(&self, options: &BuildOptions) -> Outcome {
        let events = RefCell::new(Vec::new());
        let progress = |event| events.borrow_mut().push(event);
        let result = Builder::new(&self.store, &Unshared, &progress).build(options);
        super::nothing_temporary(&self.store);
        Outcome {
            result,
            events: events.into_inner(),
        }
    }

    /// Where the image has a path: in the topmost layer with it.
    pub fn path(&self, image: &str, path: &str) -> Option<PathBuf> {
        let image = self.store.resolve(image).unwrap();
        let found = image.layers.iter().map(|layer| layer.join(path));
        found
            .into_iter()
            .find(|path| path.symlink_metadata().is_ok())
            .filter(|path| !is_whiteout(path))
    }

    pub fn text(&self, path: &str) -> String {
        let found = self
            .path("built", path)
            .unwrap_or_else(|| panic!("no {path}"));
        fs::read_to_string(found).unwrap()
    }
}

fn is_whiteout(path: &Path) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = path.symlink_metadata().unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}
