//! Builds images from Dockerfiles.

mod cache;

pub(crate) use cache::BuildCache;
