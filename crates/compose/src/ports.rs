//! Published and exposed ports.
//!
//! Short form: `[[ADDRESS:]HOST[-LAST]:]PORT[-LAST][/PROTOCOL]`.

use std::net::IpAddr;

use crate::context::Context;
use crate::node::{Node, Value};
use crate::project::{ExposedPort, Port, Protocol};
use crate::source::Span;

const HELP: &str = "write [ADDRESS:][HOST:]PORT[/tcp|udp]: 8080:80, 127.0.0.1:53:53/udp";

/// What makes two published ports the same when files are merged.
pub(crate) fn merge_key(item: &Node) -> Option<String> {
    let ports = match &item.value {
        Value::Scalar(scalar) => parse_short(&scalar.text).ok()?,
        Value::Mapping(_) => {
            let text = |key: &str| item.get(key).and_then(Node::text);
            vec![Port {
                target: text("target")?.parse().ok()?,
                published: text("published").and_then(|text| range(text).ok()),
                host_ip: text("host_ip").and_then(|text| text.parse().ok()),
                protocol: protocol(text("protocol").unwrap_or("tcp")).ok()?,
            }]
        }
        _ => return None,
    };
    Some(format!("{ports:?}"))
}

/// The ports of a service, each published one also noted in `context.published`.
pub(crate) fn published(context: &mut Context, service: &str, node: &Node) -> Vec<Port> {
    let mut ports = Vec::new();
    for item in node.get("ports").map(Node::items).unwrap_or_default() {
        let found = match &item.value {
            Value::Scalar(scalar) => parse_short(&scalar.text).map_err(|reason| {
                let message = format!("invalid port '{}': {reason}", scalar.text);
                context.sources.error_with_help(item.span, message, HELP);
            }),
            Value::Mapping(_) => long(context, item),
            _ => continue,
        };
        for port in found.unwrap_or_default() {
            let noted = (service.to_owned(), port.clone(), item.span);
            context.published.push(noted);
            ports.push(port);
        }
    }
    ports
}

fn long(context: &mut Context, item: &Node) -> Result<Vec<Port>, ()> {
    let Some(target) = item.get("target") else {
        context
            .sources
            .error(item.span, "a port needs the key 'target'");
        return Err(());
    };
    let read = |key: &str, default: &str| {
        let node = item.get(key);
        let text = node.and_then(Node::text).unwrap_or(default).to_owned();
        (text, node.map_or(item.span, |node| node.span))
    };
    let (protocol_text, protocol_span) = read("protocol", "tcp");
    let (published, published_span) = read("published", "");
    let (host_ip, host_ip_span) = read("host_ip", "");
    let mut fail = |span: Span, what: &str, text: &str, reason: String| {
        let message = format!("invalid {what} '{text}': {reason}");
        context.sources.error(span, message);
    };
    let target_text = target.text().ok_or(())?;
    let found_target =
        range(target_text).map_err(|reason| fail(target.span, "port", target_text, reason));
    let found_protocol = protocol(&protocol_text)
        .map_err(|reason| fail(protocol_span, "protocol", &protocol_text, reason));
    let found_published = match published.as_str() {
        "" => Ok(None),
        text => range(text)
            .map(Some)
            .map_err(|reason| fail(published_span, "port", text, reason)),
    };
    let found_address = match host_ip.as_str() {
        "" => Ok(None),
        text => address(text)
            .map(Some)
            .map_err(|reason| fail(host_ip_span, "address", text, reason)),
    };
    let (target, published) = (found_target?, found_published?);
    expand(found_address?, published, target, found_protocol?).map_err(|reason| {
        fail(published_span, "ports", target_text, reason);
    })
}

/// Reads the short form; the error says what is wrong with it.
pub(crate) fn parse_short(text: &str) -> Result<Vec<Port>, String> {
    let (ports, protocol_text) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol(protocol_text)?;
    let (rest, target) = match ports.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, ports),
    };
    let target = range(target)?;
    let Some(rest) = rest else {
        return expand(None, None, target, protocol);
    };
    let (host, published) = match rest.rsplit_once(':') {
        Some((host, published)) => (Some(host), published),
        None => (None, rest),
    };
    let host = match host {
        Some("") => return Err("the address before ':' is empty".to_owned()),
        Some(host) => Some(address(host)?),
        None => None,
    };
    let published = match (published, host) {
        ("", Some(_)) => None,
        (published, _) => Some(range(published)?),
    };
    expand(host, published, target, protocol)
}

fn expand(
    host_ip: Option<IpAddr>,
    published: Option<(u16, u16)>,
    target: (u16, u16),
    protocol: Protocol,
) -> Result<Vec<Port>, String> {
    let count = target.1 - target.0;
    let pair = |offset: u16| match published {
        Some((first, last)) if count == 0 => Some((first, last)),
        Some((first, _)) => Some((first + offset, first + offset)),
        None => None,
    };
    if let Some((first, last)) = published
        && count > 0
        && last - first != count
    {
        return Err("the two ranges are of different length".to_owned());
    }
    Ok((0..=count)
        .map(|offset| Port {
            target: target.0 + offset,
            published: pair(offset),
            host_ip,
            protocol,
        })
        .collect())
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err("the range ends before it begins".to_owned());
    }
    Ok((first, last))
}

fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ if digits => Err(format!("{text} is not between 1 and 65535")),
        _ if text.is_empty() => Err("a port is missing".to_owned()),
        _ => Err(format!("'{text}' is no number")),
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(format!("'{text}' is neither tcp nor udp")),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(text)
        .parse()
        .map_err(|_| format!("'{text}' is no IP address"))
}

/// `expose`: ports and ranges of them, with or without a protocol.
pub(crate) fn exposed(context: &mut Context, node: &Node) -> Vec<ExposedPort> {
    let mut ports: Vec<ExposedPort> = Vec::new();
    for (text, span) in context.spanned_texts(node, "expose") {
        let (range_text, protocol_text) = text.split_once('/').unwrap_or((&text, "tcp"));
        let found = range(range_text).and_then(|range| Ok((range, protocol(protocol_text)?)));
        match found {
            Ok(((first, last), protocol)) => {
                ports.extend((first..=last).map(|port| ExposedPort { port, protocol }));
            }
            Err(reason) => {
                let message = format!("invalid port '{text}': {reason}");
                let help = "write PORT[-LAST][/tcp|udp]: 8080, 53/udp";
                context.sources.error_with_help(span, message, help);
            }
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let show = |port: &Port| {
            let published = match port.published {
                Some((first, last)) => format!("{first}-{last}"),
                None => "any".to_owned(),
            };
            let address = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
            format!("{address} {published}>{}/{}", port.target, port.protocol)
        };
        match parse_short(text) {
            Ok(ports) => ports.iter().map(show).collect::<Vec<_>>().join(","),
            Err(reason) => reason,
        }
    }

    #[test]
    fn the_short_form() {
        for (text, expected) in [
            ("80", " any>80/tcp"),
            ("8080:80", " 8080-8080>80/tcp"),
            ("53:53/udp", " 53-53>53/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080-8080>80/tcp"),
            ("127.0.0.1::80", "127.0.0.1 any>80/tcp"),
            ("[::1]:8080:80", "::1 8080-8080>80/tcp"),
            ("::1:8080:80", "::1 8080-8080>80/tcp"),
            (
                "1000-1001:2000-2001",
                " 1000-1000>2000/tcp, 1001-1001>2001/tcp",
            ),
            ("9000-9005:80", " 9000-9005>80/tcp"),
            ("99999:80", "99999 is not between 1 and 65535"),
            ("0:80", "0 is not between 1 and 65535"),
            ("a:80", "'a' is no number"),
            ("80:", "a port is missing"),
            ("80/icmp", "'icmp' is neither tcp nor udp"),
            ("1-3:1-2", "the two ranges are of different length"),
            ("3-1:80", "the range ends before it begins"),
            ("host:80:80", "'host' is no IP address"),
            ("", "a port is missing"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
