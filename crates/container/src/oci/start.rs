//! `start`: lets a created container's program run.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use bulkhead_model::{Error, Result};

use crate::channel::{Channel, Order};
use crate::failure::Context;

use super::arguments::Arguments;
use super::container::{Container, Status};
use super::{Global, hooks};

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, &[])?;
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
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            container.remove_socket();
            return Err(Error::conflict("cannot start an already running container"));
        }
        result => result.host(|| "connect to the container's init".into())?,
    };
    drop(directory);
    let channel = Channel::from_descriptor(stream.into());
    channel.send(&Order::Start, &[])?;
    // End of file: the program has been executed.
    channel.report()?;
    container.remove_socket();
    let poststart = container.config()?.hooks.poststart;
    hooks::run(
        "poststart",
        &poststart,
        &container.state(Status::Running).to_json()?,
    )
}
