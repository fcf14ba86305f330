use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::support::{Daemon, eventually};

const SLEEP: &[&str] = &["sleep", "1000"];

#[test]
fn a_start_that_fails_leaves_nothing() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let port = bulkhead_e2e::instance::free_address()?.port().to_string();
    let published = json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": port }] });
    daemon.run(
        "owner",
        SLEEP,
        json!({ "HostConfig": { "PortBindings": published } }),
    )?;
    let addresses = |daemon: &Daemon| -> Result<usize> {
        let network = daemon.json("/networks/bridge")?;
        Ok(network["Containers"]
            .as_object()
            .map_or(0, serde_json::Map::len))
    };
    let cases = [
        ("no-program", vec!["no-such-program"], json!({}), 400, 127),
        ("no-permission", vec!["/filled/file"], json!({}), 400, 126),
        (
            "port-taken",
            SLEEP.to_vec(),
            json!({ "HostConfig": { "PortBindings": published } }),
            409,
            128,
        ),
        (
            "no-user",
            SLEEP.to_vec(),
            json!({ "User": "nobody-here" }),
            400,
            128,
        ),
        (
            "no-source",
            SLEEP.to_vec(),
            json!({ "HostConfig": { "Mounts": [{ "Type": "bind", "Source": "/no/such/source", "Target": "/x" }] } }),
            400,
            128,
        ),
        (
            "no-network",
            SLEEP.to_vec(),
            json!({ "HostConfig": { "NetworkMode": "no-such-network" } }),
            404,
            128,
        ),
    ];
    for (name, command, more, status, code) in cases {
        let id = daemon.create(name, &command, more.clone())?;
        let answer = daemon.post(&format!("/containers/{id}/start"), &Value::Null)?;
        ensure!(
            answer.status == status,
            "{name}: {}: {}",
            answer.status,
            answer.text()
        );
        let state = daemon.state(&id)?;
        ensure!(
            state["Status"] == "created" && state["ExitCode"] == code,
            "{name}: {state}"
        );
        ensure!(
            !state["Error"].as_str().unwrap_or_default().is_empty(),
            "{name}: {state}"
        );
        ensure!(addresses(&daemon)? == 1, "{name}: an address is kept");
        let run = daemon.root().join("run/sandboxes").join(&id[..12]);
        ensure!(!run.exists(), "{name}: {}", run.display());
        daemon.delete(&format!("/containers/{id}"))?.expect(204)?;
        // One that removes itself does so now, and whoever waits for that hears of it.
        let mut more = more;
        more["HostConfig"]["AutoRemove"] = json!(true);
        let id = daemon.create(name, &command, more)?;
        daemon
            .post(&format!("/containers/{id}/start"), &Value::Null)?
            .expect(status)?;
        daemon.get(&format!("/containers/{id}/json"))?.expect(404)?;
    }
    daemon.remove_all()?;
    let left = daemon.left_of_sandboxes()?;
    ensure!(left.is_empty(), "{left:#?}");
    daemon.finish()
}

#[test]
fn everything_at_once_ends_in_a_known_state() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let policy = json!({ "HostConfig": { "RestartPolicy": { "Name": "always" } } });
    let removes = json!({ "HostConfig": { "AutoRemove": true } });
    daemon.run("always", &["sleep", "0.2"], policy)?;
    daemon.run("plain", SLEEP, Value::Null)?;
    let deadline = Instant::now() + Duration::from_secs(8);
    std::thread::scope(|scope| {
        let daemon = &daemon;
        for seed in 0..6_usize {
            let removes = removes.clone();
            scope.spawn(move || {
                let verbs = [
                    "start",
                    "stop?t=0",
                    "kill",
                    "restart?t=0",
                    "pause",
                    "unpause",
                    "rename?name=plain",
                ];
                let mut turn = seed;
                while Instant::now() < deadline {
                    let name = ["always", "plain", "brief"][turn % 3];
                    let verb = verbs[(turn * 5 + seed) % verbs.len()];
                    let answer = daemon.post(&format!("/containers/{name}/{verb}"), &Value::Null);
                    if let Ok(answer) = answer
                        && answer.status >= 500
                    {
                        println!("{name} {verb}: {}", answer.text());
                    }
                    if seed == 0 {
                        drop(daemon.run("brief", &["sleep", "0.1"], removes.clone()));
                    }
                    if seed == 1 && turn % 7 == 0 {
                        drop(daemon.delete("/containers/brief?force=1"));
                    }
                    turn += 1;
                }
            });
        }
    });
    for name in ["always", "plain"] {
        let answer = daemon.post(&format!("/containers/{name}/unpause"), &Value::Null)?;
        ensure!(answer.status < 500, "{}", answer.text());
        daemon.post(&format!("/containers/{name}/stop?t=0"), &Value::Null)?;
        let state = daemon.state(name)?;
        ensure!(
            ["exited", "created"].contains(&state["Status"].as_str().unwrap_or_default()),
            "{name}: {state}"
        );
    }
    // What was stopped stays so.
    std::thread::sleep(Duration::from_secs(1));
    ensure!(daemon.status("always")? != "running");
    daemon.remove_all()?;
    let left = daemon.left_of_sandboxes()?;
    ensure!(left.is_empty(), "{left:#?}\n{}", daemon.log());
    daemon.finish()
}

#[test]
fn two_that_race_for_a_port_and_a_volume() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    for round in 0..5 {
        let port = bulkhead_e2e::instance::free_address()?.port().to_string();
        let published = json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": port }] });
        let host = json!({ "PortBindings": published, "Binds": [format!("data{round}:/filled")] });
        let ids =
            ["one", "two"].map(|name| daemon.create(name, SLEEP, json!({ "HostConfig": host })));
        let [one, two] = ids;
        let (one, two) = (one?, two?);
        let statuses = std::thread::scope(|scope| {
            let starts = [&one, &two].map(|id| {
                let daemon = &daemon;
                scope.spawn(move || daemon.post(&format!("/containers/{id}/start"), &Value::Null))
            });
            starts.map(|start| {
                start
                    .join()
                    .ok()
                    .and_then(Result::ok)
                    .map_or(0, |answer| answer.status)
            })
        });
        let mut sorted = statuses;
        sorted.sort_unstable();
        ensure!(sorted == [204, 409], "{statuses:?}");
        let source = daemon
            .root()
            .join(format!("lib/volumes/data{round}/_data/file"));
        ensure!(std::fs::read_to_string(source)? == "of the image\n");
        daemon.remove_all()?;
        daemon
            .delete(&format!("/volumes/data{round}"))?
            .expect(204)?;
    }
    daemon.finish()
}

#[test]
fn a_restart_of_what_removes_itself_keeps_it() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let id = daemon.run(
        "one",
        SLEEP,
        json!({ "HostConfig": { "AutoRemove": true } }),
    )?;
    for _ in 0..3 {
        daemon
            .post(&format!("/containers/{id}/restart?t=0"), &Value::Null)?
            .expect(204)?;
        std::thread::sleep(Duration::from_millis(100));
        ensure!(daemon.status(&id)? == "running");
    }
    daemon
        .post(&format!("/containers/{id}/stop?t=0"), &Value::Null)?
        .expect(204)?;
    eventually("it removes itself", || {
        Ok(daemon.get(&format!("/containers/{id}/json"))?.status == 404)
    })?;
    daemon.finish()
}

#[test]
fn a_client_that_goes_away_breaks_no_start_off() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    for milliseconds in [0, 5, 10, 20, 40] {
        let id = daemon.create("one", SLEEP, Value::Null)?;
        {
            use std::io::Write;
            let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket())?;
            write!(
                stream,
                "POST /containers/{id}/start HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
            )?;
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
        // Either it was not read at all, or it is carried through.
        let begun = Instant::now();
        eventually("it runs or was never started", || {
            let status = daemon.status(&id)?;
            let run = daemon.root().join("run/sandboxes").join(&id[..12]);
            Ok(status == "running" || !run.exists() && begun.elapsed() > Duration::from_secs(1))
        })?;
        daemon
            .delete(&format!("/containers/{id}?force=1"))?
            .expect(204)?;
    }
    let left = daemon.left_of_sandboxes()?;
    ensure!(left.is_empty(), "{left:#?}");
    daemon.finish()
}
