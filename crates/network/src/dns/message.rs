//! The part of RFC 1035 and RFC 6891 that a forwarding name server has to understand: the header,
//! the one question, and the sender's buffer size.
//!
//! Invariant: no pointer is ever followed. A question has none, and nothing else is read.

use std::net::Ipv4Addr;

pub const TYPE_A: u16 = 1;
pub const TYPE_PTR: u16 = 12;
const TYPE_OPT: u16 = 41;
pub const TYPE_AXFR: u16 = 252;
pub const TYPE_ANY: u16 = 255;
pub const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

pub const NO_ERROR: u8 = 0;
pub const FORMAT_ERROR: u8 = 1;
pub const SERVER_FAILURE: u8 = 2;
pub const NOT_IMPLEMENTED: u8 = 4;

pub const HEADER_LENGTH: usize = 12;
/// What a client without EDNS takes over UDP (RFC 1035, 4.2.1).
const PLAIN_UDP_LIMIT: usize = 512;
/// What we send at most over UDP: fits into an unfragmented packet anywhere.
const UDP_LIMIT: usize = 1232;
/// No resolver sends more than one (OPT), with a signature two.
const ADDITIONAL_LIMIT: u16 = 4;
const LABEL_LIMIT: usize = 63;
const NAME_LIMIT: usize = 255;

const FLAG_RESPONSE: u8 = 0x80;
const FLAG_AUTHORITATIVE: u8 = 0x04;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
const FLAG_RECURSION_AVAILABLE: u8 = 0x80;
const OPCODE_MASK: u8 = 0x78;

/// A question that a client put to us.
#[derive(Debug)]
pub struct Query<'a> {
    header: &'a [u8],
    /// Name, type and class as they came: the letters' case is told back.
    question: &'a [u8],
    /// In lower case, without the final dot.
    pub name: String,
    pub kind: u16,
    pub class: u16,
    /// The sender's buffer for UDP, if it speaks EDNS.
    edns: Option<u16>,
}

/// Why a message is no question that can be answered or passed on.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not worth an answer, which might go to a stranger.
    Drop,
    /// The answer to send.
    Reply(Vec<u8>),
}

/// One record of an answer; it belongs to the name that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Address(Ipv4Addr),
    Pointer(String),
}

impl<'a> Query<'a> {
    /// # Errors
    /// See [`Refusal`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let Some(header) = bytes.get(..HEADER_LENGTH) else {
            return Err(Refusal::Drop);
        };
        if header[2] & FLAG_RESPONSE != 0 {
            return Err(Refusal::Drop);
        }
        if header[2] & OPCODE_MASK != 0 {
            return Err(Refusal::Reply(bare_reply(header, NOT_IMPLEMENTED)));
        }
        Self::parse_body(header, bytes)
            .ok_or_else(|| Refusal::Reply(bare_reply(header, FORMAT_ERROR)))
    }

    fn parse_body(header: &'a [u8], bytes: &'a [u8]) -> Option<Self> {
        let (questions, answers, authorities, additionals) = (
            word(header, 4)?,
            word(header, 6)?,
            word(header, 8)?,
            word(header, 10)?,
        );
        if (questions, answers, authorities) != (1, 0, 0) || additionals > ADDITIONAL_LIMIT {
            return None;
        }
        let (name, name_end) = parse_name(bytes, HEADER_LENGTH)?;
        let (kind, class) = (word(bytes, name_end)?, word(bytes, name_end + 2)?);
        let question = &bytes[HEADER_LENGTH..name_end + 4];
        let mut position = name_end + 4;
        let mut edns = None;
        for _ in 0..additionals {
            let (_, end) = parse_name(bytes, position)?;
            if word(bytes, end)? == TYPE_OPT {
                edns = Some(word(bytes, end + 2)?);
            }
            position = end + 10 + usize::from(word(bytes, end + 8)?);
            if position > bytes.len() {
                return None;
            }
        }
        Some(Self {
            header,
            question,
            name,
            kind,
            class,
            edns,
        })
    }

    pub fn is_internet(&self) -> bool {
        self.class == CLASS_IN || self.class == CLASS_ANY
    }

    /// Whether `bytes` is an answer with this identifier to this question.
    pub fn is_answered_by(&self, identifier: [u8; 2], bytes: &[u8]) -> bool {
        let end = HEADER_LENGTH + self.question.len();
        bytes.get(..2) == Some(&identifier)
            && bytes.get(2).is_some_and(|flags| flags & FLAG_RESPONSE != 0)
            && bytes
                .get(HEADER_LENGTH..end)
                .is_some_and(|question| question.eq_ignore_ascii_case(self.question))
    }

    /// Builds the answer. Over UDP, what the client cannot take is cut off and marked as such, so
    /// that it asks again over TCP.
    pub fn reply(&self, code: u8, records: &[Record], ttl: u32, over_udp: bool) -> Vec<u8> {
        let mut bytes = bare_reply(self.header, code);
        bytes[5] = 1;
        bytes.extend_from_slice(self.question);
        if code == NO_ERROR {
            bytes[2] |= FLAG_AUTHORITATIVE;
        }
        let limit = match (over_udp, self.edns) {
            (false, _) => usize::from(u16::MAX),
            (true, None) => PLAIN_UDP_LIMIT,
            (true, Some(size)) => usize::from(size).clamp(PLAIN_UDP_LIMIT, UDP_LIMIT),
        };
        let edns_length = if self.edns.is_some() { 11 } else { 0 };
        let mut count = 0u16;
        for record in records {
            let encoded = record.encode(ttl);
            if bytes.len() + encoded.len() + edns_length > limit {
                bytes[2] |= FLAG_TRUNCATED;
                break;
            }
            bytes.extend_from_slice(&encoded);
            count += 1;
        }
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        if self.edns.is_some() {
            bytes[11] = 1;
            bytes.push(0);
            bytes.extend_from_slice(&TYPE_OPT.to_be_bytes());
            bytes.extend_from_slice(&(UDP_LIMIT as u16).to_be_bytes());
            bytes.extend_from_slice(&[0; 6]);
        }
        bytes
    }
}

impl Record {
    fn encode(&self, ttl: u32) -> Vec<u8> {
        // A pointer to the question's name, which always follows the header.
        let mut bytes = vec![0xc0, HEADER_LENGTH as u8];
        let (kind, data) = match self {
            Record::Address(address) => (TYPE_A, address.octets().to_vec()),
            Record::Pointer(name) => (TYPE_PTR, encode_name(name)),
        };
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        bytes.extend_from_slice(&ttl.to_be_bytes());
        bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&data);
        bytes
    }
}

/// An answer's header, with no question.
fn bare_reply(header: &[u8], code: u8) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LENGTH];
    bytes[..2].copy_from_slice(&header[..2]);
    bytes[2] = FLAG_RESPONSE | (header[2] & (OPCODE_MASK | FLAG_RECURSION_DESIRED));
    bytes[3] = FLAG_RECURSION_AVAILABLE | code;
    bytes
}

/// Reads an uncompressed name; gives it with the position behind it. What is neither a letter,
/// a digit, a hyphen nor an underscore is written as `\DDD`, so that it equals no name of ours.
fn parse_name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut position = start;
    loop {
        let length = usize::from(*bytes.get(position)?);
        position += 1;
        if length == 0 {
            return Some((name, position));
        }
        if length > LABEL_LIMIT || position + length - start >= NAME_LIMIT {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in bytes.get(position..position + length)? {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                name.push(char::from(byte.to_ascii_lowercase()));
            } else {
                name.push_str(&format!("\\{byte:03}"));
            }
        }
        position += length;
    }
}

/// Labels that do not fit are left out: names come from our own configuration.
fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        if (1..=LABEL_LIMIT).contains(&label.len()) && bytes.len() + label.len() + 2 <= NAME_LIMIT {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
    }
    bytes.push(0);
    bytes
}

fn word(bytes: &[u8], position: usize) -> Option<u16> {
    let pair = bytes.get(position..position + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A question as a resolver sends it.
    pub fn question(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(encode_name(name));
        bytes.extend(kind.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        if let Some(size) = edns {
            bytes[11] = 1;
            bytes.extend([0, 0, 41]);
            bytes.extend(size.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    }

    #[test]
    fn a_question_is_read() {
        let bytes = question("Web_1.Shop", TYPE_A, Some(4096));
        let query = Query::parse(&bytes).unwrap();
        assert_eq!(query.name, "web_1.shop");
        assert_eq!((query.kind, query.class, query.edns), (1, 1, Some(4096)));
    }

    #[test]
    fn an_answer_keeps_the_case_and_is_cut_to_the_clients_limit() {
        let bytes = question("WEB", TYPE_A, None);
        let query = Query::parse(&bytes).unwrap();
        let records = vec![Record::Address(Ipv4Addr::LOCALHOST); 60];
        let over_udp = query.reply(NO_ERROR, &records, 2, true);
        assert!(over_udp.len() <= 512);
        assert_ne!(over_udp[2] & FLAG_TRUNCATED, 0);
        assert_eq!(&over_udp[13..16], b"WEB");
        let over_tcp = query.reply(NO_ERROR, &records, 2, false);
        assert_eq!(word(&over_tcp, 6), Some(60));
        assert_eq!(over_tcp[2] & FLAG_TRUNCATED, 0);
        assert!(query.is_answered_by([0xab, 0xcd], &over_tcp));
        assert!(!query.is_answered_by([0xab, 0xce], &over_tcp));
        assert!(!query.is_answered_by([0xab, 0xcd], &bytes));
    }

    #[test]
    fn what_is_no_question_is_dropped_or_refused() {
        let fine = question("web", TYPE_A, Some(1232));
        for length in 0..fine.len() {
            match Query::parse(&fine[..length]) {
                Err(Refusal::Drop) => assert!(length < HEADER_LENGTH),
                Err(Refusal::Reply(reply)) => assert_eq!(reply[3] & 15, FORMAT_ERROR),
                Ok(_) => panic!("{length} bytes were taken for a question"),
            }
        }
        let mut response = fine.clone();
        response[2] |= FLAG_RESPONSE;
        assert_eq!(Query::parse(&response).unwrap_err(), Refusal::Drop);
        let mut update = fine.clone();
        update[2] = 5 << 3;
        let Err(Refusal::Reply(reply)) = Query::parse(&update) else {
            panic!("an update was taken for a question");
        };
        assert_eq!(reply[3] & 15, NOT_IMPLEMENTED);
        // A compressed question, and one that points at itself.
        let mut pointer = fine.clone();
        pointer[12..14].copy_from_slice(&[0xc0, 12]);
        assert!(Query::parse(&pointer).is_err());
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut bytes = question("some.name", TYPE_A, Some(1232));
            for _ in 0..4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(99);
                let position = (state >> 33) as usize % bytes.len();
                bytes[position] = (state >> 25) as u8;
            }
            if let Ok(query) = Query::parse(&bytes) {
                let reply = query.reply(NO_ERROR, &[Record::Pointer("x.y".into())], 1, true);
                assert!(reply.len() > HEADER_LENGTH);
            }
        }
    }
}
