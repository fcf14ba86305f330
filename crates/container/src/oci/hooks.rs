//! Runs hooks (config.md, "POSIX-platform Hooks").

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_model::{Error, Result};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::failure::Context;

use super::config::Hook;

/// Runs hooks one after another, each with the container's state at its stdin; the first that
/// fails ends it. Legal in a process with one thread or many.
pub(super) fn run(name: &str, hooks: &[Hook], state: &str) -> Result<()> {
    run_in(name, hooks, state, None)
}

/// As [`run`]; a hook that names no variables has those of `environment`, or the runtime's own.
pub(super) fn run_in(
    name: &str,
    hooks: &[Hook],
    state: &str,
    environment: Option<&[String]>,
) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, state, environment).map_err(|error| {
            Error::host(format!("error running {name} hook #{index}: {}", hook.path))
                .with_source(error)
        })?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str, environment: Option<&[String]>) -> Result<()> {
    let doing = || "run it".to_owned();
    let output = memfd_create("hook", MemfdFlags::CLOEXEC).host(doing)?;
    let mut output = File::from(output);
    let copy = || output.try_clone().host(doing);
    let mut command = Command::new(&hook.path);
    if let Some((first, rest)) = hook.args.split_first() {
        command.arg0(first).args(rest);
    }
    let named = Some(hook.env.as_slice()).filter(|entries| !entries.is_empty());
    if let Some(entries) = named.or(environment) {
        let variables = entries.iter().filter_map(|entry| entry.split_once('='));
        command.env_clear().envs(variables);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(copy()?)
        .stderr(copy()?)
        .spawn()
        .host(doing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read it.
        let _ = stdin.write_all(state.as_bytes());
    }
    let deadline = hook
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let status = loop {
        let Some(deadline) = deadline else {
            break child.wait().host(doing)?;
        };
        if let Some(status) = child.try_wait().host(doing)? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::host(format!(
                "it ran longer than its timeout of {} s",
                hook.timeout.unwrap_or_default()
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    let _ = output.rewind();
    let _ = output.take(4096).read_to_string(&mut text);
    let status = match status.signal() {
        // In runc's words.
        Some(libc::SIGSYS) => "signal: bad system call (SIGSYS)".to_owned(),
        _ => status.to_string(),
    };
    Err(Error::host(format!("{status}, output: {}", text.trim())))
}
