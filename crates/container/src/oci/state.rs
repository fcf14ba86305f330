//! `state`: the container's state (runtime.md, "State").

use bulkhead_model::{Error, Result};

use super::arguments::{Arguments, Flag};
use super::container::Container;
use super::{Global, print};

pub(super) const FLAGS: &[Flag] = &[];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let container = Container::load(&global.root, arguments.only_container()?)?;
    let state = container.state(container.status());
    let text = serde_json::to_string_pretty(&state)
        .map_err(|error| Error::host("write the state").with_source(error))?;
    print(&format!("{text}\n"))
}
