//! The conformance suite over containers, and what is particular to them.
//!
//! The test binary is its own helper: run with `container-init` it becomes one.

mod support;

mod host;
mod isolation;

use std::process::ExitCode;

use bulkhead_model::testing;
use libtest_mimic::{Arguments, Trial};

use support::Host;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|argument| argument == "container-init")
    {
        return bulkhead_container::init_main(arguments);
    }
    let shared = testing::scenarios().into_iter().map(|(name, scenario)| {
        trial(&format!("conformance::{name}"), move || {
            scenario(&Host::new())
        })
    });
    let isolation = isolation::SCENARIOS.iter().map(|(name, scenario)| {
        trial(
            &format!("isolation::{name}"),
            move || scenario(&Host::new()),
        )
    });
    let host = host::SCENARIOS
        .iter()
        .map(|(name, scenario)| trial(&format!("host::{name}"), move || scenario(&Host::new())));
    let trials = shared.chain(isolation).chain(host).collect();
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
