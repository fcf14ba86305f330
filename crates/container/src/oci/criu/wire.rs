//! Messages in the encoding of Protocol Buffers, as far as CRIU's need it: numbers, strings and
//! messages in messages (<https://protobuf.dev/programming-guides/encoding>).

use bulkhead_model::{Error, Result};

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

/// A message that is being written.
#[derive(Debug, Clone, Default)]
pub(in crate::oci) struct Message(Vec<u8>);

impl Message {
    pub(in crate::oci) fn number(&mut self, field: u32, value: u64) -> &mut Self {
        self.varint(u64::from(field) << 3 | VARINT);
        self.varint(value);
        self
    }

    pub(in crate::oci) fn flag(&mut self, field: u32, value: bool) -> &mut Self {
        self.number(field, value.into())
    }

    pub(in crate::oci) fn text(&mut self, field: u32, text: &str) -> &mut Self {
        self.varint(u64::from(field) << 3 | LENGTH);
        self.varint(text.len() as u64);
        self.0.extend(text.as_bytes());
        self
    }

    pub(in crate::oci) fn message(&mut self, field: u32, message: &Message) -> &mut Self {
        self.varint(u64::from(field) << 3 | LENGTH);
        self.varint(message.0.len() as u64);
        self.0.extend(&message.0);
        self
    }

    pub(in crate::oci) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::oci) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    /// A negative number is as long as ten bytes and comes out as such.
    pub(in crate::oci) fn number(self) -> i64 {
        match self {
            Value::Number(number) => number as i64,
            Value::Bytes(_) => 0,
        }
    }

    pub(in crate::oci) fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    pub(in crate::oci) fn bytes(&self) -> &[u8] {
        match self {
            Value::Number(_) => &[],
            Value::Bytes(bytes) => bytes,
        }
    }
}

/// The fields of a message in their order.
///
/// # Errors
/// It is cut off or no message.
pub(in crate::oci) fn fields(mut rest: &[u8]) -> Result<Vec<(u32, Value<'_>)>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        let field = u32::try_from(key >> 3).map_err(|_| malformed())?;
        match key & 7 {
            VARINT => fields.push((field, Value::Number(take_varint(&mut rest)?))),
            LENGTH => {
                let length = take_varint(&mut rest)?;
                fields.push((field, Value::Bytes(take(&mut rest, length)?)));
            }
            // None that is known here.
            FIXED_64 => drop(take(&mut rest, 8)?),
            FIXED_32 => drop(take(&mut rest, 4)?),
            _ => return Err(malformed()),
        }
    }
    Ok(fields)
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let length = usize::try_from(length).map_err(|_| malformed())?;
    let (taken, left) = rest.split_at_checked(length).ok_or_else(malformed)?;
    *rest = left;
    Ok(taken)
}

fn take_varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed())
}

fn malformed() -> Error {
    Error::host("criu sent a malformed message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_as_the_documentation_shows() {
        let mut inner = Message::default();
        inner.number(1, 150);
        assert_eq!(inner.bytes(), [0x08, 0x96, 0x01]);
        let mut outer = Message::default();
        outer.message(3, &inner).text(2, "testing");
        let expected = [
            0x1a, 0x03, 0x08, 0x96, 0x01, 0x12, 0x07, b't', b'e', b's', b't', b'i', b'n', b'g',
        ];
        assert_eq!(outer.bytes(), expected);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let mut message = Message::default();
        message.number(27, u64::MAX).flag(1, true).text(300, "é");
        let fields = fields(message.bytes()).expect("fields");
        assert_eq!(fields[0].1.number(), -1);
        assert_eq!(fields[1], (1, Value::Number(1)));
        assert_eq!((fields[2].0, fields[2].1.text().as_str()), (300, "é"));
    }

    #[test]
    fn malformed_messages_are_errors() {
        for bytes in [
            &[0x08][..],
            &[0x12, 5, 1],
            &[0x0b],
            &[0xff; 11],
            &[
                0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
        ] {
            fields(bytes).expect_err("malformed");
        }
        // Of a kind that is not known, and passed over.
        let fields = fields(&[0x0d, 1, 2, 3, 4, 0x08, 7]).expect("fields");
        assert_eq!(fields, [(1, Value::Number(7))]);
    }
}
