//! The protocol between a micro VM's guest agent and its supervisor.
//!
//! Both sides use this one implementation: [`codec`] writes values as bytes, [`frame`] cuts the
//! channel's bytes into frames, [`message`] says what a frame means, and [`channel`] joins control
//! messages and flow-controlled streams over one descriptor.
//!
//! Invariant: no input from the other side can panic, allocate without bound or block a stream
//! other than its own. A peer that breaks the protocol ends its own channel with an error.

pub mod channel;
pub mod codec;
pub mod frame;
pub mod message;

pub use channel::{Channel, Event};
pub use message::{Configuration, GuestMount, GuestMountSource, Message, Reply, Request, Stream};

/// Both sides send it in their hello; a difference ends the channel, because the agent is part of
/// the same binary as the host's side and a mismatch is a mistake in the build.
pub const VERSION: u32 = 2;

/// The process number of the workload; those of exec are counted up from here.
pub const WORKLOAD: u32 = 1;

/// The name of the virtio-console port that carries the channel.
pub const PORT_NAME: &str = "bulkhead.agent";

/// How many places for devices a guest has.
pub const PLACES: usize = 8;

/// The first places are those of the devices that every guest has: the channel and random numbers.
pub const OWN_PLACES: usize = 2;

/// The serial number of the disk that holds the read-only image.
pub const IMAGE_SERIAL: &str = "image";

/// The serial number of the disk that holds the sandbox's changes.
pub const DISK_SERIAL: &str = "disk";
