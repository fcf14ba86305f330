//! The conformance suite over micro VMs, and what is particular to them.
//!
//! The test binary is its own launcher: run with `microvm-launch` it becomes one. Guests run
//! under software emulation, which every host has. Run with `compare-trees` it compares the image of
//! layers with the container's root of them.

mod host;
mod rootfs;
mod support;
mod templates;

use std::process::ExitCode;

use bulkhead_model::testing;
use libtest_mimic::{Arguments, Trial};

use support::Guests;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .first()
        .is_some_and(|argument| argument == "microvm-launch")
    {
        return bulkhead_microvm::monitor_main(arguments.split_off(1));
    }
    if arguments
        .first()
        .is_some_and(|argument| argument == rootfs::COMPARE)
    {
        return rootfs::compare_main(&arguments[1..]);
    }
    let shared = testing::scenarios().into_iter().map(|(name, scenario)| {
        trial(&format!("conformance::{name}"), move |guests| {
            scenario(guests)
        })
    });
    let host = host::SCENARIOS
        .iter()
        .map(|(name, scenario)| trial(&format!("host::{name}"), *scenario));
    let templates = templates::SCENARIOS
        .iter()
        .map(|(name, scenario)| trial(&format!("templates::{name}"), *scenario));
    let rootfs = rootfs::SCENARIOS
        .iter()
        .map(|(name, scenario)| trial(&format!("rootfs::{name}"), *scenario));
    let trials = shared.chain(host).chain(templates).chain(rootfs).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &str, scenario: impl FnOnce(&Guests) + Send + 'static) -> Trial {
    Trial::test(name, move || {
        if let Some(reason) = support::why_not() {
            eprintln!("skipped: {reason}");
            return Ok(());
        }
        scenario(&Guests::new());
        Ok(())
    })
}
