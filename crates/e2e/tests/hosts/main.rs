//! The hosts that start containers through an OCI runtime, each for real with `bulkhead oci` in
//! place of runc: Debian's containerd, Docker and Podman.
//!
//! Each test has daemons and directories of its own, and looks at the host when it is done.

mod containerd;
mod docker;
mod docker_life;
mod docker_network;
mod podman;
mod support;
