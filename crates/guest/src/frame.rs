//! Cuts a stream of bytes into frames: four bytes of length (little-endian), then the message.

use crate::codec::{Malformed, Wire};
use crate::message::Message;

/// The most bytes of a stream that one frame carries.
pub const MAX_DATA: usize = 32 << 10;

/// The longest frame that the host takes from a guest. Guests send nothing long but data.
pub const MAX_FROM_GUEST: usize = 64 << 10;

/// The longest frame that the guest takes from the host: a configuration with a large environment.
pub const MAX_FROM_HOST: usize = 8 << 20;

/// Puts bytes together until they are a frame.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    consumed: usize,
    max_length: usize,
}

impl Decoder {
    pub fn new(max_length: usize) -> Self {
        Self {
            buffer: Vec::new(),
            consumed: 0,
            max_length,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, `None` until more bytes have come.
    ///
    /// # Errors
    /// If the frame is longer than allowed or its content means nothing. The decoder is of no
    /// further use then.
    pub fn take_message(&mut self) -> Result<Option<Message>, Malformed> {
        let waiting = &self.buffer[self.consumed..];
        let Some((header, rest)) = waiting.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > self.max_length {
            return Err(Malformed("it is longer than allowed"));
        }
        let Some(mut frame) = rest.get(..length) else {
            return Ok(None);
        };
        let message = Message::decode(&mut frame)?;
        if !frame.is_empty() {
            return Err(Malformed("bytes follow its message"));
        }
        self.consumed += 4 + length;
        Ok(Some(message))
    }
}

/// Appends the message to `bytes` as a frame.
pub fn encode(message: &Message, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    message.encode(bytes);
    let length = (bytes.len() - start - 4) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
}
