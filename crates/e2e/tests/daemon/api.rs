use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::support::{Daemon, IMAGE};

/// Checklist, line 19, and CVE-2021-41091: who is not root sees neither secrets nor root
/// filesystems.
#[test]
fn what_it_keeps_is_roots_alone() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let id = daemon.run(
        "one",
        &["sleep", "1000"],
        json!({ "Env": ["PASSWORD=secret"] }),
    )?;
    let mode = |path: &str| -> Result<u32> {
        Ok(fs::metadata(daemon.root().join(path))?.permissions().mode() & 0o7777)
    };
    let short = &id[..12];
    for (path, wanted) in [
        ("run/bulkhead.sock".to_owned(), 0o660),
        (format!("run/sandboxes/{short}/launch.json"), 0o600),
        (format!("run/sandboxes/{short}/supervisor.sock"), 0o600),
        ("run/dataplane".to_owned(), 0o700),
        ("lib".to_owned(), 0o710),
        ("cache/images".to_owned(), 0o700),
        ("lib/state.db".to_owned(), 0o600),
        ("lib/state.db-wal".to_owned(), 0o600),
        (format!("lib/sandboxes/{id}/log.jsonl"), 0o600),
        (format!("lib/sandboxes/{id}/status.json"), 0o600),
    ] {
        ensure!(mode(&path)? == wanted, "{path} has mode {:o}", mode(&path)?);
    }
    daemon.remove_all()?;
    daemon.finish()
}

/// Promise: a stock client shows, runs and removes.
#[test]
fn a_stock_client_gets_along() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    if Command::new("docker")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        println!("skipped: no docker client: 'apt-get install docker-cli'");
        return daemon.finish();
    }
    let host = format!("unix://{}", daemon.socket().display());
    let docker = |line: &str| -> Result<(i32, String)> {
        let mut command = Command::new("docker");
        command
            .args(["-H", &host])
            .args(
                line.split('|')
                    .flat_map(|part| match part.strip_prefix('\'') {
                        Some(whole) => vec![whole],
                        None => part.split_whitespace().collect(),
                    }),
            );
        let output = command.stdin(Stdio::null()).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    };
    for (line, code, part) in [
        ("version", 0, "Bulkhead"),
        ("info", 0, "overlay2"),
        ("images", 0, "busybox"),
        ("run --rm busybox:test echo hello", 0, "hello"),
        ("run --rm busybox:test sh -c|'exit 7", 7, ""),
        ("run --rm busybox:test no-such-program", 127, "not found"),
        (
            "run --rm busybox:test /filled/file",
            126,
            "permission denied",
        ),
        ("run --rm no-such-image:1 true", 125, ""),
        (
            "run -d --name one --health-cmd true --health-interval 100ms -p 127.0.0.1:0:80 busybox:test sleep 1000",
            0,
            "",
        ),
        ("run -d --name one busybox:test true", 125, "taken"),
        ("port one", 0, "127.0.0.1:"),
        ("exec one echo inside", 0, "inside"),
        ("exec one sh -c|'exit 9", 9, ""),
        ("exec one no-such-program", 127, "not found"),
        ("exec one /filled/file", 126, "permission denied"),
        ("top one", 0, "sleep 1000"),
        ("exec one rm /bin/ps", 0, ""),
        ("top one", 0, "sleep 1000"),
        ("stats --no-stream one", 0, "one"),
        ("update --memory 64m --memory-swap 64m one", 0, "one"),
        ("pause one", 0, ""),
        ("exec one true", 1, "paused"),
        ("ps", 0, "(Paused)"),
        ("kill one", 0, ""),
        ("ps -a", 0, "Exited (137)"),
        ("start one", 0, ""),
        ("restart -t 0 one", 0, ""),
        ("rename one two", 0, ""),
        ("rename two ../x", 1, "Invalid container name"),
        ("inspect -f {{.State.Status}} two", 0, "running"),
        ("rm two", 1, "running"),
        ("stop -t 0 two", 0, ""),
        ("wait two", 0, "137"),
        ("rm two", 0, ""),
        (
            "create --name three busybox:test sh -c|'echo out; echo err >&2; exit 5",
            0,
            "",
        ),
        ("start -a three", 5, "err"),
        ("logs three", 0, "out"),
        ("rm -v three", 0, ""),
        ("network create extra", 0, ""),
        ("network ls", 0, "extra"),
        (
            "run --rm --network extra busybox:test cat /etc/resolv.conf",
            0,
            "nameserver",
        ),
        ("network rm extra", 0, ""),
        ("volume create kept", 0, ""),
        (
            "run --rm -v kept:/filled busybox:test cat /filled/file",
            0,
            "of the image",
        ),
        ("volume ls", 0, "kept"),
        ("volume rm kept", 0, ""),
        ("tag busybox:test busybox:other", 0, ""),
        ("history busybox:other", 0, ""),
        ("rmi busybox:other", 0, "Untagged"),
        ("system df", 0, "Images"),
        ("events --since 1s --until 1s", 0, ""),
    ] {
        let (status, said) = docker(line)?;
        ensure!(
            status == code && said.contains(part),
            "docker {line}: {status}: {said}"
        );
    }
    daemon.remove_all()?;
    daemon.finish()
}

#[test]
fn an_attached_client_may_go_and_come_back() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let id = daemon.run(
        "one",
        &["sh", "-c", "read a; echo got $a; read b; echo got $b"],
        json!({ "OpenStdin": true }),
    )?;
    for word in ["first", "second"] {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket())?;
        write!(
            stream,
            "POST /containers/{id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: tcp\r\ncontent-length: 0\r\n\r\n"
        )?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        ensure!(head.ends_with(b"101"), "{}", String::from_utf8_lossy(&head));
        writeln!(stream, "{word}")?;
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(&format!("got {word}")) {
            let mut buffer = [0; 256];
            let length = stream.read(&mut buffer)?;
            ensure!(length > 0, "closed: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..length]);
        }
    }
    let waited = daemon
        .post(&format!("/containers/{id}/wait"), &Value::Null)?
        .json()?;
    ensure!(waited["StatusCode"] == 0, "{waited}");
    ensure!(daemon.json("/images/json")?[0]["RepoTags"][0] == IMAGE);
    daemon.remove_all()?;
    daemon.finish()
}
