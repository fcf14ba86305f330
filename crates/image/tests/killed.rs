//! `kill -9` in the middle: what is visible afterwards is whole, and nothing else is left.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use bulkhead_image::ImageStore;
use support::Archive;
use support::project::Project;

const STORE: &str = "BULKHEAD_TEST_STORE";

/// What the killed process does: it imports, tags and removes without end. Without the variable
/// it is no process of ours, and there is nothing to test.
#[test]
fn victim() {
    let Ok(directory) = std::env::var(STORE) else {
        return;
    };
    let store = ImageStore::open(directory).unwrap();
    for number in 0.. {
        let content = vec![number as u8; 300_000];
        let archive = Archive::new()
            .file("a", &content)
            .file("b", &content)
            .finish();
        let name = format!("image:{}", number % 5);
        store.import(&archive[..], Some(&name), &[], None).unwrap();
        store.tag(&name, "newest").unwrap();
        if number % 3 == 2 {
            store.remove(&name, true, &|_| false).unwrap();
            store.prune(false, false, &|_| false).unwrap();
        }
    }
}

fn victim_process(store: &ImageStore) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim"])
        .env(STORE, store.directory())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_store_survives_kill_at_any_instant() {
    let (_directory, store) = support::store();
    let root = store.directory().to_owned();
    for round in 0..25u64 {
        let mut child = victim_process(&store);
        std::thread::sleep(Duration::from_millis(20 + round * 7 % 90));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = ImageStore::open(&root).unwrap();
        support::nothing_temporary(&store);
        for image in store.list().unwrap() {
            for layer in &image.layers {
                let a = std::fs::read(layer.join("a")).unwrap();
                assert_eq!(a.len(), 300_000);
                assert_eq!(std::fs::read(layer.join("b")).unwrap(), a);
            }
        }
        let unfinished = std::fs::read_dir(&root).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().ends_with(".new")
        });
        assert_eq!(unfinished.count(), 0);
    }
    let store = ImageStore::open(&root).unwrap();
    store.prune(true, true, &|_| false).unwrap();
    assert_eq!(store.disk_usage().unwrap(), Default::default());
    assert_eq!(
        std::fs::read_dir(root.join("layers")).unwrap().count(),
        1,
        "only the empty one"
    );
}

/// What runs on the full disk: a store on a file system of 2 MiB.
#[test]
fn full_disk_victim() {
    let Ok(directory) = std::env::var("BULKHEAD_TEST_FULL") else {
        return;
    };
    let store = ImageStore::open(directory).unwrap();
    let small = Archive::new().file("a", b"small").finish();
    store.import(&small[..], Some("kept"), &[], None).unwrap();
    let large = Archive::new().file("a", &vec![7; 8 << 20]).finish();
    let error = store
        .import(&large[..], Some("large"), &[], None)
        .unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    assert_eq!(store.list().unwrap().len(), 1);
    support::nothing_temporary(&store);
    let other = Archive::new().file("b", b"small").finish();
    store.import(&other[..], Some("after"), &[], None).unwrap();
    println!("the full disk was survived");
}

#[test]
fn a_full_disk_in_the_middle_leaves_what_was() {
    let directory = tempfile::tempdir().unwrap();
    let script = "mount --make-rprivate / && mount -t tmpfs -o size=2m tmpfs \"$BULKHEAD_TEST_FULL\" && exec \"$0\" --exact full_disk_victim --nocapture";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("BULKHEAD_TEST_FULL", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("the full disk was survived"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A build that never ends by itself.
#[test]
fn builder_victim() {
    let Ok(directory) = std::env::var("BULKHEAD_TEST_CONTEXT") else {
        return;
    };
    let store = ImageStore::open(std::env::var(STORE).unwrap()).unwrap();
    let options = bulkhead_image::build::BuildOptions {
        dockerfile: format!("{directory}/Dockerfile").into(),
        context: directory.into(),
        tags: vec!["built".to_owned()],
        ..Default::default()
    };
    let _ = bulkhead_image::build::Builder::new(&store, &support::project::Unshared, &|_| ())
        .build(&options);
}

#[test]
fn a_killed_build_makes_no_image_and_keeps_its_finished_steps() {
    let Some(project) = Project::new() else {
        return;
    };
    project.file(
        "Dockerfile",
        "FROM busybox\nRUN echo done >/done\nRUN sleep 600\n",
    );
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "builder_victim"])
        .env(STORE, project.store.directory())
        .env("BULKHEAD_TEST_CONTEXT", &project.options.context)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The first step is done when the cache has its entry; the second is then under way.
    let cache = project.store.directory().join("build-cache");
    while std::fs::read_dir(&cache).unwrap().count() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    child.kill().unwrap();
    child.wait().unwrap();
    kill_step(project.directory.path());
    let store = ImageStore::open(project.store.directory()).unwrap();
    support::nothing_temporary(&store);
    assert!(store.resolve("built").is_err());
    let again = project.build("FROM busybox\nRUN echo done >/done\n");
    assert_eq!(
        (again.cached(), project.text("done")),
        (1, "done\n".to_owned())
    );
}

/// The step's own process is the runner's to end; here, the one whose root is in our directory.
fn kill_step(directory: &std::path::Path) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let ours = format!("ROOT={}", directory.display());
        let is_ours = environment
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(ours.as_bytes()));
        let pid = entry.file_name().to_string_lossy().parse::<i32>();
        if let (true, Ok(pid)) = (is_ours, pid)
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
