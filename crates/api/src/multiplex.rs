//! Docker's framing of stdout and stderr on one connection, for processes without a terminal:
//! each frame has a header of one byte for the stream, three zero bytes and the payload's length
//! as a big-endian 32-bit number (Docker Engine API, `ContainerAttach`, "Stream format").

use bytes::{Buf, Bytes, BytesMut};

const HEADER_LENGTH: usize = 8;

/// Which of a process's standard streams a piece of output belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stream {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
}

/// A piece of a stream. A frame longer than what has arrived so far comes in several pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub stream: Stream,
    pub data: Bytes,
}

/// A header that the format does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {0} begins a frame of the output, but no stream has this number")]
pub struct UnknownStream(pub u8);

/// The header of a frame with a payload of `length` bytes.
pub fn header(stream: Stream, length: u32) -> [u8; HEADER_LENGTH] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// A whole frame.
pub fn frame(stream: Stream, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_LENGTH + payload.len());
    frame.extend_from_slice(&header(stream, payload.len() as u32));
    frame.extend_from_slice(payload);
    frame.freeze()
}

/// Takes the frames apart. It holds at most what was pushed last and one header, whatever length
/// a header claims.
#[derive(Debug, Default)]
pub struct Decoder {
    received: BytesMut,
    /// The stream and the rest of the frame that is being passed on.
    current: Option<(Stream, usize)>,
}

impl Decoder {
    pub fn push(&mut self, data: &[u8]) {
        self.received.extend_from_slice(data);
    }

    /// The next piece of output; `None` until more is pushed.
    ///
    /// # Errors
    /// The decoder is of no use afterwards: where the next frame begins is not known.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, UnknownStream> {
        loop {
            match self.current {
                Some((_, 0)) => self.current = None,
                Some((stream, rest)) => {
                    let length = rest.min(self.received.len());
                    if length == 0 {
                        return Ok(None);
                    }
                    self.current = Some((stream, rest - length));
                    let data = self.received.split_to(length).freeze();
                    return Ok(Some(Chunk { stream, data }));
                }
                None => {
                    if self.received.len() < HEADER_LENGTH {
                        return Ok(None);
                    }
                    let stream = match self.received[0] {
                        0 => Stream::Stdin,
                        1 => Stream::Stdout,
                        2 => Stream::Stderr,
                        other => return Err(UnknownStream(other)),
                    };
                    self.received.advance(4);
                    let length = self.received.get_u32() as usize;
                    self.current = Some((stream, length));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<(Stream, String)> {
        let mut decoder = Decoder::default();
        let mut output: Vec<(Stream, String)> = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(chunk) = decoder.next_chunk().expect("valid frames") {
                let text = String::from_utf8(chunk.data.to_vec()).expect("text");
                match output.last_mut() {
                    Some((stream, before)) if *stream == chunk.stream => before.push_str(&text),
                    _ => output.push((chunk.stream, text)),
                }
            }
        }
        output
    }

    #[test]
    fn frames_come_apart_wherever_they_are_cut() {
        let mut wire = frame(Stream::Stdout, b"hello ").to_vec();
        wire.extend(frame(Stream::Stdout, b""));
        wire.extend(frame(Stream::Stderr, b"trouble"));
        wire.extend(frame(Stream::Stdout, b"world"));
        let expected = vec![
            (Stream::Stdout, "hello ".to_owned()),
            (Stream::Stderr, "trouble".to_owned()),
            (Stream::Stdout, "world".to_owned()),
        ];
        for cut in 0..=wire.len() {
            assert_eq!(decode(&[&wire[..cut], &wire[cut..]]), expected, "{cut}");
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(decode(&bytes), expected);
    }

    #[test]
    fn a_long_frame_is_passed_on_as_it_arrives() {
        let mut decoder = Decoder::default();
        decoder.push(&header(Stream::Stdout, u32::MAX));
        assert_eq!(decoder.next_chunk(), Ok(None));
        decoder.push(b"start");
        let chunk = decoder.next_chunk().expect("valid").expect("chunk");
        assert_eq!(chunk.data, "start");
        assert_eq!(decoder.next_chunk(), Ok(None));
    }

    #[test]
    fn an_unknown_stream_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.push(b"HTTP/1.1 500");
        assert_eq!(decoder.next_chunk(), Err(UnknownStream(b'H')));
    }
}
