//! `pause`, a verb of runc's: stops all processes of a container.

use bulkhead_model::{Error, Result};

use super::Global;
use super::arguments::{Arguments, Flag};
use super::container::{Container, Status};

pub(super) const FLAGS: &[Flag] = &[];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let container = Container::load(&global.root, arguments.only_container()?)?;
    match container.status() {
        Status::Running | Status::Created => {}
        status => {
            return Err(Error::conflict(format!(
                "container not running or created: {}",
                status.name()
            )));
        }
    }
    let group = container.cgroup();
    group.freeze().inspect_err(|_| {
        // Half of it may stand still.
        let _ = group.thaw();
    })
}
