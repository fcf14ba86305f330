//! Wrong input is answered with what is wrong, where, and what to do; and changes nothing.

use std::fs;

use anyhow::{Result, ensure};
use bulkhead_e2e::instance::Output;
use bulkhead_e2e::{Instance, Scenario};

const WORKING: &str = "
name: e2e-input
services:
  web:
    image: debian:bookworm-slim
    command: [sleep, infinity]
    stop_grace_period: 1s
";

/// Name of the case, what is in the Compose file after `services:`, what must be said.
const WRONG: [(&str, &str, &[&str]); 7] = [
    (
        "a misspelt key",
        "  web:\n    image: debian:bookworm-slim\n    comand: sleep\n",
        &["compose.yaml:5:5", "comand", "^", "command"],
    ),
    (
        "a cycle",
        "  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [a]}\n",
        &["a", "b", "→"],
    ),
    (
        "a missing build context",
        "  web:\n    build: ./nowhere\n",
        &["nowhere"],
    ),
    (
        "a missing variable",
        "  web:\n    image: ${E2E_MISSING:?say which image}\n",
        &["E2E_MISSING", "say which image"],
    ),
    (
        "a missing image",
        "  web:\n    image: no-such-image:1\n    pull_policy: never\n",
        &["no-such-image:1"],
    ),
    (
        "an unknown runtime",
        "  web:\n    image: debian:bookworm-slim\n    runtime: micorvm\n",
        &["micorvm", "microvm"],
    ),
    ("no YAML", "  web: [\n", &["compose.yaml:"]),
];

#[test]
fn wrong_input_changes_nothing() -> Result<()> {
    let project = tempfile::tempdir()?;
    let Some(instance) = Instance::new(project.path())? else {
        return Ok(());
    };
    let file = project.path().join("compose.yaml");
    let mut scenario = Scenario::default();
    fs::write(&file, WORKING)?;
    let up = scenario.step("base image", || instance.import_base_image())
        && scenario.step("up", || instance.run(&["up", "-d"]).map(drop));
    if up {
        let before = listing(&instance)?;
        for (name, services, parts) in WRONG {
            scenario.step(name, || {
                fs::write(&file, format!("name: e2e-input\nservices:\n{services}"))?;
                refused(&instance.attempt(&["up", "-d"])?, parts)?;
                let after = listing(&instance)?;
                ensure!(before == after, "before: {before}; after: {after}");
                Ok(())
            });
        }
        scenario.step("a port in use", || {
            let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
            let port = taken.local_addr()?.port().to_string();
            let more = format!("    ports: ['127.0.0.1:{port}:80']\n");
            fs::write(
                &file,
                format!("{WORKING}  other:\n    image: debian:bookworm-slim\n    command: sleep infinity\n{more}"),
            )?;
            refused(&instance.attempt(&["up", "-d"])?, &[&port])?;
            let after = listing(&instance)?;
            ensure!(before == after, "before: {before}; after: {after}");
            Ok(())
        });
    }
    fs::write(&file, WORKING)?;
    scenario.step("down", || instance.run(&["down", "-v"]).map(drop));
    scenario.step("nothing is left", || {
        let left = instance.leftovers_of_sandboxes()?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    });
    scenario.finish()
}

fn refused(output: &Output, parts: &[&str]) -> Result<()> {
    ensure!(!output.status.success(), "it was accepted");
    for part in parts {
        ensure!(
            output.stderr.contains(part),
            "'{part}' is not said: {}",
            output.stderr
        );
    }
    ensure!(!output.stderr.contains("panicked"), "{}", output.stderr);
    Ok(())
}

/// Ids of all sandboxes that run.
fn listing(instance: &Instance) -> Result<String> {
    let containers = instance.api("/containers/json?all=1")?;
    let ids = containers.as_array().into_iter().flatten();
    let mut lines: Vec<String> = ids
        .map(|one| format!("{} {}", one["Id"], one["State"]))
        .collect();
    lines.sort();
    Ok(lines.join(", "))
}
