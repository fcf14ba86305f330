//! Paths in the container that lead elsewhere, or begin to while they are used.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::bundle::{Bundle, ConsoleSocket};
use crate::support::Host;

/// A directory of the host that must stay as it is, and a directory of the same path in the
/// container, so that a link to it leads somewhere in either.
pub struct Victim(pub PathBuf);

impl Victim {
    pub fn new(host: &Host, bundle: &Bundle) -> Self {
        let path = host.fresh("victim");
        fs::write(path.join("file"), "untouched").expect("file");
        let inside = bundle
            .directory
            .join("rootfs")
            .join(path.strip_prefix("/").expect("absolute"));
        fs::create_dir_all(&inside).expect("directory");
        fs::write(inside.join("file"), "inside").expect("file");
        Self(path)
    }

    pub fn assert_untouched(&self, what: &str) {
        let names: Vec<_> = fs::read_dir(&self.0)
            .expect("victim")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(names, ["file"], "{what}: the host has got more");
        let text = fs::read_to_string(self.0.join("file")).expect("file");
        assert_eq!(text, "untouched", "{what}: the host's file was written");
    }
}

/// Takes the mounts away whose destination begins so.
pub fn without_mounts(bundle: &mut Bundle, prefix: &str) {
    let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| {
        !mount["destination"]
            .as_str()
            .expect("destination")
            .starts_with(prefix)
    });
}

pub fn add_mount(bundle: &mut Bundle, mount: Value) {
    bundle.config["mounts"]
        .as_array_mut()
        .expect("mounts")
        .push(mount);
}

/// Lays something at a path of the image.
type Laying = fn(&Path, &Victim);

/// CVE-2025-31133: the image has a `/dev/null` of its own, and nothing is mounted on its `/dev`.
pub fn decoy_null(host: &Host) {
    let prepare = |make: Laying| {
        let mut bundle = Bundle::new(host, &["sh", "-c", "cat /proc/timer_list; cat /masked"]);
        without_mounts(&mut bundle, "/dev");
        let victim = Victim::new(host, &bundle);
        let dev = bundle.directory.join("rootfs/dev");
        fs::create_dir(&dev).expect("dev");
        fs::write(bundle.directory.join("rootfs/masked"), "secret").expect("file");
        make(&dev.join("null"), &victim);
        bundle.config["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/masked"]);
        (bundle, victim)
    };
    let kinds: [(&str, Laying); 5] = [
        ("a link to the host", |null, victim| {
            symlink(victim.0.join("file"), null).expect("link");
        }),
        ("a link to procfs", |null, _| {
            symlink("/proc/sys/kernel/core_pattern", null).expect("link");
        }),
        ("a link in the image", |null, _| {
            symlink("../etc/passwd", null).expect("link");
        }),
        ("a file", |null, _| {
            fs::write(null, "decoy").expect("file");
        }),
        ("another device", |null, _| {
            let kind = rustix::fs::FileType::CharacterDevice;
            let device = rustix::fs::makedev(1, 5);
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(rustix::fs::CWD, null, kind, mode, device).expect("node");
        }),
    ];
    for (what, make) in kinds {
        let (bundle, victim) = prepare(make);
        let answer = bundle.play();
        assert_eq!(answer.out, "", "{what}: it ran, and reads this");
        answer.refused("null");
        victim.assert_untouched(what);
        bundle.assert_gone();
    }
    // A true one serves.
    let (bundle, _) = prepare(|_, _| {});
    assert_eq!(bundle.play().output(), "");
}

/// CVE-2026-41579: an image in which `/dev` is a link, with and without a mount onto it.
pub fn linked_dev(host: &Host) {
    for mounted in [true, false] {
        for terminal in [true, false] {
            let mut bundle = Bundle::new(host, &["true"]);
            let victim = Victim::new(host, &bundle);
            symlink(&victim.0, bundle.directory.join("rootfs/dev")).expect("link");
            if !mounted {
                without_mounts(&mut bundle, "/dev");
            }
            bundle.config["process"]["terminal"] = json!(terminal);
            bundle.config["linux"]["devices"] =
                json!([{"path": "/dev/extra", "type": "c", "major": 1, "minor": 3}]);
            bundle.write();
            let socket = ConsoleSocket::new(&bundle.directory);
            let path = socket.path.to_str().expect("path");
            let flags = ["create", "--console-socket", path, &bundle.id];
            let answer = match terminal {
                true => bundle.detached(&flags),
                false => bundle.detached(&["create", &bundle.id]),
            };
            victim.assert_untouched("a linked /dev");
            if mounted || terminal {
                assert_eq!(answer.code, 1, "mounted {mounted}, terminal {terminal}");
                bundle.assert_gone();
            }
            if mounted {
                assert!(answer.err.contains("symbolic link"), "{}", answer.err);
            }
        }
    }
}

/// CVE-2024-45310: links and dots in a destination, which the image or a volume has laid.
pub fn destinations(host: &Host) {
    for (laid, destination) in [
        ("link", "/data/link/made"),
        ("link", "/data/link"),
        ("link", "/data/../data/link/made"),
        ("up", "/data/up/made"),
        ("none", "/data/../../../../../../../..{victim}/made"),
        ("none", "../../../../../../..{victim}/made"),
        ("chain", "/data/chain/made"),
    ] {
        for kind in ["tmpfs", "bind", "file"] {
            let mut bundle = Bundle::new(host, &["true"]);
            let victim = Victim::new(host, &bundle);
            let volume = host.fresh("volume");
            let path = victim.0.to_str().expect("path").to_owned();
            match laid {
                "link" => symlink(&path, volume.join("link")).expect("link"),
                "up" => symlink(format!("../../../../../../../..{path}"), volume.join("up"))
                    .expect("link"),
                "chain" => {
                    symlink("first", volume.join("chain")).expect("link");
                    symlink(&path, volume.join("first")).expect("link");
                }
                _ => {}
            }
            let bind = |source: &Path, destination: &str| {
                json!({"destination": destination, "type": "bind", "source": source,
                       "options": ["bind"]})
            };
            add_mount(&mut bundle, bind(&volume, "/data"));
            let destination = destination.replace("{victim}", &path);
            let source = host.fresh("source");
            fs::write(source.join("file"), "decoy").expect("file");
            add_mount(
                &mut bundle,
                match kind {
                    "tmpfs" => json!({"destination": destination, "type": "tmpfs",
                                      "source": "tmpfs"}),
                    "bind" => bind(&source, &destination),
                    _ => bind(&source.join("file"), &format!("{destination}/file")),
                },
            );
            bundle.write();
            // Whether that can be mounted is of no matter here.
            bundle.detached(&["create", &bundle.id]);
            victim.assert_untouched(&format!("{kind} at {destination}"));
            bundle.run(&["delete", "--force", &bundle.id]).output();
            bundle.assert_gone();
        }
    }
}

/// CVE-2024-45310 and the likes: what is a directory at one moment is a link at the next, as a
/// container that shares the volume makes it.
pub fn exchanged_destination(host: &Host) {
    let mut bundle = Bundle::new(host, &["true"]);
    let victim = Victim::new(host, &bundle);
    let volume = host.fresh("volume");
    fs::create_dir(volume.join("plain")).expect("directory");
    symlink(&victim.0, volume.join("link")).expect("link");
    let source = host.fresh("source");
    fs::write(source.join("file"), "decoy").expect("file");
    add_mount(
        &mut bundle,
        json!({"destination": "/data", "type": "bind", "source": volume, "options": ["bind"]}),
    );
    for (name, mount) in [
        ("a", json!({"type": "tmpfs", "source": "tmpfs"})),
        (
            "b/c",
            json!({"type": "bind", "source": source, "options": ["bind"]}),
        ),
        (
            "d",
            json!({"type": "bind", "source": source.join("file"), "options": ["bind"]}),
        ),
    ] {
        let mut mount = mount;
        mount["destination"] = json!(format!("/data/plain/{name}"));
        add_mount(&mut bundle, mount);
    }
    bundle.write();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let (plain, link) = (volume.join("plain"), volume.join("link"));
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &plain, CWD, &link, RenameFlags::EXCHANGE).expect("exchange");
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        });
        for round in 0..150 {
            bundle.detached(&["create", &bundle.id]);
            let answer = bundle.run(&["delete", "--force", &bundle.id]);
            if answer.code != 0 || !is_untouched(&victim) {
                stop.store(true, Ordering::Relaxed);
            }
            assert_eq!(answer.code, 0, "{}", answer.err);
            victim.assert_untouched(&format!("round {round}"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    bundle.assert_gone();
}

pub fn is_untouched(victim: &Victim) -> bool {
    std::panic::catch_unwind(|| victim.assert_untouched("")).is_ok()
}
