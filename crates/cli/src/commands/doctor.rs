use clap::Args;
use serde::Serialize;

use super::Format;
use crate::entry;
use crate::failure::{Failure, Result};
use crate::output::{self, Color, Look, paint};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Doctor {
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What the host offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub checks: Vec<Check>,
    /// What Bulkhead will therefore use, one sentence each.
    pub uses: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub status: CheckStatus,
    pub detail: String,
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    Ok,
    /// Something works less well.
    Warning,
    /// Something that is required is not there.
    Missing,
}

pub fn run(session: &Session, arguments: Doctor) -> Result<u8> {
    let report = entry::examine(&session.paths)?;
    match arguments.format {
        Format::Json => output::line(
            serde_json::to_string_pretty(&report)
                .map_err(|error| Failure::new(format!("write as JSON: {error}")))?,
        )?,
        Format::Table => output::line(render(&report, Look::of_stdout()).trim_end())?,
    }
    let missing = |check: &Check| check.status == CheckStatus::Missing;
    Ok(u8::from(report.checks.iter().any(missing)))
}

fn render(report: &Report, look: Look) -> String {
    let names = report.checks.iter().map(|check| check.name.chars().count());
    let width = names.max().unwrap_or(0);
    let mut text = String::new();
    for check in &report.checks {
        let (word, color) = match check.status {
            CheckStatus::Ok => ("ok     ", Color::Green),
            CheckStatus::Warning => ("warning", Color::Yellow),
            CheckStatus::Missing => ("missing", Color::Red),
        };
        let name = &check.name;
        let line = format!(
            "{}  {name:width$}  {}",
            paint(word, color, look),
            check.detail
        );
        text.push_str(line.trim_end());
        text.push('\n');
        if let Some(remedy) = &check.remedy {
            for line in remedy.lines() {
                text.push_str(&format!("{:9}{:width$}  → {line}\n", "", ""));
            }
        }
    }
    if !report.uses.is_empty() {
        text.push_str("\nBulkhead will use:\n");
        for sentence in &report.uses {
            text.push_str(&format!("  {sentence}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_its_remedy_below() {
        let check = |name: &str, status, remedy: Option<&str>| Check {
            name: name.into(),
            status,
            detail: "detail".into(),
            remedy: remedy.map(str::to_owned),
        };
        let report = Report {
            checks: vec![
                check("overlay", CheckStatus::Ok, None),
                check(
                    "QEMU",
                    CheckStatus::Missing,
                    Some("apt-get install qemu-system-x86"),
                ),
            ],
            uses: vec!["containers only".into()],
        };
        let look = Look {
            terminal: false,
            color: false,
        };
        assert_eq!(
            render(&report, look),
            "ok       overlay  detail\n\
             missing  QEMU     detail\n         \
             \x20        → apt-get install qemu-system-x86\n\
             \nBulkhead will use:\n  containers only\n"
        );
    }
}
