//! What the example shop must do, whatever its services run in.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::{Request, Response};
use crate::instance::{eventually, run};
use crate::{Instance, Scenario};

pub const SERVICES: [&str; 5] = ["storefront", "catalog", "orders", "payments", "db"];
/// An order that no run has placed.
const UNKNOWN_ORDER: &str = "/api/orders/00000000-0000-4000-8000-000000000000";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// How long the shop is without a daemon.
const DAEMON_GONE: Duration = Duration::from_secs(3);

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

    fn kinds(&self, kind_of: &impl Fn(&str) -> &'static str) -> Result<()> {
        self.all_healthy()?;
        for (service, sandboxes) in self.seen()? {
            for sandbox in sandboxes {
                let expected = kind_of(&service);
                ensure!(
                    sandbox.kind == expected,
                    "{} is a {}, not a {expected}",
                    sandbox.name,
                    sandbox.kind
                );
            }
        }
        Ok(())
    }

    fn kernels(&self, kind_of: &impl Fn(&str) -> &'static str) -> Result<()> {
        let host = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        // The other images hold no program that could be asked.
        for service in ["storefront", "orders", "db"] {
            let kernel = self.compose(&["exec", "-T", service, "uname", "-r"])?;
            let is_own = kernel.trim() != host.trim();
            ensure!(
                is_own == (kind_of(service) == "microvm"),
                "{service} is a {} and has kernel {}; the host has {}",
                kind_of(service),
                kernel.trim(),
                host.trim()
            );
        }
        Ok(())
    }

    fn page(&self) -> Result<()> {
        let page = self.get("/")?.expect(200)?;
        let kind = page.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("text/html"), "content-type {kind}");
        let text = page.text();
        for expected in [
            "<!doctype html>",
            "Bulkhead Chandlery",
            "Ship&#39;s bell",
            "€129.00",
            "</html>",
        ] {
            ensure!(text.contains(expected), "the page lacks {expected}: {text}");
        }
        let style = self.get("/style.css")?.expect(200)?;
        ensure!(
            style.text().contains("prefers-color-scheme"),
            "the style is cut off"
        );
        Ok(())
    }

    fn catalog(&self) -> Result<()> {
        let catalog = self.get("/api/catalog")?.expect(200)?.json()?;
        let products = catalog.as_array().context("the catalog is no list")?;
        ensure!(products.len() == 6, "{} products", products.len());
        for product in products {
            ensure!(
                product["sku"].is_string()
                    && product["name"].is_string()
                    && product["price_cents"].is_u64(),
                "{product}"
            );
        }
        self.get("/api/catalog/anchor")?.expect(404).map(drop)
    }

    fn order(&self) -> Result<()> {
        let order = self.placed("rope", 3)?;
        ensure!(order["total_cents"] == 3 * 3450, "{order}");
        let payment = order["payment_id"].as_str().unwrap_or_default();
        ensure!(payment.starts_with("pay_"), "{order}");
        let id = order["id"].as_str().context("no id")?;
        let kept = self
            .get(&format!("/api/orders/{id}"))?
            .expect(200)?
            .json()?;
        ensure!(kept == order, "placed {order}, kept {kept}");

        let key = [
            ("content-type", "application/json"),
            ("idempotency-key", "the same order"),
        ];
        let body = r#"{"sku": "bell", "quantity": 1}"#;
        let again = || -> Result<Value> {
            let request = Request::post("/api/orders", body).with_headers(&key);
            self.instance.http(request)?.expect(201)?.json()
        };
        let (first, second) = (again()?, again()?);
        ensure!(first == second, "one key, two orders: {first}, {second}");
        Ok(())
    }

    fn form(&self) -> Result<()> {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let request = Request::post("/order", "sku=compass&quantity=2").with_headers(&headers);
        let answer = self.instance.http(request)?.expect(303)?;
        let page = self
            .get(answer.header("location").context("no location")?)?
            .expect(200)?
            .text();
        for expected in ["2 × Gimballed compass", "€152.00", "pay_"] {
            ensure!(page.contains(expected), "the page lacks {expected}: {page}");
        }
        Ok(())
    }

    fn refusals(&self) -> Result<()> {
        for (body, status) in [
            (r#"{"sku": "anchor", "quantity": 1}"#, 422),
            (r#"{"sku": "rope", "quantity": 0}"#, 422),
            (r#"{"sku": "rope", "quantity": -1}"#, 422),
            (r#"{"sku": "rope", "quantity": 1.5}"#, 422),
            (r#"{"sku": "rope"}"#, 422),
            (r#"{"sku": "rope", "quantity": 1"#, 400),
            ("[]", 400),
        ] {
            let answer = self
                .place(body)?
                .expect(status)
                .with_context(|| body.to_owned())?;
            ensure!(answer.json()?["error"].is_string(), "{body}: no reason");
        }
        let answer = self.get(UNKNOWN_ORDER)?.expect(404)?;
        ensure!(answer.json()?["error"].is_string(), "no reason");
        Ok(())
    }

    fn trace(&self) -> Result<()> {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let headers = [
            ("content-type", "application/json"),
            ("traceparent", parent.as_str()),
        ];
        let request = Request::post("/api/orders", r#"{"sku": "flags", "quantity": 1}"#)
            .with_headers(&headers);
        self.instance.http(request)?.expect(201)?;
        for service in ["orders", "catalog", "payments"] {
            eventually(&format!("the trace in the log of {service}"), || {
                let logs = self.compose(&["logs", service])?;
                ensure!(logs.contains(TRACE), "{logs}");
                Ok(())
            })?;
        }
        Ok(())
    }

    fn exec(&self) -> Result<()> {
        for (service, command, expected) in [
            ("storefront", &["node", "-p", "6 * 7"][..], "42"),
            ("catalog", &["/catalog", "healthcheck"], ""),
            ("orders", &["python3", "-c", "print(6 * 7)"], "42"),
            ("payments", &["/payments", "healthcheck"], ""),
            (
                "db",
                &[
                    "psql",
                    "-h",
                    "/run/postgresql",
                    "-U",
                    "shop",
                    "-tAc",
                    "SELECT 6 * 7",
                ],
                "42",
            ),
        ] {
            let arguments = [&["exec", "-T", service], command].concat();
            let answer = self.compose(&arguments)?;
            ensure!(answer.trim() == expected, "{service}: {answer}");
        }
        for (command, code) in [
            (&["sh", "-c", "exit 7"][..], 7),
            (&["no-such-program"], 127),
            (&["/etc/passwd"], 126),
        ] {
            let arguments = [self.files.as_slice(), &["exec", "-T", "orders"], command].concat();
            let output = self.instance.attempt(&arguments)?;
            ensure!(
                output.status.code() == Some(code),
                "{command:?}: {:?} instead of {code}: {}",
                output.status,
                output.stderr
            );
        }
        Ok(())
    }

    fn logs(&self) -> Result<()> {
        let all = self.compose(&["logs"])?;
        for (service, expected) in [
            ("storefront", "listening on port 3000"),
            ("catalog", "listening on port 8000"),
            ("orders", "order placed"),
            ("payments", "order paid"),
            ("db", "database system is ready to accept connections"),
        ] {
            let found = all
                .lines()
                .any(|line| line.starts_with(service) && line.contains(expected));
            ensure!(found, "no line of {service} with '{expected}': {all}");
        }
        let last = self.compose(&["logs", "--tail", "1", "orders"])?;
        ensure!(last.lines().count() == 1, "--tail 1: {last}");
        Ok(())
    }

    fn ps(&self) -> Result<()> {
        let table = self.compose(&["ps"])?;
        let listing = self.compose(&["ps", "--format", "json"])?;
        let documents: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&listing)
            .into_iter()
            .collect();
        let documents = documents.with_context(|| format!("not JSON: {listing}"))?;
        ensure!(!documents.is_empty(), "ps --format json says nothing");
        for service in SERVICES {
            for text in [&table, &listing] {
                ensure!(text.contains(service), "ps lacks {service}: {text}");
            }
        }
        ensure!(table.contains("healthy"), "{table}");
        Ok(())
    }

    fn docker(&self) -> Result<()> {
        if Command::new("docker").arg("--version").output().is_err() {
            println!("skipped: no docker client (apt-get install docker.io)");
            return Ok(());
        }
        let names: BTreeMap<String, String> = self
            .seen()?
            .into_iter()
            .filter_map(|(service, sandboxes)| Some((service, sandboxes.first()?.name.clone())))
            .collect();
        let name = |service: &str| names.get(service).map(String::as_str).context("no sandbox");
        let listed = self.docker_run(&["ps", "--format", "{{.Names}} {{.Status}}"])?;
        for service in SERVICES {
            let line = listed
                .lines()
                .find(|line| line.starts_with(&format!("{} ", name(service).unwrap_or("?"))));
            ensure!(
                line.is_some_and(|line| line.contains("Up") && line.contains("(healthy)")),
                "docker ps: {service}: {listed}"
            );
        }
        let logs = self.docker_run(&["logs", "--tail", "5", name("orders")?])?;
        ensure!(logs.contains("order placed"), "docker logs: {logs}");
        for service in SERVICES {
            let inspected: Value =
                serde_json::from_str(&self.docker_run(&["inspect", name(service)?])?)?;
            let sandbox = &inspected[0];
            ensure!(
                sandbox["State"]["Running"] == true
                    && sandbox["State"]["Health"]["Status"] == "healthy",
                "docker inspect {service}: {}",
                sandbox["State"]
            );
            let label = &sandbox["Config"]["Labels"]["com.docker.compose.service"];
            ensure!(label == service, "docker inspect {service}: label {label}");
        }
        let answer =
            self.docker_run(&["exec", name("orders")?, "python3", "-c", "print(6 * 7)"])?;
        ensure!(answer.trim() == "42", "docker exec: {answer}");
        Ok(())
    }

    fn docker_run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("docker");
        command
            .arg("-H")
            .arg(self.instance.docker_host())
            .args(arguments);
        command
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        let output = run(command)?;
        ensure!(
            output.status.success(),
            "docker {arguments:?}: {}",
            output.stderr.trim()
        );
        Ok(output.stdout)
    }

    fn daemon_killed(&self) -> Result<()> {
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

    fn scale(&self) -> Result<()> {
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

    fn stop_and_start(&self) -> Result<()> {
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

    fn restart_policy(&self) -> Result<()> {
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

    fn volume_is_kept(&self) -> Result<()> {
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

fn ids(seen: &BTreeMap<String, Vec<Seen>>) -> Vec<String> {
    let mut ids: Vec<String> = seen
        .values()
        .flatten()
        .map(|sandbox| sandbox.id.clone())
        .collect();
    ids.sort();
    ids
}

/// Requests without a pause, from several threads, each of which must be answered with 200.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<usize>>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Load {
    fn start(gateway: std::net::SocketAddr, paths: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let threads = paths
            .into_iter()
            .map(|path| {
                let (stop, failures) = (stop.clone(), failures.clone());
                std::thread::spawn(move || {
                    let mut answered = 0;
                    while !stop.load(Ordering::Relaxed) {
                        match Request::get(&path)
                            .send_tcp(gateway)
                            .and_then(|answer| answer.expect(200))
                        {
                            Ok(_) => answered += 1,
                            Err(error) => failures
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(format!("{path}: {error:#}")),
                        }
                    }
                    answered
                })
            })
            .collect();
        Self {
            stop,
            threads,
            failures,
        }
    }

    /// How many requests were answered.
    fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answered = 0;
        for thread in self.threads {
            match thread.join() {
                Ok(count) => answered += count,
                Err(_) => bail!("a thread of the load panicked"),
            }
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            failures.is_empty(),
            "{} requests were lost, {answered} answered; the first: {}",
            failures.len(),
            failures.first().map_or("", String::as_str)
        );
        ensure!(answered > 0, "no request was answered");
        Ok(answered)
    }
}

/// `logs -f` of the orders, begun now.
struct Follower {
    process: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(shop: &Shop<'_>) -> Result<Self> {
        let arguments = [
            shop.files.as_slice(),
            &["logs", "-f", "--tail", "1", "orders"],
        ]
        .concat();
        let mut process = shop
            .instance
            .command(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = process.stdout.take().context("no stdout")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { process, lines })
    }

    fn wait_for(&mut self, text: &str) -> Result<()> {
        loop {
            let line = self
                .lines
                .recv_timeout(Duration::from_secs(20))
                .with_context(|| format!("no line with {text}"))?;
            if line.contains(text) {
                return Ok(());
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
