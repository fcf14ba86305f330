//! The root, the mounts and the files that the sandbox gets.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use crate::{ByteSize, Mount, MountSource, SandboxSpec};

use super::harness::{run, shell};
use super::{Fixture, Scenario};

pub(super) const SCENARIOS: &[(&str, Scenario)] = &[
    ("hostname_and_etc_files_are_as_given", etc_files),
    (
        "root_is_writable_and_its_layers_are_not_changed",
        writable_root,
    ),
    ("read_only_root_cannot_be_written", read_only_root),
    ("the_usual_devices_work", devices),
    ("tmpfs_has_its_size", tmpfs),
    ("bind_mount_shows_owners_and_takes_writes", bind_writable),
    ("read_only_bind_mount_refuses_writes", bind_read_only),
    ("one_file_can_be_bound", bind_file),
    ("mount_target_stays_inside_the_root", target_inside),
    ("dev_shm_has_its_size", shared_memory),
];

fn with_mount(
    mut spec: SandboxSpec,
    target: &str,
    source: MountSource,
    read_only: bool,
) -> SandboxSpec {
    spec.mounts.push(Mount {
        target: target.into(),
        source,
        read_only,
    });
    spec
}

fn etc_files(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&shell(
        "hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname",
    ));
    spec.hostname = "shipshape".into();
    spec.etc.hosts = "127.0.0.1 localhost\n".into();
    spec.etc.resolv_conf = "nameserver 192.0.2.1\n".into();
    spec.etc.hostname = "shipshape\n".into();
    let expected = "shipshape\n127.0.0.1 localhost\nnameserver 192.0.2.1\nshipshape";
    assert_eq!(run(fixture, &spec).text(), expected);
}

fn writable_root(fixture: &dyn Fixture) {
    let spec = fixture.spec(&shell(
        "rm /bin/cat && echo new > /new && ls /bin/cat || echo gone",
    ));
    assert_eq!(run(fixture, &spec).text(), "gone");
    assert_eq!(
        run(fixture, &fixture.spec(&shell("ls /bin/cat"))).text(),
        "/bin/cat"
    );
}

fn read_only_root(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&shell(
        "echo x > /file || echo refused; echo y > /tmp/ok; cat /tmp/ok",
    ));
    spec.root.read_only = true;
    let spec = with_mount(
        spec,
        "/tmp",
        MountSource::Tmpfs {
            size: None,
            mode: None,
        },
        false,
    );
    assert_eq!(run(fixture, &spec).text(), "refused\ny");
}

fn devices(fixture: &dyn Fixture) {
    let script = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 8 /dev/urandom | wc -c; \
                  echo x > /dev/full || echo full; ls -d /dev/fd /dev/stdin /dev/ptmx /dev/pts | wc -l";
    assert_eq!(
        run(fixture, &fixture.spec(&shell(script))).text(),
        "4\n8\nfull\n4"
    );
}

fn tmpfs(fixture: &dyn Fixture) {
    let script = "stat -c %a /scratch; dd if=/dev/zero of=/scratch/file bs=1024 count=4096 2>/dev/null \
                  || echo full; stat -c %s /scratch/file";
    let source = MountSource::Tmpfs {
        size: Some(ByteSize::from_mib(1)),
        mode: Some(0o750),
    };
    let spec = with_mount(fixture.spec(&shell(script)), "/scratch", source, false);
    assert_eq!(run(fixture, &spec).text(), "750\nfull\n1048576");
}

fn bind_writable(fixture: &dyn Fixture) {
    let directory = fixture.directory();
    fs::write(directory.join("given"), "from the host").expect("file");
    chown(directory.join("given"), Some(1234), Some(2345)).expect("owner");
    let script = "cat /data/given; stat -c ' %u:%g' /data/given; \
                  echo back > /data/made && chown 77:88 /data/made && mkdir /data/sub && ls /data";
    let source = MountSource::Bind(directory.clone());
    let spec = with_mount(fixture.spec(&shell(script)), "/data", source, false);
    let expected = "from the host 1234:2345\ngiven\nmade\nsub";
    assert_eq!(run(fixture, &spec).text(), expected);
    let made = directory.join("made");
    assert_eq!(fs::read_to_string(&made).expect("read"), "back\n");
    let metadata = made.metadata().expect("metadata");
    assert_eq!((metadata.uid(), metadata.gid()), (77, 88));
    assert!(directory.join("sub").is_dir());
}

fn bind_read_only(fixture: &dyn Fixture) {
    let directory = fixture.directory();
    fs::write(directory.join("given"), "kept").expect("file");
    let script =
        "cat /data/given; echo x > /data/given || echo ' refused'; rm /data/given || echo refused";
    let source = MountSource::Bind(directory.clone());
    let spec = with_mount(fixture.spec(&shell(script)), "/data", source, true);
    assert_eq!(run(fixture, &spec).text(), "kept refused\nrefused");
    assert_eq!(
        fs::read_to_string(directory.join("given")).expect("read"),
        "kept"
    );
}

fn bind_file(fixture: &dyn Fixture) {
    let directory = fixture.directory();
    fs::write(directory.join("one.conf"), "one").expect("file");
    let source = MountSource::Bind(directory.join("one.conf"));
    let spec = with_mount(
        fixture.spec(&shell("cat /etc/deep/app.conf")),
        "/etc/deep/app.conf",
        source,
        true,
    );
    assert_eq!(run(fixture, &spec).text(), "one");
}

fn target_inside(fixture: &dyn Fixture) {
    let directory = fixture.directory();
    fs::write(directory.join("given"), "inside").expect("file");
    let source = MountSource::Bind(directory);
    let spec = with_mount(
        fixture.spec(&shell("cat /outside/given")),
        "/../../../outside",
        source,
        false,
    );
    assert_eq!(run(fixture, &spec).text(), "inside");
    assert!(!std::path::Path::new("/outside").exists());
}

fn shared_memory(fixture: &dyn Fixture) {
    let mut spec = fixture.spec(&shell("df -k /dev/shm | tail -n 1 | awk '{ print $2 }'"));
    spec.shm_size = ByteSize::from_mib(8);
    assert_eq!(run(fixture, &spec).text(), "8192");
}
