//! The values of Docker's flags, each read once into what the API takes.

pub mod environment;
pub mod limits;
pub mod mounts;
pub mod ports;
