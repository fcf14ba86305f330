//! What those who run the shop see.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{SERVICES, Shop};
use crate::instance::run;

impl Shop<'_> {
    pub(super) fn kinds(&self, kind_of: &impl Fn(&str) -> &'static str) -> Result<()> {
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

    pub(super) fn kernels(&self, kind_of: &impl Fn(&str) -> &'static str) -> Result<()> {
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

    pub(super) fn exec(&self) -> Result<()> {
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

    pub(super) fn logs(&self) -> Result<()> {
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

    pub(super) fn ps(&self) -> Result<()> {
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

    pub(super) fn docker(&self) -> Result<()> {
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
}
