//! The conformance suite over containers, and what is particular to them.
//!
//! The test binary is its own helper: run with `container-init` it becomes one.

mod bad_input;
mod bundle;
mod command_line;
mod schema;
mod support;

mod attributes;
mod checklist;
mod host;
mod isolation;
mod leaks;
mod oci;
mod oci_cgroups;
mod oci_checkpoint;
mod oci_config;
mod oci_systemd;
mod rootless;
mod seccomp;
mod settings;
mod user_namespaces;

use std::process::ExitCode;

use bulkhead_model::testing;
use libtest_mimic::{Arguments, Trial};

use support::Host;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(argument) if argument == "container-init" => {
            return bulkhead_container::init_main(arguments);
        }
        Some(argument) if argument == "oci" => return bulkhead_container::oci_main(arguments),
        Some(argument) if argument == "linger" => return checklist::linger(),
        Some(argument) if argument == "watched" => return leaks::watched(arguments),
        Some(argument) if argument == "hold" => return host::hold(arguments),
        _ => {}
    }
    let shared = testing::scenarios().into_iter().map(|(name, scenario)| {
        trial(&format!("conformance::{name}"), move || {
            scenario(&Host::new())
        })
    });
    let own = [
        ("isolation", isolation::SCENARIOS),
        ("settings", settings::SCENARIOS),
        ("host", host::SCENARIOS),
        ("oci", oci::SCENARIOS),
        ("bad_input", bad_input::SCENARIOS),
        ("oci_cgroups", oci_cgroups::SCENARIOS),
        ("oci_checkpoint", oci_checkpoint::SCENARIOS),
        ("command_line", command_line::SCENARIOS),
        ("oci_config", oci_config::SCENARIOS),
        ("oci_systemd", oci_systemd::SCENARIOS),
        ("rootless", rootless::SCENARIOS),
        ("attributes", attributes::SCENARIOS),
        ("seccomp", seccomp::SCENARIOS),
        ("user_namespaces", user_namespaces::SCENARIOS),
        ("checklist", checklist::SCENARIOS),
        ("leaks", leaks::SCENARIOS),
    ];
    let own = own.into_iter().flat_map(|(group, scenarios)| {
        scenarios.iter().map(move |(name, scenario)| {
            trial(&format!("{group}::{name}"), move || scenario(&Host::new()))
        })
    });
    let trials = shared.chain(own).collect();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    support::remove_layer();
    conclusion.exit_code()
}

fn trial(name: &str, scenario: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: containers need root");
            return Ok(());
        }
        scenario();
        Ok(())
    })
}
