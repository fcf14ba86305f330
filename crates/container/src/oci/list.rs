//! `list`, a verb of runc's: the containers below the root, as a table, as JSON, or as identifiers alone.

use bulkhead_model::{Error, Result};

use crate::log;

use super::arguments::{Arguments, Flag, flag, option};
use super::container::{self, Container, Status};
use super::{Global, print};

pub(super) const FLAGS: &[Flag] = &[option("format", Some('f')), flag("quiet", Some('q'))];

const COLUMNS: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let mut containers = Vec::new();
    if global.root_given && !global.root.is_dir() {
        return Err(Error::not_found(format!(
            "--root: {} is no directory",
            global.root.display()
        )));
    }
    for id in container::identifiers(&global.root)? {
        match Container::load(&global.root, &id) {
            Ok(container) => containers.push(container),
            // Deleted since its name was read.
            Err(error) if error.kind() == bulkhead_model::ErrorKind::NotFound => {}
            // One that cannot be read must not hide the others.
            Err(error) => log::warn(|| error.to_string()),
        }
    }
    if arguments.is_set("quiet") {
        let lines: String = containers
            .iter()
            .map(|container| format!("{}\n", container.record.id))
            .collect();
        return print(&lines);
    }
    match arguments.value("format").unwrap_or("table") {
        "table" => print(&table(&containers)),
        "json" => {
            let states: Vec<_> = containers
                .iter()
                .map(|container| {
                    let mut state = container.state(container.status());
                    state.owner = "root";
                    state
                })
                .collect();
            // As Go writes an empty list.
            let listed = Some(states).filter(|states| !states.is_empty());
            let text = serde_json::to_string(&listed)
                .map_err(|error| Error::host("write the list").with_source(error))?;
            print(&format!("{text}\n"))
        }
        other => Err(Error::invalid(format!(
            "invalid format option '{other}': use table or json"
        ))),
    }
}

fn table(containers: &[Container]) -> String {
    let mut rows: Vec<[String; 6]> = vec![COLUMNS.map(String::from)];
    for container in containers {
        let (record, status) = (&container.record, container.status());
        let pid = if status == Status::Stopped {
            0
        } else {
            record.pid
        };
        rows.push([
            record.id.clone(),
            pid.to_string(),
            status.name().into(),
            record.bundle.display().to_string(),
            record.created.clone(),
            "root".into(),
        ]);
    }
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        (longest + 3).max(12)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            text += &format!("{cell:<width$}");
        }
        text += &row[5];
        text.push('\n');
    }
    text
}
