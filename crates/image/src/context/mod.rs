//! Build contexts: what of a directory belongs to it, and its way from the command line to the
//! builder as an archive.

mod glob;
mod ignore;
mod pack;

pub(crate) use glob::matches_component;
pub use ignore::Ignore;
pub(crate) use pack::OUTSIDE;
pub use pack::{context_tar, unpack_context};
