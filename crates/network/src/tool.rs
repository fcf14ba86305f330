//! Runs the few programs of the host that do what no system call does in one step.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// Where such programs are on a host whose `PATH` is that of a user who is not root.
const DIRECTORIES: [&str; 3] = ["", "/usr/sbin/", "/sbin/"];

/// Runs `program` with `script` as its standard input.
///
/// # Errors
/// `NotFound` if the host does not have it.
pub fn run(program: &str, arguments: &[&str], script: &str) -> io::Result<Output> {
    let mut missing = io::Error::from(io::ErrorKind::NotFound);
    for directory in DIRECTORIES {
        let spawned = Command::new(format!("{directory}{program}"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing = error;
                continue;
            }
            Err(error) => return Err(error),
        };
        // A program that ends early closes the pipe: its output says why, our write error does not.
        let written = match child.stdin.take() {
            Some(mut stdin) => stdin.write_all(script.as_bytes()),
            None => Ok(()),
        };
        let output = child.wait_with_output()?;
        if output.status.success() {
            written?;
        }
        return Ok(output);
    }
    Err(missing)
}

/// The first line of what a program complained about.
pub fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().next().unwrap_or("no message").to_owned()
}
