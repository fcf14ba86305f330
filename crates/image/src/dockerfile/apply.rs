//! What instructions do to the configuration of an image.

use bulkhead_model::{Error, Result};

use super::instruction::{Command, CommandLine, Health, Instruction, Word};
use super::parser::parse_on_build;
use super::{Diagnostic, Place, expand};
use crate::config::{ContainerConfig, Empty, Healthcheck, nanoseconds};

/// What a shell-form command runs under unless SHELL says otherwise.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Carries out an instruction that changes the configuration alone. Gives false for those that
/// make a layer, and for FROM, ARG and ONBUILD's triggers, which are the builder's business.
///
/// `variables` are seen by the instruction; `escape` is the file's.
///
/// # Errors
/// The place of the word that is wrong, and why.
pub(crate) fn apply(
    config: &mut ContainerConfig,
    command: &Command,
    escape: char,
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<bool, (Place, String)> {
    let value = |word: &Word| {
        expand(&word.text, escape, variables).map_err(|message| (word.place, message))
    };
    match command {
        Command::Env(pairs) => {
            // All values see the variables as they were before the instruction.
            let mut set = Vec::new();
            for (name, word) in pairs {
                set.push((value(name)?, value(word)?));
            }
            for (name, value) in set {
                set_variable(&mut config.env, &name, &value);
            }
        }
        Command::Label(pairs) => {
            for (name, word) in pairs {
                config.labels.insert(value(name)?, value(word)?);
            }
        }
        Command::Workdir(word) => {
            let path = value(word)?;
            config.working_dir = join(&config.working_dir, &path);
        }
        Command::User(word) => config.user = value(word)?,
        Command::StopSignal(word) => {
            let signal = value(word)?;
            if !is_signal(&signal) {
                return Err((word.place, format!("'{signal}' is no signal")));
            }
            config.stop_signal = Some(signal);
        }
        Command::Expose(words) => {
            for word in words {
                for port in value(word)?.split_whitespace() {
                    let ports = ports(port).ok_or_else(|| {
                        (
                            word.place,
                            format!("'{port}' is no port: write it as 80, 80/udp or 8000-8010"),
                        )
                    })?;
                    config
                        .exposed_ports
                        .extend(ports.map(|port| (port, Empty {})));
                }
            }
        }
        Command::Volume(words) => {
            for word in words {
                let path = value(word)?;
                if path.is_empty() {
                    return Err((word.place, "VOLUME needs a path".to_owned()));
                }
                config.volumes.insert(path, Empty {});
            }
        }
        Command::Cmd(line) => config.cmd = Some(with_shell(config, line)),
        Command::Entrypoint(line) => {
            config.entrypoint = Some(with_shell(config, line));
        }
        Command::Shell(arguments) => config.shell = Some(arguments.clone()),
        Command::Healthcheck(health) => {
            config.healthcheck = Some(healthcheck(config, health));
        }
        Command::OnBuild(text) => config.on_build.push(text.clone()),
        Command::Maintainer(_) => {}
        Command::From { .. } | Command::Run(_) | Command::Copy(_) | Command::Arg(_) => {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Applies `--change` instructions to a configuration.
///
/// # Errors
/// `InvalidInput` with the place in the change.
pub(crate) fn apply_changes(config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    for change in changes {
        for Instruction {
            command,
            place,
            text,
        } in parse_on_build("--change", change)?
        {
            let variables = config.env.clone();
            let lookup = |name: &str| variable(&variables, name);
            let problem = match apply(config, &command, '\\', &lookup) {
                Ok(true) => continue,
                Ok(false) => (
                    place,
                    "only instructions that change the configuration are allowed here".to_owned(),
                ),
                Err(problem) => problem,
            };
            return Err(Error::from(Diagnostic {
                file: "--change".to_owned(),
                place: problem.0,
                source_line: text,
                message: problem.1,
                help: "use CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR, …"
                    .to_owned(),
            }));
        }
    }
    Ok(())
}

/// The arguments that run a command line.
pub(crate) fn with_shell(config: &ContainerConfig, line: &CommandLine) -> Vec<String> {
    match line {
        CommandLine::Exec(arguments) => arguments.clone(),
        CommandLine::Shell(text) => {
            let mut arguments = shell(config);
            arguments.push(text.clone());
            arguments
        }
    }
}

pub(crate) fn shell(config: &ContainerConfig) -> Vec<String> {
    config
        .shell
        .clone()
        .unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).to_vec())
}

/// The value of a variable in a list of `NAME=value`.
pub(crate) fn variable(env: &[String], name: &str) -> Option<String> {
    env.iter().find_map(|entry| {
        let (other, value) = entry.split_once('=')?;
        (other == name).then(|| value.to_owned())
    })
}

pub(crate) fn set_variable(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match env
        .iter_mut()
        .find(|entry| entry.split('=').next() == Some(name))
    {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

/// A path as WORKDIR and COPY understand it: relative to the working directory, made clean.
pub(crate) fn join(working_directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') {
        ""
    } else {
        working_directory
    };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn healthcheck(config: &ContainerConfig, health: &Health) -> Healthcheck {
    match health {
        Health::None => Healthcheck {
            test: vec!["NONE".to_owned()],
            ..Healthcheck::default()
        },
        Health::Check {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        } => {
            let nanoseconds =
                |duration: &Option<std::time::Duration>| duration.map_or(0, nanoseconds);
            let mut test = Vec::new();
            match command {
                CommandLine::Exec(arguments) => {
                    test.push("CMD".to_owned());
                    test.extend(arguments.iter().cloned());
                }
                // CMD-SHELL runs /bin/sh; another SHELL is named in full.
                CommandLine::Shell(text) if config.shell.is_none() => {
                    test.extend(["CMD-SHELL".to_owned(), text.clone()]);
                }
                CommandLine::Shell(_) => {
                    test.push("CMD".to_owned());
                    test.extend(with_shell(config, command));
                }
            }
            Healthcheck {
                test,
                interval: nanoseconds(interval),
                timeout: nanoseconds(timeout),
                start_period: nanoseconds(start_period),
                start_interval: nanoseconds(start_interval),
                retries: retries.map_or(0, i64::from),
            }
        }
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(text: &str) -> Option<impl Iterator<Item = String>> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last)
        .then(|| (first..=last).map(move |port| format!("{port}/{protocol}")))
}

fn is_signal(text: &str) -> bool {
    const NAMES: &str = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM \
        STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS RTMIN RTMAX";
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let base = name.split(['+', '-']).next().unwrap_or_default();
    NAMES.split_whitespace().any(|known| known == base)
}
