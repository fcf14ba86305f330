use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Daemon, eventually, service};

const SLEEP: &[&str] = &["sleep", "1000"];

fn refused(done: Result<()>) -> Result<String> {
    done.err()
        .map(|error| format!("{error:#}"))
        .context("it should have failed")
}

fn ids(daemon: &Daemon) -> Result<Vec<(String, String)>> {
    let names = daemon.names()?.into_iter();
    names
        .map(|name| {
            let id = daemon.json(&format!("/containers/{name}/json"))?["Id"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            Ok((name, id))
        })
        .collect()
}

#[test]
fn a_failed_up_leaves_what_ran_as_it_was() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let none = refused(daemon.up(
        "shop",
        &[service("web", &["no-such-program"], 1)],
        json!({}),
    ))?;
    ensure!(none.contains("no-such-program"), "{none}");
    ensure!(daemon.names()?.is_empty() && daemon.get("/bulkhead/projects/shop")?.status == 404);
    daemon.up(
        "shop",
        &[service("web", SLEEP, 3), service("db", SLEEP, 1)],
        json!({}),
    )?;
    let before = ids(&daemon)?;
    let spec = daemon.json("/bulkhead/projects/shop")?["services"].clone();
    // The new web would do, with fewer replicas; the new database does not.
    let broken = [
        service("web", &["sleep", "2000"], 1),
        service("db", &["no-such-program"], 1),
    ];
    let why = refused(daemon.up("shop", &broken, json!({ "remove_orphans": true })))?;
    ensure!(why.contains("no-such-program"), "{why}");
    ensure!(
        ids(&daemon)? == before,
        "{:?} is not {before:?}",
        ids(&daemon)?
    );
    for (name, _) in &before {
        ensure!(daemon.status(name)? == "running", "{name}");
    }
    let after = daemon.json("/bulkhead/projects/shop")?["services"].clone();
    ensure!(
        after[0]["replicas_desired"] == spec[0]["replicas_desired"],
        "{after}"
    );
    daemon.down("shop")?;
    daemon.finish()
}

#[test]
fn a_service_that_keeps_ending_fails_a_waiting_up() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let mut crashing = service("web", &["sh", "-c", "echo because; sleep 0.1; exit 4"], 1);
    crashing["container"]["HostConfig"] = json!({ "RestartPolicy": { "Name": "always" } });
    let why = refused(daemon.up("shop", &[crashing.clone()], json!({ "wait": true })))?;
    ensure!(why.contains("code 4") && why.contains("because"), "{why}");
    // The same as something that another service needs.
    crashing["container"]["Healthcheck"] =
        json!({ "Test": ["CMD", "true"], "Interval": 10_000_000_000_i64 });
    let mut needs = service("app", SLEEP, 1);
    needs["depends_on"] = json!([{ "service": "web", "condition": "completed_successfully" }]);
    let why = refused(daemon.up("shop", &[crashing, needs], json!({})))?;
    ensure!(why.contains("app") && why.contains("web"), "{why}");
    let mut ends = service("web", &["sh", "-c", "exit 5"], 1);
    ends["config_hash"] = json!("other");
    let why = refused(daemon.up("shop", &[ends], json!({ "wait": true })))?;
    ensure!(why.contains("code 5"), "{why}");
    ensure!(daemon.names()?.is_empty());
    daemon.finish()
}

#[test]
fn scaled_up_and_down_the_rest_is_left_alone() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    for replicas in [1, 4, 2] {
        let kept = ids(&daemon)?;
        daemon.up(
            "shop",
            &[service("web", SLEEP, replicas)],
            json!({ "wait": true }),
        )?;
        let now = ids(&daemon)?;
        ensure!(now.len() == replicas as usize, "{now:?}");
        let both = kept.len().min(now.len());
        ensure!(kept[..both] == now[..both], "{kept:?} {now:?}");
    }
    daemon.down("shop")?;
    ensure!(daemon.names()?.is_empty());
    daemon.finish()
}

#[test]
fn an_up_whose_daemon_was_killed_is_finished_by_the_next() -> Result<()> {
    let Some(mut daemon) = Daemon::new()? else {
        return Ok(());
    };
    daemon.up("shop", &[service("web", SLEEP, 2)], json!({}))?;
    for (round, milliseconds) in [20, 60, 100, 150, 220, 300].into_iter().enumerate() {
        let changed = [service("web", &["sleep", &format!("10{round}")], 2)];
        std::thread::scope(|scope| {
            let daemon = &daemon;
            let changed = &changed;
            scope.spawn(move || drop(daemon.up("shop", changed, json!({}))));
            std::thread::sleep(Duration::from_millis(milliseconds));
            daemon.kill_now()
        })?;
        daemon.kill()?;
        daemon.start()?;
        daemon.up("shop", &changed, json!({ "wait": true }))?;
        let names = daemon.names()?;
        ensure!(
            names == ["shop-web-1", "shop-web-2"],
            "after {milliseconds} ms: {names:?}"
        );
        for name in names {
            ensure!(daemon.status(&name)? == "running", "{name}");
        }
    }
    daemon.down("shop")?;
    daemon.finish()
}

#[test]
fn what_depends_on_a_service_follows_it() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let mut app = service("app", SLEEP, 1);
    app["depends_on"] =
        json!([{ "service": "db", "condition": "started", "required": true, "restart": true }]);
    daemon.up("shop", &[app.clone(), service("db", SLEEP, 1)], json!({}))?;
    let started = |name: &str| Ok::<_, anyhow::Error>(daemon.state(name)?["StartedAt"].clone());
    let before = started("shop-app-1")?;
    ensure!(started("shop-db-1")?.as_str() < before.as_str());
    daemon.up(
        "shop",
        &[app, service("db", &["sleep", "2000"], 1)],
        json!({}),
    )?;
    ensure!(started("shop-app-1")? != before, "it was not restarted");
    let one_off = json!({ "Labels": { "com.docker.compose.project": "shop", "com.docker.compose.service": "app", "com.docker.compose.oneoff": "True" } });
    daemon.run("shop-app-run-1", SLEEP, one_off)?;
    let services = daemon.json("/bulkhead/projects/shop")?["services"].clone();
    ensure!(
        services.as_array().is_some_and(|s| s
            .iter()
            .all(|s| s["sandboxes"].as_array().map_or(0, Vec::len) == 1)),
        "{services}"
    );
    daemon.down("shop")?;
    ensure!(daemon.names()?.is_empty());
    daemon.finish()
}

#[test]
fn a_client_that_goes_away_stops_no_up() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let body = json!({
        "spec": {
            "name": "shop",
            "networks": [{ "key": "default", "name": "shop_default" }],
            "services": [service("web", SLEEP, 3)],
        },
    })
    .to_string();
    {
        use std::io::Write;
        let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket())?;
        write!(
            stream,
            "POST /bulkhead/projects/shop/up HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        std::thread::sleep(Duration::from_millis(30));
    }
    eventually("all replicas run", || {
        let names = daemon.names()?;
        let running = names
            .iter()
            .filter(|name| daemon.status(name).is_ok_and(|s| s == "running"));
        Ok(running.count() == 3)
    })?;
    let begun = Instant::now();
    daemon.down("shop")?;
    println!("down took {:?}", begun.elapsed());
    ensure!(daemon.json("/networks")? == Value::Array(Vec::new()));
    daemon.finish()
}
