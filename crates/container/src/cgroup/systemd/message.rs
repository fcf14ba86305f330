//! The messages of D-Bus as far as systemd's manager needs them (D-Bus specification, "Message
//! Protocol"), little-endian.

use bulkhead_model::{Error, Result};

/// A value of a property.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Byte(u8),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    Path(String),
    Bytes(Vec<u8>),
    Numbers(Vec<u32>),
    Texts(Vec<String>),
    Pairs(Vec<(String, String)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Value::Bool(_) => "b",
            Value::Byte(_) => "y",
            Value::Int16(_) => "n",
            Value::Uint16(_) => "q",
            Value::Int32(_) => "i",
            Value::Uint32(_) => "u",
            Value::Int64(_) => "x",
            Value::Uint64(_) => "t",
            Value::Double(_) => "d",
            Value::Text(_) => "s",
            Value::Path(_) => "o",
            Value::Bytes(_) => "ay",
            Value::Numbers(_) => "au",
            Value::Texts(_) => "as",
            Value::Pairs(_) => "a(ss)",
        }
    }
}

/// A property of a unit.
pub(super) type Property = (String, Value);

/// Bytes in the making, each value at a multiple of its size.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, size: usize) {
        self.0.resize(self.0.len().next_multiple_of(size), 0);
    }

    fn fixed<const SIZE: usize>(&mut self, bytes: [u8; SIZE]) {
        self.align(SIZE);
        self.0.extend(bytes);
    }

    pub(super) fn number(&mut self, number: u32) {
        self.fixed(number.to_le_bytes());
    }

    pub(super) fn boolean(&mut self, value: bool) {
        self.number(value.into());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array: its length in bytes, padding, and the elements.
    pub(super) fn array(&mut self, element_size: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let length_at = self.0.len() - 4;
        self.align(element_size);
        let start = self.0.len();
        elements(self);
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.boolean(*value),
            Value::Byte(value) => self.0.push(*value),
            Value::Int16(value) => self.fixed(value.to_le_bytes()),
            Value::Uint16(value) => self.fixed(value.to_le_bytes()),
            Value::Int32(value) => self.fixed(value.to_le_bytes()),
            Value::Uint32(value) => self.number(*value),
            Value::Int64(value) => self.fixed(value.to_le_bytes()),
            Value::Uint64(value) => self.fixed(value.to_le_bytes()),
            Value::Double(value) => self.fixed(value.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => self.text(text),
            Value::Bytes(bytes) => self.array(1, |writer| writer.0.extend(bytes)),
            Value::Numbers(numbers) => self.array(4, |writer| {
                for number in numbers {
                    writer.number(*number);
                }
            }),
            Value::Texts(texts) => self.array(4, |writer| {
                for text in texts {
                    writer.text(text);
                }
            }),
            Value::Pairs(pairs) => self.array(8, |writer| {
                for (first, second) in pairs {
                    writer.align(8);
                    writer.text(first);
                    writer.text(second);
                }
            }),
        }
    }

    /// `a(sv)`.
    pub(super) fn properties(&mut self, properties: &[Property]) {
        self.array(8, |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.text(name);
                writer.variant(value);
            }
        });
    }
}

/// A method call with its body.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) signature: &'a str,
    pub(super) body: Writer,
}

impl Call<'_> {
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        const METHOD_CALL: u8 = 1;
        let mut message = Writer(vec![b'l', METHOD_CALL, 0, 1]);
        message.number(self.body.0.len() as u32);
        message.number(serial);
        message.array(8, |fields| {
            let mut field = |code: u8, value: &dyn Fn(&mut Writer)| {
                fields.align(8);
                fields.0.push(code);
                value(fields);
            };
            field(1, &|to| to.variant(&Value::Path(self.path.into())));
            field(2, &|to| to.variant(&Value::Text(self.interface.into())));
            field(3, &|to| to.variant(&Value::Text(self.member.into())));
            field(6, &|to| to.variant(&Value::Text(self.destination.into())));
            if !self.signature.is_empty() {
                field(8, &|to| {
                    to.signature("g");
                    to.signature(self.signature);
                });
            }
        });
        message.align(8);
        message.0.extend(&self.body.0);
        message.0
    }
}

/// A message that came in.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) member: String,
    pub(super) error: String,
    /// The call that is answered.
    pub(super) reply_to: u32,
    pub(super) body: Vec<u8>,
}

/// How long a message is, by its first 16 bytes: the header with its fields, and the body.
///
/// # Errors
/// `Channel` if it is none, or of the other byte order, or of a size that no manager sends.
pub(super) fn lengths(start: &[u8; 16]) -> Result<(usize, usize)> {
    let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|index| start[at + index]));
    let (body, fields) = (number(4) as usize, number(12) as usize);
    if start[0] != b'l' || body > 1 << 24 || fields > 1 << 16 {
        return Err(Error::channel("systemd sent a message that is none"));
    }
    Ok(((16 + fields).next_multiple_of(8), body))
}

impl Message {
    pub(super) fn decode(header: &[u8], body: Vec<u8>) -> Result<Self> {
        let mut message = Self {
            kind: header[1],
            body,
            ..Self::default()
        };
        let mut fields = Reader::at(header, 12);
        let end = 16 + fields.number()? as usize;
        while fields.position < end {
            fields.align(8);
            let code = fields.byte()?;
            match fields.signature()?.as_str() {
                "s" | "o" => {
                    let text = fields.text()?;
                    match code {
                        3 => message.member = text,
                        4 => message.error = text,
                        _ => {}
                    }
                }
                "u" => {
                    let number = fields.number()?;
                    if code == 5 {
                        message.reply_to = number;
                    }
                }
                "g" => {
                    fields.signature()?;
                }
                _ => return Err(malformed()),
            }
        }
        Ok(message)
    }
}

/// Reads values in their order.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self::at(bytes, 0)
    }

    fn at(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    fn align(&mut self, size: usize) {
        self.position = self.position.next_multiple_of(size);
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.position.checked_add(length).ok_or_else(malformed)?;
        let taken = self.bytes.get(self.position..end).ok_or_else(malformed)?;
        self.position = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A string or an object's path.
    pub(super) fn text(&mut self) -> Result<String> {
        let length = self.number()? as usize;
        let bytes = self.take(length)?;
        self.byte()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| malformed())
    }

    pub(super) fn signature(&mut self) -> Result<String> {
        let length = self.byte()?.into();
        let bytes = self.take(length)?;
        self.byte()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| malformed())
    }
}

fn malformed() -> Error {
    Error::channel("systemd sent a message that cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let mut body = Writer::default();
        body.text("unit.scope");
        body.properties(&[
            ("Delegate".into(), Value::Bool(true)),
            ("PIDs".into(), Value::Numbers(vec![7])),
            ("TasksMax".into(), Value::Uint64(u64::MAX)),
            (
                "DeviceAllow".into(),
                Value::Pairs(vec![("/dev/null".into(), "rw".into())]),
            ),
        ]);
        let call = Call {
            destination: "d",
            path: "/p",
            interface: "i",
            member: "Method",
            signature: "sa(sv)",
            body,
        };
        let bytes = call.encode(5);
        let start: [u8; 16] = bytes[..16].try_into().expect("start");
        let (header, body) = lengths(&start).expect("lengths");
        assert_eq!(header + body, bytes.len());
        let message = Message::decode(&bytes[..header], bytes[header..].to_vec()).expect("message");
        assert_eq!((message.kind, message.member.as_str()), (1, "Method"));
        let mut reader = Reader::new(&message.body);
        assert_eq!(reader.text().expect("text"), "unit.scope");
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let mut start = [0; 16];
        lengths(&start).expect_err("no message");
        start[0] = b'l';
        start[12] = 8;
        let (header, _) = lengths(&start).expect("lengths");
        assert_eq!(header, 24);
        Message::decode(&start, Vec::new()).expect_err("cut off");
        Reader::new(&[255, 255, 255, 255]).text().expect_err("long");
    }
}
