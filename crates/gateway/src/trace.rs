//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): every request belongs to a trace.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace that a request belongs to, with the gateway's own span in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    /// The client's span, if the client sent a valid context.
    pub(crate) parent_id: Option<u64>,
    flags: u8,
}

impl TraceContext {
    /// Takes the client's context over, or starts a trace where there is none or an invalid one,
    /// and sets the headers for the backend. `tracestate` goes on as it is, but not without a
    /// valid `traceparent` (§3.3.1.1).
    pub(crate) fn apply(headers: &mut HeaderMap) -> Self {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let parent = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().and_then(parse),
            _ => None,
        };
        let context = match parent {
            Some((trace_id, parent_id, flags)) => Self {
                trace_id,
                span_id: random_id(),
                parent_id: Some(parent_id),
                flags,
            },
            None => {
                headers.remove(TRACESTATE);
                Self {
                    trace_id: (u128::from(random_id()) << 64) | u128::from(random_id()),
                    span_id: random_id(),
                    parent_id: None,
                    // Sampled: whoever started no trace leaves the choice to us, and a trace that
                    // nobody records is of no use.
                    flags: FLAG_SAMPLED,
                }
            }
        };
        let text = context.to_header();
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(TRACEPARENT, value);
        }
        context
    }

    fn to_header(self) -> String {
        format!(
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }
}

const FLAG_SAMPLED: u8 = 1;

/// §3.2 and §4.3: version `ff` is invalid; of a version above 00 the fields of version 00 are read
/// and what follows them, after a dash, is not; of version 00 nothing may follow.
fn parse(text: &str) -> Option<(u128, u64, u8)> {
    let bytes = text.as_bytes();
    if bytes.len() < 55 || !text.is_ascii() {
        return None;
    }
    if bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
        return None;
    }
    let version = hex(&text[0..2])? as u8;
    let trace_id = hex(&text[3..35])?;
    let parent_id = hex(&text[36..52])? as u64;
    let flags = hex(&text[53..55])? as u8;
    let rest = &bytes[55..];
    let valid_rest = match version {
        0xff => false,
        0 => rest.is_empty(),
        _ => rest.is_empty() || rest[0] == b'-',
    };
    // Only the flag that version 00 defines is passed on (§4.3, step 4).
    (valid_rest && trace_id != 0 && parent_id != 0).then_some((
        trace_id,
        parent_id,
        flags & FLAG_SAMPLED,
    ))
}

/// Lower case only, as the specification demands.
fn hex(text: &str) -> Option<u128> {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

/// A non-zero id. It need be unique, not secret: SipHash of a counter, keyed by the system's
/// random source once per thread.
fn random_id() -> u64 {
    thread_local! {
        static KEY: RandomState = RandomState::new();
    }
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let id = KEY.with(|key| key.hash_one(COUNTER.fetch_add(1, Ordering::Relaxed)));
        if id != 0 {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn applied(traceparent: &[&str]) -> (TraceContext, HeaderMap) {
        let mut headers = HeaderMap::new();
        for value in traceparent {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACESTATE, HeaderValue::from_static("b=2"));
        (TraceContext::apply(&mut headers), headers)
    }

    #[test]
    fn a_valid_context_is_passed_on_with_a_span_of_ours() {
        let (context, headers) = applied(&[VALID]);
        assert_eq!(context.trace_id, 0x0af7651916cd43dd8448eb211c80319c);
        assert_eq!(context.parent_id, Some(0xb7ad6b7169203331));
        let sent = headers[TRACEPARENT].to_str().unwrap();
        assert!(sent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && sent.ends_with("-01"));
        assert!(!sent.contains("b7ad6b7169203331"));
        assert_eq!(headers.get_all(TRACESTATE).iter().count(), 2);
    }

    #[test]
    fn flags_and_later_versions() {
        let unsampled = VALID.replace("-01", "-00");
        let (_, headers) = applied(&[&unsampled]);
        assert!(headers[TRACEPARENT].to_str().unwrap().ends_with("-00"));
        for later in [
            VALID.replacen("00-", "cc-", 1),
            format!("{}-what-the-future-brings", VALID.replacen("00-", "01-", 1)),
            VALID.replace("-01", "-ff"),
        ] {
            let (context, headers) = applied(&[&later]);
            assert!(context.parent_id.is_some(), "{later}");
            let sent = headers[TRACEPARENT].to_str().unwrap();
            assert!(sent.starts_with("00-") && sent.ends_with("-01"), "{sent}");
        }
    }

    #[test]
    fn an_invalid_context_starts_a_trace_and_loses_its_state() {
        let invalid = [
            "".to_owned(),
            "garbage".to_owned(),
            format!("{VALID}-extra"),
            format!("{VALID}0"),
            VALID.to_uppercase(),
            VALID.replacen("00-", "ff-", 1),
            VALID.replacen("00-", "0g-", 1),
            format!("{}.x", VALID.replacen("00-", "01-", 1)),
            VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            VALID.replace('-', "_"),
            VALID.replace("b7ad6b7169203331", "+7ad6b7169203331"),
        ];
        for text in &invalid {
            let (context, headers) = applied(&[text]);
            assert_eq!(context.parent_id, None, "{text}");
            assert!(!headers.contains_key(TRACESTATE), "{text}");
            assert!(parse(headers[TRACEPARENT].to_str().unwrap()).is_some());
        }
        let (context, _) = applied(&[VALID, VALID]);
        assert_eq!(context.parent_id, None, "two headers are as good as none");
        let (first, _) = applied(&[]);
        let (second, _) = applied(&[]);
        assert_ne!(first.trace_id, second.trace_id);
    }
}
