//! A build context on its way from the command line to the builder.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use bulkhead_image::context::{context_tar, unpack_context};
use support::Archive;

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_context_arrives_as_it_was_without_what_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let context = directory.path().join("context");
    for (path, content) in [
        (
            ".dockerignore",
            "target\nDocker*\n.dockerignore\nsub\n*.log\n!sub/keep.log\n",
        ),
        ("Dockerfile", "FROM scratch\n"),
        ("target/big", ""),
        ("a.log", ""),
        ("sub/keep.log", "k"),
        ("sub/gone", ""),
        ("src/main", "m"),
    ] {
        write(&context, path, content);
    }
    let long = format!("long/{}/{}", "x".repeat(120), "ü".repeat(100));
    write(&context, &long, "l");
    fs::set_permissions(context.join("src/main"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/etc/passwd", context.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(context.join("socket")).unwrap();

    let mut archive = Vec::new();
    let name = context_tar(&context, &context.join("Dockerfile"), &mut archive).unwrap();
    assert_eq!(name, "Dockerfile");
    let mut again = Vec::new();
    context_tar(&context, &context.join("Dockerfile"), &mut again).unwrap();
    assert_eq!(archive, again, "the order is always the same");

    for tool in ["cat", "gzip"] {
        let to = directory.path().join(tool);
        fs::create_dir(&to).unwrap();
        unpack_context(&support::filter(tool, &archive).unwrap()[..], &to).unwrap();
        for kept in [
            "Dockerfile",
            ".dockerignore",
            "sub/keep.log",
            "src/main",
            &long,
        ] {
            assert_eq!(
                fs::read(to.join(kept)).expect(kept),
                fs::read(context.join(kept)).unwrap()
            );
        }
        for gone in ["target", "a.log", "sub/gone", "socket"] {
            assert!(!to.join(gone).exists(), "{gone}");
        }
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/etc/passwd")
        );
        let mode = fs::metadata(to.join("src/main"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
    }
    // GNU tar reads it too.
    let listed = std::process::Command::new("tar")
        .args(["-tf", "-"])
        .stdin({
            let path = directory.path().join("archive");
            fs::write(&path, &archive).unwrap();
            fs::File::open(path).unwrap()
        })
        .output()
        .unwrap();
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
}

#[test]
fn a_dockerfile_outside_comes_along() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "context/a", "");
    write(directory.path(), "other/Dockerfile", "FROM outside\n");
    write(directory.path(), "other/Dockerfile.dockerignore", "a\n");
    let mut archive = Vec::new();
    let dockerfile = directory.path().join("other/Dockerfile");
    let name = context_tar(&directory.path().join("context"), &dockerfile, &mut archive).unwrap();
    let to = directory.path().join("to");
    fs::create_dir(&to).unwrap();
    unpack_context(&archive[..], &to).unwrap();
    assert_eq!(
        fs::read_to_string(to.join(&name)).unwrap(),
        "FROM outside\n"
    );
    assert!(to.join(format!("{name}.dockerignore")).exists());
    assert!(!to.join("a").exists());
    let missing = context_tar(
        &directory.path().join("nothing"),
        &dockerfile,
        &mut Vec::new(),
    );
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("no build context")
    );
    let missing = context_tar(
        directory.path(),
        Path::new("/nothing/Dockerfile"),
        &mut Vec::new(),
    );
    assert!(missing.unwrap_err().to_string().contains("no Dockerfile"));
}

#[test]
fn a_hostile_context_stays_inside() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("to");
    fs::create_dir(&to).unwrap();
    for archive in [
        Archive::new().raw("../outside", b"x"),
        Archive::new().entry("null", tar::EntryType::Char, |header| {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }),
    ] {
        assert!(unpack_context(&archive.finish()[..], &to).is_err());
    }
    let archive = Archive::new()
        .link("up", tar::EntryType::Symlink, "..")
        .file("up/inside", b"x")
        .file(".wh.plain", b"a whiteout is a file here");
    unpack_context(&archive.finish()[..], &to).unwrap();
    assert!(to.join("inside").exists() && to.join(".wh.plain").is_file());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
