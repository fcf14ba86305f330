//! Too little of everything, and everybody at once.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use super::Watch;
use crate::bundle::{Answer, Bundle};
use crate::support::Host;

fn bundle(host: &Host) -> Bundle {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.write();
    bundle
}

/// Runs a script with `$OCI` as the command line, in a mount namespace of its own.
fn script(bundle: &Bundle, script: &str) -> Answer {
    fs::create_dir_all(&bundle.root).expect("state");
    let program = std::env::current_exe().expect("program");
    let oci = format!("{} oci --root {}", program.display(), bundle.root.display());
    let log = bundle.directory.join("stderr");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .env("OCI", oci)
        .env("ROOT", &bundle.root)
        .env("ID", &bundle.id)
        .current_dir(&bundle.directory)
        .stdin(Stdio::null())
        // A container that stays would keep a pipe open.
        .stdout(fs::File::create(bundle.directory.join("stdout")).expect("file"))
        .stderr(fs::File::create(&log).expect("file"))
        .status()
        .expect("unshare");
    Answer {
        code: output.code().unwrap_or(-1),
        out: fs::read_to_string(bundle.directory.join("stdout")).expect("stdout"),
        err: fs::read_to_string(log).expect("stderr"),
    }
}

pub fn full_directory(host: &Host) {
    // By bytes, where the first or the second page is not to be had, and by files.
    for (options, fits) in [
        ("size=4k,nr_inodes=9", false),
        ("nr_inodes=1", false),
        ("nr_inodes=2", false),
        ("nr_inodes=3", false),
        ("nr_inodes=4", false),
        ("nr_inodes=5", true),
    ] {
        let bundle = bundle(host);
        let answer = script(
            &bundle,
            &format!(
                "mount -t tmpfs -o {options} none $ROOT || exit 99; \
                 $OCI create $ID; code=$?; \
                 if [ $code = 0 ]; then $OCI delete --force $ID || exit 98; fi; \
                 ls -A $ROOT; exit $code"
            ),
        );
        assert_eq!(answer.out, "", "{options}: this is left");
        assert_eq!(answer.code, i32::from(!fits), "{options}: {}", answer.err);
        if !fits {
            assert!(
                answer.err.contains("No space left"),
                "{options}: {}",
                answer.err
            );
        }
        fs::remove_dir(&bundle.root).expect("empty");
        bundle.assert_gone();
    }
}

pub fn read_only_directory(host: &Host) {
    let bundle = bundle(host);
    let answer = script(
        &bundle,
        "mount -t tmpfs -o ro none $ROOT || exit 99; exec $OCI create $ID",
    );
    answer.refused("Read-only file system");
    // Nothing is said to be gone that is not.
    let answer = script(
        &bundle,
        "mount -t tmpfs none $ROOT && $OCI create $ID && mount -o remount,ro $ROOT || exit 99; \
         $OCI delete --force $ID; code=$?; \
         mount -o remount,rw $ROOT; $OCI delete --force $ID || exit 98; ls -A $ROOT; exit $code",
    );
    assert_eq!(answer.out, "");
    answer.refused("Read-only file system");
    fs::remove_dir(&bundle.root).expect("empty");
    bundle.assert_gone();
}

pub fn few_descriptors(host: &Host) {
    let Some(watch) = Watch::new() else {
        return;
    };
    let mut enough = None;
    for limit in 4..40 {
        let bundle = bundle(host);
        let answer = script(
            &bundle,
            &format!(
                "ulimit -n {limit}; $OCI create $ID || exit; ulimit -n 1024 2>/dev/null; exit 77"
            ),
        );
        if answer.code == 77 {
            bundle.run(&["delete", "--force", &bundle.id]).output();
            enough.get_or_insert(limit);
        } else {
            assert!(!answer.err.trim().is_empty(), "{limit}: it says nothing");
            assert_eq!(enough, None, "{limit}: {}", answer.err);
        }
        watch.assert_gone(&bundle, &format!("create with {limit} descriptors"));
    }
    assert!(enough.is_some(), "39 descriptors are not enough");
    // The whole way to the program, with the limit that the program itself will have.
    let mut bundle = Bundle::new(host, &["true"]);
    bundle.config["process"]["rlimits"] = json!([]);
    bundle.write();
    let answer = script(&bundle, "ulimit -n 40; exec $OCI run $ID");
    assert_eq!(answer.code, 0, "{}", answer.err);
}

pub fn little_memory(host: &Host) {
    for limit in [4096, 65536, 262_144] {
        let mut bundle = Bundle::new(host, &["true"]);
        bundle.config["linux"]["resources"]["memory"] = json!({"limit": limit});
        bundle.write();
        let answer = bundle.detached(&["create", &bundle.id]);
        if answer.code == 0 {
            eprintln!("{limit} bytes are enough here");
            bundle.run(&["delete", "--force", &bundle.id]).output();
        } else {
            answer.refused("memory");
        }
        bundle.assert_gone();
    }
}

pub fn pid_file(host: &Host) {
    let bundle = bundle(host);
    fs::create_dir(bundle.directory.join("taken")).expect("directory");
    for path in ["missing/pid", "taken", "/proc/pid", "/dev/full/pid"] {
        let answer = bundle.detached(&["create", "--pid-file", path, &bundle.id]);
        answer.refused("write the pid file");
        bundle.assert_gone();
    }
    let names: Vec<_> = fs::read_dir(&bundle.directory)
        .expect("bundle")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("pid") || name.contains(".taken"))
        .collect();
    assert!(names.is_empty(), "{names:?} are left");
}

pub fn deletes_at_once(host: &Host) {
    let mut bundle = Bundle::new(host, &["sleep", "1000"]);
    let count = bundle.directory.join("count");
    let script = format!("echo once >> {}", count.display());
    bundle.config["hooks"]["poststop"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    for _ in 0..10 {
        bundle.start();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| bundle.run(&["delete", "--force", &bundle.id]).output());
            }
        });
        bundle.assert_gone();
        assert_eq!(fs::read_to_string(&count).expect("count"), "once\n");
        fs::remove_file(&count).expect("remove");
    }
}

pub fn delete_meets_create(host: &Host) {
    let Some(watch) = Watch::new() else {
        return;
    };
    let bundle = bundle(host);
    for round in 0..40_u64 {
        std::thread::scope(|scope| {
            let create = scope.spawn(|| {
                let mut create = watch.command(&bundle, &["create", &bundle.id]);
                create.status().expect("create").code()
            });
            for _ in 0..3 {
                std::thread::sleep(std::time::Duration::from_micros(round * 300));
                let answer = bundle.run(&["delete", "--force", &bundle.id]);
                assert_eq!(answer.code, 0, "{round}: {}", answer.err);
            }
            let code = create.join().expect("create");
            assert!(matches!(code, Some(0 | 1)), "{code:?}");
        });
        bundle.run(&["delete", "--force", &bundle.id]).output();
        watch.assert_gone(&bundle, &format!("round {round}"));
    }
}
