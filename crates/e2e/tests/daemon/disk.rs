use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::support::Daemon;

/// A small file system in memory, gone with its end.
struct Mounted(PathBuf);

impl Mounted {
    fn over(directory: &Path) -> Result<Self> {
        mount(&[
            "-t",
            "tmpfs",
            "-o",
            "size=16m,mode=0710",
            "tmpfs",
            &directory.to_string_lossy(),
        ])?;
        Ok(Self(directory.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a failed test may have left something open in it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str]) -> Result<()> {
    let mounted = Command::new("mount").args(arguments).status()?;
    ensure!(mounted.success(), "mount {arguments:?}: {mounted}");
    Ok(())
}

/// Checklist, line 18: the disk full, and a state directory that is read-only.
#[test]
fn a_full_disk_refuses_what_is_new_and_lets_go_of_what_is_old() -> Result<()> {
    let Some(mut daemon) = Daemon::new()? else {
        return Ok(());
    };
    daemon.stop()?;
    let state = daemon.root().join("lib");
    fs::create_dir_all(&state)?;
    let mounted = Mounted::over(&state)?;
    daemon.start()?;
    daemon
        .post("/volumes/create", &json!({ "Name": "kept" }))?
        .expect(201)?;
    daemon.run("one", &["sleep", "1000"], Value::Null)?;
    daemon.create("two", &["sleep", "1000"], Value::Null)?;
    let filler = state.join("filler");
    let mut file = fs::File::create(&filler)?;
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let start = daemon.post("/containers/two/start", &Value::Null)?;
    ensure!(
        start.status == 500 && start.text().contains("full"),
        "{}: {}",
        start.status,
        start.text()
    );
    ensure!(daemon.status("two")? == "created");
    let create = daemon.post("/volumes/create", &json!({ "Name": "more" }))?;
    ensure!(create.status == 500, "{}: {}", create.status, create.text());
    ensure!(daemon.status("one")? == "running");
    daemon
        .post("/containers/one/stop?t=0", &Value::Null)?
        .expect(204)?;
    ensure!(daemon.status("one")? == "exited");
    fs::remove_file(&filler)?;
    daemon
        .post("/containers/two/start", &Value::Null)?
        .expect(204)?;
    daemon.remove_all()?;
    daemon.stop()?;
    let path = state.to_string_lossy().into_owned();
    mount(&["-o", "remount,ro", &path])?;
    let status = daemon.spawn()?.wait()?;
    ensure!(
        !status.success() && daemon.log().contains("read-only"),
        "{status}: {}",
        daemon.log()
    );
    mount(&["-o", "remount,rw", &path])?;
    daemon.start()?;
    daemon.delete("/volumes/kept")?.expect(204)?;
    daemon
        .post("/volumes/create", &json!({ "Name": "kept" }))?
        .expect(201)?;
    daemon.stop()?;
    drop(mounted);
    daemon.start()?;
    daemon.finish()
}
