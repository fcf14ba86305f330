//! `start`: lets a created container's program run (runtime.md, "Start").

use std::io;
use std::os::unix::net::UnixStream;

use bulkhead_model::{Error, ErrorKind, Result};

use crate::channel::{Channel, Order};
use crate::failure::Context;
use crate::seccomp::OciProfile;
use crate::trace;

use super::arguments::{Arguments, Flag};
use super::config::Config;
use super::container::{Container, Status};
use super::{Global, hooks, listener};

pub(super) const FLAGS: &[Flag] = &[];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    start(&Container::load(&global.root, arguments.only_container()?)?)
}

/// # Errors
/// What the program's exec failed with; the container is stopped then.
pub(super) fn start(container: &Container) -> Result<()> {
    match container.status() {
        Status::Created => {}
        Status::Stopped => {
            return Err(Error::conflict("cannot start a container that has stopped"));
        }
        Status::Creating => {
            return Err(Error::conflict(
                "cannot start a container that is being created",
            ));
        }
        Status::Running | Status::Paused => {
            return Err(Error::conflict("cannot start an already running container"));
        }
    }
    let (directory, path) = container.socket()?;
    let stream = match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            container.remove_socket();
            return Err(Error::conflict("cannot start an already running container"));
        }
        result => result.host(|| "connect to the container's init".into())?,
    };
    drop(directory);
    let channel = Channel::from_descriptor(stream.into());
    let config: Config = container.config()?;
    by_channel(container, &channel, &config)?;
    container.remove_socket();
    let poststart = config.hooks.poststart;
    hooks::run(
        "poststart",
        &poststart,
        &container.state(Status::Running).to_json()?,
    )
}

/// Lets the init at the other end of the channel execute the program.
///
/// # Errors
/// As [`start`].
pub(super) fn by_channel(container: &Container, channel: &Channel, config: &Config) -> Result<()> {
    order(channel)?;
    await_execution(container, channel, config)
}

/// Gives the order alone.
pub(super) fn order(channel: &Channel) -> Result<()> {
    channel.send(&Order::Start, &[])
}

/// What [`by_channel`] does after the order.
pub(super) fn await_execution(
    container: &Container,
    channel: &Channel,
    config: &Config,
) -> Result<()> {
    let seccomp = config.linux.seccomp.as_ref();
    if channel.report()?.is_none() {
        return Err(Error::host(
            "the container's init died before it could start the program",
        ));
    }
    let executed = listener::await_program(
        channel,
        container.record.pid,
        seccomp.and_then(OciProfile::listener),
        &container.state(Status::Created),
    );
    trace::phase("program executed");
    executed.map_err(|error| {
        let args = config.process.as_ref().map(|process| &process.args);
        not_executed(
            error,
            args.and_then(|args| args.first())
                .map_or("", String::as_str),
        )
    })
}

/// A failure of exec(2) in the words that callers of runc look for.
pub(super) fn not_executed(error: Error, program: &str) -> Error {
    let reason = match error.kind() {
        ErrorKind::CommandNotFound => "no such file or directory".to_owned(),
        ErrorKind::CommandNotExecutable => {
            let text = error.to_string();
            let reason = text.rsplit_once(": ").map_or("", |(_, reason)| reason);
            let reason = reason.split(" (os error").next().unwrap_or_default();
            reason.to_ascii_lowercase()
        }
        _ => return error,
    };
    Error::new(error.kind(), format!("exec {program}: {reason}"))
}
