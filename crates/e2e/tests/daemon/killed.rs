use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bulkhead_e2e::host;
use bulkhead_e2e::http::Request;
use serde_json::{Value, json};

use crate::support::{Daemon, eventually, service};

/// How often the daemon is killed, at the most and as long as there is time.
const KILLS: u32 = 40;
const TIME: Duration = Duration::from_secs(60);

/// Checklist, line 17: `kill -9` at any instant, then restart: nothing leaks, and nothing that was
/// acknowledged is lost.
#[test]
fn killed_at_any_instant_it_loses_and_leaks_nothing() -> Result<()> {
    let Some(mut daemon) = Daemon::new()? else {
        return Ok(());
    };
    let begun = Instant::now();
    let mut kills = 0;
    while kills < KILLS && (kills < 20 || begun.elapsed() < TIME) {
        // Spread over what a start takes, in an order that repeats late.
        let pause = Duration::from_millis(u64::from(kills * 37 % 400));
        let acknowledged = killed_amid_requests(&mut daemon, pause)?;
        if kills % 3 == 0 {
            // The next one too, while it takes over.
            let mut early = daemon.spawn()?;
            std::thread::sleep(Duration::from_millis(u64::from(kills * 11 % 120)));
            early.kill()?;
            early.wait()?;
        }
        daemon.start()?;
        for name in acknowledged {
            let status = daemon.status(&name)?;
            ensure!(
                status == "running",
                "{name} was started, and is {status} after {pause:?}"
            );
        }
        daemon.remove_all()?;
        // There may have been no time to begin with the project.
        drop(daemon.down("killed"));
        let left = daemon.left_of_sandboxes()?;
        ensure!(
            left.is_empty(),
            "killed after {pause:?}: {left:#?}\n{}",
            daemon.log()
        );
        kills += 1;
    }
    for name in ["one", "two"] {
        let removed = daemon.delete(&format!("/volumes/{name}"))?;
        ensure!([204, 404].contains(&removed.status), "{}", removed.text());
    }
    println!("killed {kills} times");
    daemon.finish()
}

/// Kills the daemon while it brings up a project and runs sandboxes; answers the names of those
/// whose start was acknowledged.
fn killed_amid_requests(daemon: &mut Daemon, pause: Duration) -> Result<Vec<String>> {
    let acknowledged = std::thread::scope(|scope| {
        let daemon = &*daemon;
        let runs = ["one", "two"].map(|name| {
            scope.spawn(move || {
                let ports = json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "" }] });
                let volume = format!("{name}:/filled");
                let host = json!({ "PortBindings": ports, "Binds": [volume] });
                let started = daemon.run(name, &["sleep", "1000"], json!({ "HostConfig": host }));
                started.is_ok().then(|| name.to_owned())
            })
        });
        scope.spawn(move || {
            let services = [service("web", &["sleep", "1000"], 2)];
            // It is killed meanwhile: how that looks to its client is no matter here.
            drop(daemon.up("killed", &services, json!({})));
        });
        std::thread::sleep(pause);
        daemon.kill_now()?;
        Ok::<_, anyhow::Error>(
            runs.into_iter()
                .filter_map(|run| run.join().ok().flatten())
                .collect(),
        )
    });
    daemon.kill()?;
    acknowledged
}

/// The same amid the ends of things.
#[test]
fn killed_while_things_end_it_loses_and_leaks_nothing() -> Result<()> {
    let Some(mut daemon) = Daemon::new()? else {
        return Ok(());
    };
    for kill in 0..20_u64 {
        daemon.run(
            "removed",
            &["sleep", "1000"],
            json!({ "HostConfig": { "Binds": ["/filled"] } }),
        )?;
        daemon.run(
            "stopped",
            &["sh", "-c", "trap 'exit 7' TERM; sleep 1000 & wait"],
            Value::Null,
        )?;
        daemon.run("restarted", &["sleep", "1000"], Value::Null)?;
        daemon.up(
            "ending",
            &[service("web", &["sleep", "1000"], 2)],
            json!({}),
        )?;
        let done = std::thread::scope(|scope| {
            let daemon = &daemon;
            let requests = [
                ("DELETE", "/containers/removed?force=1&v=1"),
                ("POST", "/containers/stopped/stop?t=2"),
                ("POST", "/containers/restarted/restart?t=0"),
            ]
            .map(|(method, path)| {
                scope.spawn(move || {
                    let request = Request {
                        method,
                        ..Request::get(path)
                    };
                    request
                        .send_unix(&daemon.socket())
                        .is_ok_and(|answer| answer.status == 204)
                })
            });
            let down = scope.spawn(|| daemon.down("ending").is_ok());
            std::thread::sleep(Duration::from_millis(kill * 13 % 200));
            daemon.kill_now()?;
            let done = requests.map(|request| request.join().unwrap_or(false));
            Ok::<_, anyhow::Error>((done, down.join().unwrap_or(false)))
        });
        daemon.kill()?;
        let ([removed, stopped, restarted], down) = done?;
        daemon.start()?;
        let names = daemon.names()?;
        let there = |name: &str| names.iter().any(|known| known == name);
        ensure!(
            !removed || !there("removed"),
            "removed, and back again: {names:?}"
        );
        ensure!(
            !down || !there("ending-web-1"),
            "down, and up again: {names:?}"
        );
        ensure!(!stopped || daemon.status("stopped")? == "exited");
        ensure!(!restarted || daemon.status("restarted")? == "running");
        daemon.remove_all()?;
        // It may be down already.
        drop(daemon.down("ending"));
        let left = daemon.left_of_sandboxes()?;
        ensure!(left.is_empty(), "{left:#?}\n{}", daemon.log());
        ensure!(
            daemon.json("/volumes")?["Volumes"] == json!([]),
            "an anonymous volume is left"
        );
    }
    daemon.finish()
}

#[test]
fn what_ends_while_it_is_away_is_known_afterwards() -> Result<()> {
    let Some(mut daemon) = Daemon::new()? else {
        return Ok(());
    };
    let ends = daemon.run(
        "ends",
        &["sh", "-c", "sleep 0.5; echo bye; exit 3"],
        Value::Null,
    )?;
    let stays = daemon.run("stays", &["sleep", "1000"], Value::Null)?;
    let removed = daemon.run(
        "removed",
        &["sleep", "0.5"],
        json!({ "HostConfig": { "AutoRemove": true } }),
    )?;
    let policy = json!({ "HostConfig": { "RestartPolicy": { "Name": "always" } } });
    let restarts = daemon.run("restarts", &["sleep", "0.5"], policy)?;
    let pid = daemon.state(&stays)?["Pid"].clone();
    daemon.kill()?;
    std::thread::sleep(Duration::from_secs(2));
    daemon.start()?;
    let state = daemon.state(&ends)?;
    ensure!(
        state["Status"] == "exited" && state["ExitCode"] == 3,
        "{state}"
    );
    let log = daemon
        .get(&format!("/containers/{ends}/logs?stdout=1"))?
        .text();
    ensure!(log.contains("bye"), "{log}");
    let state = daemon.state(&stays)?;
    ensure!(
        state["Status"] == "running" && state["Pid"] == pid,
        "{state}"
    );
    eventually("it removes itself", || {
        Ok(daemon.get(&format!("/containers/{removed}/json"))?.status == 404)
    })?;
    eventually("it is restarted", || {
        Ok(daemon.status(&restarts)? == "running")
    })?;
    daemon.remove_all()?;
    daemon.finish()
}

#[test]
fn a_killed_supervisor_takes_its_sandbox_along_and_leaves_nothing() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let id = daemon.run("one", &["sleep", "1000"], Value::Null)?;
    let policy = json!({ "HostConfig": { "RestartPolicy": { "Name": "on-failure" } } });
    let again = daemon.run("again", &["sleep", "1000"], policy)?;
    let first = daemon.state(&again)?["Pid"].clone();
    for (pid, arguments) in host::processes_of(daemon.root())? {
        if arguments.contains(" supervisor ") {
            Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status()?;
        }
    }
    eventually("its end is noticed", || Ok(daemon.status(&id)? == "exited"))?;
    ensure!(daemon.state(&id)?["ExitCode"] == 137);
    eventually("the policy is followed", || {
        let state = daemon.state(&again)?;
        Ok(state["Status"] == "running" && state["Pid"] != first)
    })?;
    daemon.remove_all()?;
    let left = daemon.left_of_sandboxes()?;
    ensure!(left.is_empty(), "{left:#?}");
    daemon.finish()
}

#[test]
fn a_killed_data_plane_serves_again() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let mut web = service("web", &["httpd", "-f", "-p", "80", "-h", "/filled"], 1);
    web["container"]["Labels"] = json!({ "bulkhead.http.path": "/", "bulkhead.http.port": "80" });
    daemon.up("gate", &[web], json!({ "wait": true }))?;
    let answers = || -> Result<bool> {
        let answer = Request::get("/file").send_tcp(daemon.gateway)?;
        ensure!(
            answer.text() == "of the image\n",
            "{}: {}",
            answer.status,
            answer.text()
        );
        Ok(true)
    };
    eventually("the gateway serves", answers)?;
    let pid = daemon.json("/bulkhead/info")?["data_plane_pid"].clone();
    Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()?;
    eventually("the gateway serves again", answers)?;
    ensure!(daemon.json("/bulkhead/info")?["data_plane_pid"] != pid);
    daemon.down("gate")?;
    daemon.finish()
}

#[test]
fn a_second_daemon_on_one_root_is_refused() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let status = daemon.spawn()?.wait()?;
    ensure!(!status.success(), "{status}");
    ensure!(
        daemon.log().contains("another daemon runs"),
        "{}",
        daemon.log()
    );
    daemon.get("/_ping")?.expect(200)?;
    daemon.finish()
}
