//! Images: a store of their content on disk, and the builder that makes them from Dockerfiles.
//!
//! Invariant: an image that the store shows is whole. Every change is prepared in a temporary
//! directory, synced, and made visible by one rename, so a process killed at any instant leaves
//! the old state or the new one. Nothing in an archive, an image or a build context can lead
//! outside the directory it is unpacked into: paths are resolved by the kernel
//! (`openat2(RESOLVE_IN_ROOT)`), never by string work.
//!
//! Deliberately absent: running processes (the builder asks a [`build::StepRunner`]), networks,
//! and Docker's API.

mod archive;
pub mod build;
pub mod config;
pub mod context;
mod digest;
pub mod dockerfile;
mod failure;
mod merged;
mod reference;
mod rooted;
pub mod store;
mod tree;

pub use digest::{Digest, ImageId};
pub use reference::Reference;
pub use store::{DiskUsage, Image, ImageStore, InUse, Limits, Removed};
