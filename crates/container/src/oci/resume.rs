//! `resume`, a verb of runc's: lets the processes of a paused container go on.

use bulkhead_model::{Error, Result};

use super::Global;
use super::arguments::{Arguments, Flag};
use super::container::Container;

pub(super) const FLAGS: &[Flag] = &[];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let container = Container::load(&global.root, arguments.only_container()?)?;
    let group = container.cgroup();
    // A created container's status does not tell that it is frozen.
    if !group.is_frozen() {
        return Err(Error::conflict("container not paused"));
    }
    group.thaw()
}
