//! What the targets compare with: an interpreter of filter programs, and an evaluation of the
//! rules of a profile that is as plain as the documentation.

pub mod profile;
pub mod program;
