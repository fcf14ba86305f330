//! The store, on real archives and real overlays.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use bulkhead_image::{Digest, ImageStore, Limits, Removed};
use bulkhead_model::{ByteSize, ErrorKind};
use support::{Archive, store};

fn small() -> Vec<u8> {
    Archive::new()
        .directory("etc/", 0o755, 0)
        .file("etc/hostname", b"box\n")
        .finish()
}

#[test]
fn an_imported_image_is_found_by_name_and_by_id() {
    let (_directory, store) = store();
    let changes = vec![r#"CMD ["sh"]"#.to_owned(), "ENV A=b".to_owned()];
    let id = store
        .import(&small()[..], Some("debian:bookworm-slim"), &changes, None)
        .unwrap();
    for name in [
        "debian:bookworm-slim",
        "docker.io/library/debian:bookworm-slim",
        &id.to_string(),
        &id.hex(),
        &id.short(),
        &id.hex()[..4],
    ] {
        assert_eq!(store.resolve(name).expect(name).id, id);
    }
    let image = store.resolve("debian:bookworm-slim").unwrap();
    assert_eq!(image.config.config.cmd, Some(vec!["sh".to_owned()]));
    assert_eq!(image.config.config.env, ["A=b"]);
    assert_eq!(image.size, ByteSize(4));
    assert_eq!(image.chain_id.len(), 64);
    assert_eq!(
        fs::read(image.layers[0].join("etc/hostname")).unwrap(),
        b"box\n"
    );
    assert_eq!(store.history(&id.short()).unwrap().len(), 1);
    // Another process sees the same.
    let again = ImageStore::open(store.directory()).unwrap();
    assert_eq!(again.list().unwrap(), vec![image]);
}

#[test]
fn compressed_archives_are_recognised() {
    let (_directory, store) = store();
    let plain = small();
    let mut ids = Vec::new();
    for tool in ["cat", "gzip", "zstd", "xz"] {
        let Some(packed) = support::filter(tool, &plain) else {
            eprintln!("skipped: {tool} is not installed");
            continue;
        };
        let id = store.import(&packed[..], None, &[], None).expect(tool);
        ids.push(store.resolve(&id.to_string()).unwrap().chain_id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "the same content is the same layer");
}

#[test]
fn an_unknown_image_is_named_with_its_neighbours_and_the_remedy() {
    let (_directory, store) = store();
    store
        .import(&small()[..], Some("debian:bookworm-slim"), &[], None)
        .unwrap();
    let error = store.resolve("debian:bookworm").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    assert!(text.contains("'debian:bookworm'"), "{text}");
    assert!(text.contains("'debian:bookworm-slim'"), "{text}");
    assert!(text.contains("bulkhead import"), "{text}");
    let text = store.resolve("nothing/like/it").unwrap_err().to_string();
    assert!(!text.contains("there is"), "{text}");
}

#[test]
fn names_move_and_images_go_with_their_last_name() {
    let (_directory, store) = store();
    let unused = |_: &Digest| false;
    let id = store.import(&small()[..], Some("a"), &[], None).unwrap();
    store.tag("a", "b:1").unwrap();
    let layer = store.resolve("a").unwrap().layers[0].clone();
    let error = store.remove(&id.short(), false, &unused).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        store.remove("a", false, &unused).unwrap(),
        [Removed::Untagged("a:latest".to_owned())]
    );
    let used = |_: &Digest| true;
    assert_eq!(
        store.remove("b:1", false, &used).unwrap_err().kind(),
        ErrorKind::Conflict
    );
    // By force the name goes and the content stays for the sandbox.
    store.remove("b:1", true, &used).unwrap();
    assert!(layer.exists());
    assert_eq!(store.resolve(&id.to_string()).unwrap().references, []);
    assert_eq!(store.disk_usage().unwrap().dangling, 1);
    assert!(store.prune(false, false, &used).unwrap().is_empty());
    let removed = store.prune(false, false, &unused).unwrap();
    assert!(
        removed.contains(&Removed::Deleted(id.to_string())),
        "{removed:?}"
    );
    assert!(!layer.exists());
    assert_eq!(store.disk_usage().unwrap(), Default::default());
    assert_eq!(
        fs::read_dir(store.directory().join("blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_shared_layer_stays_while_one_image_has_it() {
    let (_directory, store) = store();
    store.import(&small()[..], Some("a"), &[], None).unwrap();
    store
        .import(&small()[..], Some("b"), &["ENV X=1".to_owned()], None)
        .unwrap();
    let (a, b) = (store.resolve("a").unwrap(), store.resolve("b").unwrap());
    assert_eq!(a.layers, b.layers);
    assert_ne!(a.id, b.id);
    store.remove("a", false, &|_| false).unwrap();
    assert!(b.layers[0].join("etc/hostname").exists());
}

#[test]
fn whiteouts_become_overlayfs_own() {
    let (_directory, store) = store();
    let archive = Archive::new()
        .directory("d/", 0o755, 0)
        .file("d/.wh..wh..opq", b"")
        .file("d/kept", b"1")
        .file(".wh.gone", b"")
        .file(".wh.again", b"")
        .directory("again/", 0o755, 0)
        .file("again/new", b"")
        .finish();
    store
        .import(&archive[..], Some("layer"), &[], None)
        .unwrap();
    let layer = store.resolve("layer").unwrap().layers[0].clone();
    let gone = fs::symlink_metadata(layer.join("gone")).unwrap();
    assert!(gone.file_type().is_char_device());
    assert_eq!(gone.rdev(), 0);
    for directory in ["d", "again"] {
        assert_eq!(
            support::opaque(&layer.join(directory)),
            Some(b"y".to_vec()),
            "{directory}"
        );
    }
    assert!(layer.join("d/kept").exists() && layer.join("again/new").exists());
}

#[test]
fn metadata_is_unpacked_as_it_was_packed() {
    let (_directory, store) = store();
    let archive = Archive::new()
        .directory("./", 0o711, 0)
        .entry("bin/su", tar::EntryType::Regular, |header| {
            header.set_mode(0o4755);
            header.set_uid(7);
            header.set_gid(8);
            header.set_mtime(1_000_000);
        })
        .link("bin/hard", tar::EntryType::Link, "bin/su")
        .link("lib", tar::EntryType::Symlink, "usr/lib")
        .file(
            &format!("long/{}/{}", "x".repeat(120), "y".repeat(120)),
            b"long",
        )
        .entry("dev/null", tar::EntryType::Char, |header| {
            header.set_mode(0o666);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        })
        .finish();
    store.import(&archive[..], Some("x"), &[], None).unwrap();
    let layer = store.resolve("x").unwrap().layers[0].clone();
    let su = fs::metadata(layer.join("bin/su")).unwrap();
    assert_eq!(
        (su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()),
        (0o4755, 7, 8, 1_000_000)
    );
    assert_eq!(
        fs::metadata(layer.join("bin/hard")).unwrap().ino(),
        su.ino()
    );
    assert_eq!(
        fs::read_link(layer.join("lib")).unwrap(),
        Path::new("usr/lib")
    );
    assert!(
        layer
            .join("long")
            .join("x".repeat(120))
            .join("y".repeat(120))
            .is_file()
    );
    assert!(
        fs::metadata(layer.join("dev/null"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert_eq!(fs::metadata(&layer).unwrap().mode() & 0o7777, 0o711);
}

/// CHECKLIST line 11: each archive is refused or stays inside, and leaves nothing.
#[test]
fn hostile_archives_stay_inside() {
    let (directory, store) = store();
    let outside = directory.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let target = outside.to_str().unwrap();
    let refused = [
        ("dot-dot", Archive::new().raw("../outside", b"x")),
        (
            "dot-dot in the middle",
            Archive::new().raw("a/../../outside", b"x"),
        ),
        (
            "hard link out",
            Archive::new().link("l", tar::EntryType::Link, "../outside"),
        ),
        (
            "hard link absolute",
            Archive::new().link("l", tar::EntryType::Link, target),
        ),
        ("whiteout of dot-dot", Archive::new().raw("a/.wh...", b"")),
        ("whiteout of dot", Archive::new().raw("a/.wh..", b"")),
        ("whiteout of nothing", Archive::new().raw("a/.wh.", b"")),
        (
            "whiteout through dot-dot",
            Archive::new().raw("../.wh.outside", b""),
        ),
        (
            "overlay whiteout as a device",
            Archive::new().entry("x", tar::EntryType::Char, |header| {
                header.set_device_major(0).unwrap();
                header.set_device_minor(0).unwrap();
            }),
        ),
        ("root as a file", Archive::new().raw("./", b"x")),
        (
            "a component too long",
            Archive::new().file(&"n".repeat(300), b""),
        ),
        ("too deep", Archive::new().file(&"d/".repeat(300), b"")),
    ];
    for (what, archive) in refused {
        let error = store
            .import(&archive.finish()[..], Some("evil"), &[], None)
            .expect_err(what);
        assert!(!error.to_string().is_empty());
    }
    let inside = [
        (
            "symlink out, then a file through it",
            Archive::new()
                .link("up", tar::EntryType::Symlink, "../../../../..")
                .file("up/outside", b"x"),
            "outside",
        ),
        (
            "absolute symlink to a directory, then a file through it",
            Archive::new()
                .directory("tmp/", 0o755, 0)
                .link("abs", tar::EntryType::Symlink, "/tmp")
                .file("abs/file", b"x"),
            "tmp/file",
        ),
        (
            "absolute path",
            Archive::new().raw(target, b"x"),
            &target[1..],
        ),
        (
            "a file over a symlink replaces the symlink",
            Archive::new()
                .link("victim", tar::EntryType::Symlink, target)
                .file("victim", b"x"),
            "victim",
        ),
        (
            "the same name twice: the last wins",
            Archive::new().file("twice", b"1").file("twice", b"x"),
            "twice",
        ),
        (
            "a directory becomes a file",
            Archive::new().file("d/a/b", b"1").file("d", b"x"),
            "d",
        ),
    ];
    for (what, archive, path) in inside {
        store
            .import(&archive.finish()[..], Some("odd"), &[], None)
            .expect(what);
        let layer = store.resolve("odd").unwrap().layers[0].clone();
        assert_eq!(fs::read(layer.join(path)).expect(what), b"x", "{what}");
    }
    // A hard link through a symlink cannot reach outside either.
    let archive = Archive::new()
        .link(
            "up",
            tar::EntryType::Symlink,
            directory.path().to_str().unwrap(),
        )
        .link("l", tar::EntryType::Link, "up/outside");
    assert!(
        store
            .import(&archive.finish()[..], Some("evil"), &[], None)
            .is_err()
    );
    assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
    assert_eq!(fs::metadata(&outside).unwrap().nlink(), 1);
    assert_eq!(
        store.resolve("evil").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    support::nothing_temporary(&store);
}

#[test]
fn overlay_attributes_in_an_archive_are_not_taken() {
    let (_directory, store) = store();
    let archive = Archive::new()
        .pax("SCHILY.xattr.trusted.overlay.opaque", b"y")
        .directory("d/", 0o755, 0)
        .pax("SCHILY.xattr.user.note", b"kept")
        .file("f", b"")
        .finish();
    store.import(&archive[..], Some("x"), &[], None).unwrap();
    let layer = store.resolve("x").unwrap().layers[0].clone();
    assert_eq!(support::opaque(&layer.join("d")), None);
    assert_eq!(
        support::xattr(&layer.join("f"), "user.note"),
        Some(b"kept".to_vec())
    );
}

#[test]
fn broken_archives_are_refused_and_leave_nothing() {
    let (_directory, store) = store();
    let whole = Archive::new()
        .file("a", &[1; 5000])
        .file("b", &[2; 5000])
        .finish();
    let gzip = support::filter("gzip", &whole).expect("gzip");
    let mut flipped = gzip.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    let mut header = whole.clone();
    header[100] ^= 1;
    for (what, archive) in [
        ("cut off in a file", &whole[..3000]),
        ("cut off gzip", &gzip[..gzip.len() - 20]),
        ("flipped gzip", &flipped[..]),
        ("flipped header", &header[..]),
        (
            "no archive",
            &b"this is no archive at all, but it is text of more than 512 bytes ".repeat(20)[..],
        ),
    ] {
        let error = store
            .import(archive, Some("broken"), &[], None)
            .expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{what}: {error}");
    }
    assert!(store.list().unwrap().is_empty());
    support::nothing_temporary(&store);
}

#[test]
fn bombs_are_stopped_by_the_limits() {
    let (_directory, store) = store();
    let store = store.with_limits(Limits {
        size: ByteSize::from_mib(1),
        entries: 10,
    });
    let big = Archive::new().file("zeros", &vec![0; 2 << 20]).finish();
    let packed = support::filter("gzip", &big).expect("gzip");
    let error = store.import(&packed[..], None, &[], None).unwrap_err();
    assert!(error.to_string().contains("more than 1MiB"), "{error}");
    let mut many = Archive::new();
    for number in 0..11 {
        many = many.file(&number.to_string(), b"");
    }
    let error = store
        .import(&many.finish()[..], None, &[], None)
        .unwrap_err();
    assert!(
        error.to_string().contains("more than 10 entries"),
        "{error}"
    );
    // A name of 100 MiB is not collected in memory.
    let mut header = tar::Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(100 << 20);
    header.set_cksum();
    let mut endless = header.as_bytes().to_vec();
    endless.resize(4 << 20, b'n');
    let error = store.import(&endless[..], None, &[], None).unwrap_err();
    assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
    support::nothing_temporary(&store);
}

#[test]
fn copy_up_gives_a_volume_what_the_merged_image_has() {
    let (directory, store) = store();
    let lower = Archive::new()
        .directory("var/lib/db/", 0o750, 33)
        .file("var/lib/db/old", b"old")
        .file("var/lib/db/hidden", b"")
        .file("var/lib/db/sub/x", b"")
        .link("data", tar::EntryType::Symlink, "/var/lib/db")
        .finish();
    let upper = Archive::new()
        .directory("var/lib/db/", 0o700, 44)
        .file("var/lib/db/.wh.hidden", b"")
        .file("var/lib/db/new", b"new")
        .directory("var/lib/db/sub/", 0o755, 0)
        .file("var/lib/db/sub/.wh..wh..opq", b"")
        .finish();
    store.import(&lower[..], Some("lower"), &[], None).unwrap();
    store.import(&upper[..], Some("upper"), &[], None).unwrap();
    let layers = [
        store.resolve("upper").unwrap().layers[0].clone(),
        store.resolve("lower").unwrap().layers[0].clone(),
    ];
    let volume = directory.path().join("volume");
    fs::create_dir(&volume).unwrap();
    assert!(!store.copy_up(&layers, "/nothing", &volume).unwrap());
    assert!(store.copy_up(&layers, "/data", &volume).unwrap());
    let mut names: Vec<_> = fs::read_dir(&volume)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["new", "old", "sub"]);
    assert_eq!(fs::read_dir(volume.join("sub")).unwrap().count(), 0);
    let own = fs::metadata(&volume).unwrap();
    assert_eq!((own.mode() & 0o7777, own.uid()), (0o700, 44));
    assert_eq!(
        store.copy_up(&layers, "/data", &volume).unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert!(!support::is_mounted(directory.path()));
    // A single layer needs no second one.
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    assert!(store.copy_up(&layers[1..], "/data", &other).unwrap());
    assert!(other.join("hidden").exists());
}

#[test]
fn a_killed_import_leaves_nothing_that_shows() {
    let (directory, store) = store();
    // An import that was killed: its temporary directory, a layer without information, and a
    // half-written file.
    let root = store.directory();
    fs::create_dir_all(root.join("temporary/1-0/root/etc")).unwrap();
    fs::create_dir_all(root.join("layers/0123456789ab/etc")).unwrap();
    fs::write(root.join("blobs/sha256/abc.1-1.new"), "half").unwrap();
    fs::write(root.join("index.json.1-1.new"), "half").unwrap();
    let store = ImageStore::open(root).unwrap();
    assert!(store.list().unwrap().is_empty());
    support::nothing_temporary(&store);
    assert!(!root.join("layers/0123456789ab").exists());
    assert!(!root.join("index.json.1-1.new").exists());
    assert!(!root.join("blobs/sha256/abc.1-1.new").exists());
    drop(directory);
}

#[test]
fn an_upper_directory_becomes_a_layer_by_a_rename() {
    let (directory, store) = store();
    store
        .import(&small()[..], Some("base"), &["USER 5".to_owned()], None)
        .unwrap();
    let upper = directory.path().join("upper");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/new"), "n").unwrap();
    let inode = fs::metadata(&upper).unwrap().ino();
    let config = store.resolve("base").unwrap().config.config;
    let history = bulkhead_image::config::History {
        comment: Some("by hand".to_owned()),
        ..Default::default()
    };
    let id = store
        .commit_layer(
            &upper,
            Some("base"),
            config,
            &["made:1".to_owned()],
            history,
        )
        .unwrap();
    let image = store.resolve("made:1").unwrap();
    assert_eq!((image.id, image.layers.len()), (id, 2));
    assert_eq!(fs::metadata(&image.layers[0]).unwrap().ino(), inode);
    assert_eq!(image.config.config.user, "5");
    assert_eq!(store.history("made:1").unwrap()[1].1, ByteSize(1));
    // A layer that refers to what is below it has no meaning of its own.
    let redirecting = directory.path().join("redirecting");
    fs::create_dir_all(redirecting.join("d")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(
        redirecting.join("d"),
        "trusted.overlay.redirect",
        b"/etc",
        flags,
    )
    .unwrap();
    let refused = store.commit_layer(
        &redirecting,
        None,
        Default::default(),
        &[],
        Default::default(),
    );
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("redirect_dir=off")
    );
}

#[test]
fn threads_import_tag_and_remove_at_once() {
    let (_directory, store) = store();
    std::thread::scope(|scope| {
        for number in 0..6 {
            let store = ImageStore::open(store.directory()).unwrap();
            scope.spawn(move || {
                for round in 0..4 {
                    let name = format!("image-{number}:{round}");
                    let archive = Archive::new()
                        .file("shared", b"same")
                        .file(&format!("own-{}", number % 3), b"")
                        .finish();
                    store.import(&archive[..], Some(&name), &[], None).unwrap();
                    store.tag(&name, &format!("kept-{number}")).unwrap();
                    store.resolve(&name).unwrap();
                    store.remove(&name, false, &|_| false).unwrap();
                    store.list().unwrap();
                }
            });
        }
    });
    assert_eq!(
        store
            .list()
            .unwrap()
            .iter()
            .flat_map(|image| &image.references)
            .count(),
        6
    );
    for image in store.list().unwrap() {
        assert!(
            image
                .layers
                .iter()
                .all(|layer| layer.join("shared").exists())
        );
    }
}

#[test]
fn an_archive_that_ends_by_an_error_is_an_error() {
    struct Failing(std::io::Cursor<Vec<u8>>);
    impl std::io::Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::Error::other("the connection broke")),
                read => Ok(read),
            }
        }
    }
    let (_directory, store) = store();
    let mut half = small();
    half.truncate(700);
    let error = store
        .import(Failing(std::io::Cursor::new(half)), None, &[], None)
        .unwrap_err();
    assert!(
        error.to_string().contains("the connection broke"),
        "{error}"
    );
    std::io::stderr().flush().unwrap();
}
