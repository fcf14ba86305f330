use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::Result;
use crate::output;

#[derive(Debug, Args)]
pub struct Completion {
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(arguments: Completion) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Arguments::command(),
        "bulkhead",
        &mut script,
    );
    output::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}
