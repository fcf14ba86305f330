//! Between Docker's words and the engine's.

pub(crate) mod create;
pub(crate) mod inspect;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod project;
pub(crate) mod signal;
pub(crate) mod status;
