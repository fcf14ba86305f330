//! What the shop bears: a dead daemon, dead workloads, scaling, coming and going.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::load::{Follower, Load};
use super::{Seen, Shop, UNKNOWN_ORDER};
use crate::instance::eventually;

/// How long the shop is without a daemon.
const DAEMON_GONE: Duration = Duration::from_secs(3);

impl Shop<'_> {
    pub(super) fn daemon_killed(&self) -> Result<()> {
        let before = self.seen()?;
        let old = self.instance.daemon_pid()?;
        let order = self.placed("rope", 1)?;
        let order_path = format!("/api/orders/{}", order["id"].as_str().unwrap_or_default());
        let mut follower = Follower::start(self)?;

        let load = Load::start(
            self.instance.gateway,
            vec!["/api/catalog".into(), order_path, "/".into()],
        );
        std::thread::sleep(Duration::from_millis(500));
        let killed = Command::new("kill")
            .args(["-9", &old.to_string()])
            .status()?;
        ensure!(killed.success(), "kill -9 {old}");
        std::thread::sleep(DAEMON_GONE);
        // The next command starts a new daemon, which finds everything as it was.
        let listed = self.ps();
        let after = self.seen();
        let new = self.instance.daemon_pid();
        std::thread::sleep(Duration::from_millis(500));
        let answered = load.finish()?;
        println!("        {answered} requests answered meanwhile");
        listed.context("ps after the kill")?;

        ensure!(new? != old, "the daemon was not killed");
        let (before, after) = (ids(&before), ids(&after?));
        ensure!(
            before == after,
            "sandboxes before {before:?}, after {after:?}"
        );
        eventually("everything is healthy", || self.all_healthy())?;
        self.exec().context("exec after the kill")?;

        let id = self.placed("lantern", 1)?["id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let logs = self.compose(&["logs", "--tail", "3", "orders"])?;
        ensure!(logs.contains(&id), "logs after the kill lack {id}: {logs}");
        follower
            .wait_for(&id)
            .context("logs -f that was begun before the kill")
    }

    pub(super) fn scale(&self) -> Result<()> {
        self.compose(&["up", "-d", "--wait", "--scale", "orders=2"])?;
        let count = self.seen()?.get("orders").map_or(0, Vec::len);
        ensure!(count == 2, "orders has {count} sandboxes");
        eventually("both replicas answer", || {
            let mut answers = BTreeMap::<String, usize>::new();
            for _ in 0..20 {
                let answer = self.get(UNKNOWN_ORDER)?.expect(404)?;
                let replica = answer.header("x-served-by").context("no x-served-by")?;
                *answers.entry(replica.to_owned()).or_default() += 1;
            }
            // Round robin: half each, and one more or less.
            ensure!(
                answers.len() == 2 && answers.values().all(|count| *count >= 8),
                "{answers:?}"
            );
            Ok(())
        })?;
        self.compose(&["up", "-d", "--wait", "--scale", "orders=1"])?;
        let count = self.seen()?.get("orders").map_or(0, Vec::len);
        ensure!(
            count == 1,
            "orders has {count} sandboxes after scaling down"
        );
        self.get(UNKNOWN_ORDER)?.expect(404).map(drop)
    }

    pub(super) fn stop_and_start(&self) -> Result<()> {
        self.compose(&["stop", "orders"])?;
        let answer = self.get(UNKNOWN_ORDER)?.expect(503)?;
        ensure!(
            answer.text().contains("orders"),
            "the 503 does not name the service: {}",
            answer.text()
        );
        self.get("/api/catalog")?
            .expect(200)
            .context("the others go on")?;
        self.compose(&["start", "orders"])?;
        eventually("orders answers again", || {
            self.get(UNKNOWN_ORDER)?.expect(404).map(drop)
        })?;
        eventually("everything is healthy", || self.all_healthy())
    }

    pub(super) fn restart_policy(&self) -> Result<()> {
        for service in ["payments", "orders"] {
            let seen = self.seen()?;
            let sandbox = seen.get(service).and_then(|sandboxes| sandboxes.first());
            let id = &sandbox.context("no sandbox")?.id;
            let inspect = || self.instance.api(&format!("/containers/{id}/json"));
            let before = inspect()?;
            let pid = before["State"]["Pid"].as_u64().context("no process id")?;
            let killed = Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status()?;
            ensure!(killed.success(), "kill -9 {pid}");
            eventually(&format!("{service} runs again"), || {
                let now = inspect()?;
                ensure!(
                    now["State"]["Health"]["Status"] == "healthy"
                        && now["State"]["Pid"] != before["State"]["Pid"]
                        && now["RestartCount"].as_u64() > before["RestartCount"].as_u64(),
                    "{} restarts, {}",
                    now["RestartCount"],
                    now["State"]
                );
                Ok(())
            })?;
        }
        eventually("orders are taken again", || {
            self.placed("rope", 1).map(drop)
        })
    }

    pub(super) fn volume_is_kept(&self) -> Result<()> {
        let order = self.placed("sextant", 1)?;
        self.compose(&["down"])?;
        let left = self.instance.leftovers_of_sandboxes()?;
        ensure!(left.is_empty(), "left after down: {left:#?}");
        self.compose(&["up", "-d", "--wait"])?;
        let path = format!("/api/orders/{}", order["id"].as_str().unwrap_or_default());
        let kept = self.get(&path)?.expect(200)?.json()?;
        ensure!(kept == order, "placed {order}, kept {kept}");
        Ok(())
    }
}

fn ids(seen: &BTreeMap<String, Vec<Seen>>) -> Vec<String> {
    let mut ids: Vec<String> = seen
        .values()
        .flatten()
        .map(|sandbox| sandbox.id.clone())
        .collect();
    ids.sort();
    ids
}
