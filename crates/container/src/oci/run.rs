//! `run`: create and start, and unless detached stay until the end and delete.

use bulkhead_model::Result;

use crate::trace;

use super::arguments::{Arguments, Flag, flag, option};
use super::create::{self, Created, Options, Starter};
use super::{Global, delete, foreground, start};

pub(super) const FLAGS: &[Flag] = &[
    option("bundle", Some('b')),
    option("console-socket", None),
    option("pid-file", None),
    flag("no-pivot", None),
    flag("no-new-keyring", None),
    option("preserve-fds", None),
    option("pidfd-socket", None),
    flag("detach", Some('d')),
    flag("keep", None),
    flag("no-subreaper", None),
];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<u8> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let detached = arguments.is_set("detach");
    let options = Options::new(&arguments)?;
    let id = arguments.only_container()?;
    let created = create::create(global, id, options, detached, Starter::Caller)?;
    let Created {
        container, config, ..
    } = created;
    // They are held already where the order has been given.
    if !detached && !created.ordered {
        foreground::hold_signals();
    }
    let started = match created.channel {
        Some(channel) if created.ordered => start::await_execution(&container, &channel, &config),
        Some(channel) => start::by_channel(&container, &channel, &config),
        None => start::start(&container),
    };
    if let Err(error) = started {
        // The first failure is the one to tell about.
        let _ = delete::destroy_own(&global.root, &container);
        return Err(error);
    }
    if detached {
        return Ok(0);
    }
    let code = foreground::wait(container.record.pid, created.terminal);
    trace::phase("program ended");
    if !arguments.is_set("keep") {
        delete::destroy_own(&global.root, &container)?;
    }
    code
}
