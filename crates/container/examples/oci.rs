//! `bulkhead oci` as a program of its own, for conformance suites and for work on the runtime:
//! it builds in seconds, as nothing but the runtime is in it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments
        .peek()
        .is_some_and(|name| name == "container-init")
    {
        return bulkhead_container::init_main(arguments.skip(1));
    }
    bulkhead_container::oci_main(arguments)
}
