//! `ps`, a verb of runc's: the processes of a container, out of the host's ps(1) or as numbers.

use std::process::Command;

use bulkhead_model::{Error, Result};

use crate::failure::Context;

use super::arguments::{Arguments, Flag, option};
use super::container::Container;
use super::{Global, print};

pub(super) const FLAGS: &[Flag] = &[option("format", Some('f'))];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse_leading(arguments, FLAGS)?;
    let (id, rest) = arguments.container()?;
    let pids = Container::load(&global.root, id)?.cgroup().processes();
    match arguments.value("format").unwrap_or("table") {
        "json" => {
            let text = serde_json::Value::from(pids).to_string();
            print(&format!("{text}\n"))
        }
        "table" => print(&table(&pids, rest)?),
        other => Err(Error::invalid(format!(
            "invalid format option '{other}': use table or json"
        ))),
    }
}

/// The lines of ps(1) whose column PID is one of the container's.
fn table(pids: &[i32], arguments: &[String]) -> Result<String> {
    let default = ["-ef".to_owned()];
    let arguments = if arguments.is_empty() {
        &default
    } else {
        arguments
    };
    let output = Command::new("ps")
        .args(arguments)
        .output()
        .host(|| "run ps: install Debian's package procps, or use --format json".into())?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(Error::invalid(format!(
            "ps: {}: {}",
            output.status,
            reason.trim()
        )));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Error::invalid("couldn't find PID field in ps output: ask for it"))?;
    let mut table = format!("{header}\n");
    for line in lines {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|field| field.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            table += line;
            table.push('\n');
        }
    }
    Ok(table)
}
