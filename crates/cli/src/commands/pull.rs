use clap::Args;

use crate::failure::{Failure, Result};

#[derive(Debug, Args)]
pub struct Pull {
    /// Images, or services of the project
    names: Vec<String>,
}

pub fn run(arguments: Pull) -> Result<u8> {
    let what = match arguments.names.as_slice() {
        [] => "images".to_owned(),
        names => names.join(", "),
    };
    Err(Failure::new(format!(
        "cannot pull {what}: this version talks to no registry yet; \
         build the image with 'bulkhead build', or bring it in with 'bulkhead import'"
    )))
}
