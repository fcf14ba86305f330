//! Tar archives: reading foreign ones safely, writing our own deterministically.

mod decompress;
mod header;
mod pack;
mod unpack;

pub(crate) use decompress::decompress;
pub(crate) use header::{EntryHeader, TarWriter};
pub(crate) use pack::{is_opaque, pack_layer};
pub use unpack::Limits;
pub(crate) use unpack::{Unpack, unpack};
