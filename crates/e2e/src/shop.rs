//! What the example shop must do, whatever its services run in.

mod availability;
mod behaviour;
mod load;
mod operation;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http::{Request, Response};
use crate::instance::eventually;
use crate::{Instance, Scenario};

pub const SERVICES: [&str; 5] = ["storefront", "catalog", "orders", "payments", "db"];
/// An order that no run has placed.
const UNKNOWN_ORDER: &str = "/api/orders/00000000-0000-4000-8000-000000000000";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The shop on one instance, brought up from these Compose files.
#[derive(Debug)]
pub struct Shop<'a> {
    instance: &'a Instance,
    /// `-f FILE` for each file.
    files: Vec<&'a str>,
}

/// A sandbox as the daemon's API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    id: String,
    name: String,
    kind: String,
    health: String,
}

impl<'a> Shop<'a> {
    pub fn new(instance: &'a Instance, files: &[&'a str]) -> Self {
        Self {
            instance,
            files: files.iter().flat_map(|file| ["-f", file]).collect(),
        }
    }

    /// The whole life of the shop, from nothing to nothing. `kind_of` tells what each service
    /// must run in.
    ///
    /// # Errors
    /// Every step that failed.
    pub fn live(&self, kind_of: impl Fn(&str) -> &'static str) -> Result<()> {
        let mut scenario = Scenario::default();
        let up = scenario.step("base image", || self.instance.import_base_image())
            && scenario.step("up: everything is healthy", || {
                self.compose(&["up", "-d", "--build", "--wait"]).map(drop)
            });
        if up {
            scenario.step("each service runs in what the file says", || {
                self.kinds(&kind_of)
            });
            scenario.step("a micro VM has a kernel of its own", || {
                self.kernels(&kind_of)
            });
            scenario.step("the page", || self.page());
            scenario.step("the catalog", || self.catalog());
            scenario.step("an order is placed, paid and kept", || self.order());
            scenario.step("an order by the page's form", || self.form());
            scenario.step("wrong orders are refused", || self.refusals());
            scenario.step("a trace goes through all services", || self.trace());
            scenario.step("exec", || self.exec());
            scenario.step("logs", || self.logs());
            scenario.step("ps", || self.ps());
            scenario.step("docker's own client", || self.docker());
            scenario.step("the daemon is killed: no request is lost", || {
                self.daemon_killed()
            });
            scenario.step("two replicas share the requests", || self.scale());
            scenario.step("stop and start", || self.stop_and_start());
            scenario.step("a workload that dies is started again", || {
                self.restart_policy()
            });
            scenario.step("down and up keep the volume", || self.volume_is_kept());
        }
        scenario.step("down -v removes every sandbox", || self.down());
        scenario.step("daemon stop leaves nothing", || self.daemon_stop());
        scenario.finish()
    }

    fn compose(&self, arguments: &[&str]) -> Result<String> {
        self.instance.run(&[&self.files, arguments].concat())
    }

    fn get(&self, path: &str) -> Result<Response> {
        self.instance.http(Request::get(path))
    }

    fn place(&self, body: &str) -> Result<Response> {
        self.instance.http(Request::post("/api/orders", body))
    }

    fn placed(&self, sku: &str, quantity: u32) -> Result<Value> {
        self.place(&format!(r#"{{"sku": "{sku}", "quantity": {quantity}}}"#))?
            .expect(201)?
            .json()
    }

    /// Service to its sandboxes.
    fn seen(&self) -> Result<BTreeMap<String, Vec<Seen>>> {
        let status = self.instance.api("/bulkhead/projects/shop")?;
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let services = status["services"].as_array().context("no services")?;
        Ok(services
            .iter()
            .map(|service| {
                let sandboxes = service["sandboxes"].as_array().into_iter().flatten();
                let seen = sandboxes.map(|sandbox| Seen {
                    id: text(sandbox, "id"),
                    name: text(sandbox, "name"),
                    kind: text(sandbox, "kind"),
                    health: text(sandbox, "health"),
                });
                (text(service, "name"), seen.collect())
            })
            .collect())
    }

    fn all_healthy(&self) -> Result<()> {
        let seen = self.seen()?;
        for service in SERVICES {
            let sandboxes = seen.get(service).map(Vec::as_slice).unwrap_or_default();
            ensure!(!sandboxes.is_empty(), "{service} has no sandbox");
            for sandbox in sandboxes {
                ensure!(
                    sandbox.health == "healthy",
                    "{} is {}",
                    sandbox.name,
                    sandbox.health
                );
            }
        }
        Ok(())
    }

    fn down(&self) -> Result<()> {
        self.compose(&["down", "-v"])?;
        let left = self.instance.leftovers_of_sandboxes()?;
        ensure!(left.is_empty(), "left after down -v: {left:#?}");
        Ok(())
    }

    fn daemon_stop(&self) -> Result<()> {
        self.instance.run(&["daemon", "stop"])?;
        let mut left = Vec::new();
        let gone = eventually("all processes have ended", || {
            left = self.instance.leftovers()?;
            ensure!(left.is_empty(), "left after daemon stop: {left:#?}");
            Ok(())
        });
        gone.with_context(|| format!("{} leftovers", left.len()))
    }
}
