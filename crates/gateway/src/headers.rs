//! Which header fields end at the gateway, and which it adds.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The protocol that both sides are asked to change to, if the message says so (RFC 9110 §7.8).
pub(crate) fn upgrade_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(header::UPGRADE)?;
    connection_options(headers)
        .any(|option| option.eq_ignore_ascii_case("upgrade"))
        .then(|| upgrade.clone())
}

/// Removes what concerns one connection only: the fields that `Connection` names and the
/// well-known ones (RFC 9110 §7.6.1).
///
/// `Host` and the framing are kept even if `Connection` names them: a client must not be able to
/// take from the message what decides where it goes and where it ends.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers)
            .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
            .filter(|name| {
                ![
                    header::HOST,
                    header::CONTENT_LENGTH,
                    header::TRANSFER_ENCODING,
                ]
                .contains(name)
            })
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRANSFER_ENCODING,
        PROXY_CONNECTION,
        KEEP_ALIVE,
    ] {
        headers.remove(name);
    }
}

/// Whether the sender understands trailers (`TE: trailers`); asked before the field is removed.
pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    list_items(headers, &header::TE).any(|item| item.eq_ignore_ascii_case("trailers"))
}

/// Says who asked (RFC 7239, and the older fields). What the client sent itself is replaced: the
/// gateway is the first hop that a service can trust, and a value that anybody can write must not
/// reach it as if it were true.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, client: IpAddr, host: &str) {
    for name in [FORWARDED_PORT, REAL_IP, FORWARDED_HOST, header::FORWARDED] {
        headers.remove(name);
    }
    let node = match client {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    if let Ok(value) = HeaderValue::from_str(&client.to_string()) {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    if let Ok(value) = HeaderValue::from_str(host) {
        headers.insert(FORWARDED_HOST, value);
    }
    // A host never holds a quote: it was parsed as an authority.
    if let Ok(value) = HeaderValue::from_str(&format!("for={node};host=\"{host}\";proto=http")) {
        headers.insert(header::FORWARDED, value);
    }
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    list_items(headers, &header::CONNECTION)
}

fn list_items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_concerns_one_connection_is_removed() {
        let mut headers = headers(&[
            ("connection", "keep-alive, X-Internal"),
            ("connection", "Host,content-length"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers, gzip"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("x-internal", "1"),
            ("host", "a.b"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ]);
        assert!(accepts_trailers(&headers));
        assert_eq!(upgrade_protocol(&headers), None);
        remove_hop_by_hop(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "content-length", "host"]);
    }

    #[test]
    fn what_the_client_says_of_itself_is_replaced() {
        let mut headers = headers(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-real-ip", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=10.0.0.1"),
        ]);
        set_forwarded(
            &mut headers,
            "2001:db8::1".parse().unwrap(),
            "shop.localhost:8080",
        );
        let all: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["2001:db8::1"]);
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "shop.localhost:8080");
        assert_eq!(
            headers["forwarded"],
            "for=\"[2001:db8::1]\";host=\"shop.localhost:8080\";proto=http"
        );
        assert!(!headers.contains_key("x-real-ip"));
    }
}
