//! One file per group of the Docker Engine API's endpoints, one function per endpoint.

pub(crate) mod attach;
pub(crate) mod build;
pub(crate) mod containers;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod limits;
pub(crate) mod logs;
pub(crate) mod networks;
pub(crate) mod projects;
pub(crate) mod query;
pub(crate) mod sandboxes;
pub(crate) mod stream;
pub(crate) mod system;
pub(crate) mod volumes;
