//! The daemon from outside: killed at any instant, asked nonsense, looked at by a stock client.
//!
//! Each test has an instance of its own with an image made of busybox, and looks at the host when
//! it is done.

mod api;
mod disk;
mod hostile;
mod killed;
mod lifecycle;
mod projects;
mod support;
