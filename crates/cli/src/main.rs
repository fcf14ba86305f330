//! The `bulkhead` command: Docker's and Compose's verbs, and the entry points of the programs
//! that run behind them.
//!
//! Invariant: a verb decides nothing about sandboxes. It reads arguments and files, asks the
//! daemon through its API, and shows the answer: data on stdout, everything else on stderr.

mod arguments;
mod attach;
mod build;
mod commands;
mod convert;
mod emulation;
mod entry;
mod failure;
mod flags;
mod logs;
mod names;
mod output;
mod paths;
mod progress;
mod project;
mod session;
mod table;
mod template;
mod terminal;
mod time;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = entry::dispatch() {
        return code;
    }
    let code = commands::main();
    // A thread may still be blocked in a read of stdin; nothing is left to wait for.
    std::process::exit(code.into())
}
