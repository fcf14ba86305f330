//! `-p [ADDRESS:][HOST[-HOST]:]PORT[-PORT][/PROTOCOL]`.

use std::collections::HashMap;
use std::net::IpAddr;

use bulkhead_api::docker::{PortBinding, PortMap};

use crate::failure::{Failure, Result};

/// Ports of a sandbox in the API's form.
#[derive(Debug, Default, PartialEq)]
pub struct Ports {
    pub exposed: HashMap<String, HashMap<(), ()>>,
    pub bindings: PortMap,
}

impl Ports {
    /// # Errors
    /// The first value that is no such port.
    pub fn parse(published: &[String]) -> Result<Self> {
        let mut ports = Self::default();
        for value in published {
            ports.add(value)?;
        }
        Ok(ports)
    }

    fn add(&mut self, value: &str) -> Result<()> {
        let wrong = |why: &str| {
            Failure::new(format!(
                "-p {value}: {why}; write it as [address:][host port:]port[/tcp|/udp]"
            ))
        };
        let (ports, protocol) = value.rsplit_once('/').unwrap_or((value, "tcp"));
        if !matches!(protocol, "tcp" | "udp") {
            return Err(wrong(&format!("unknown protocol '{protocol}'")));
        }
        let (rest, inside) = match ports.rsplit_once(':') {
            Some((rest, inside)) => (Some(rest), inside),
            None => (None, ports),
        };
        let inside = range(inside).ok_or_else(|| wrong(&format!("'{inside}' is no port")))?;
        let (address, outside) = match rest.map(|rest| rest.rsplit_once(':').ok_or(rest)) {
            None => ("", ""),
            Some(Err(outside)) => ("", outside),
            Some(Ok((address, outside))) => (address, outside),
        };
        let address = address
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .unwrap_or(address);
        if !address.is_empty() && address.parse::<IpAddr>().is_err() {
            return Err(wrong(&format!("'{address}' is no address")));
        }
        let outside = match outside {
            "" => None,
            text => Some(range(text).ok_or_else(|| wrong(&format!("'{text}' is no port")))?),
        };
        let count = inside.1 - inside.0;
        if let Some(outside) = outside
            && count > 0
            && outside.1 - outside.0 != count
        {
            return Err(wrong("the two ranges differ in length"));
        }
        for offset in 0..=count {
            let host_port = match outside {
                None => String::new(),
                Some((first, last)) if count == 0 && first != last => format!("{first}-{last}"),
                Some((first, _)) => (first + offset).to_string(),
            };
            self.bind(inside.0 + offset, protocol, address, host_port);
        }
        Ok(())
    }

    /// `host_port` is a port, a range to choose from, or empty for any.
    pub fn bind(&mut self, port: u16, protocol: &str, address: &str, host_port: String) {
        let key = format!("{port}/{protocol}");
        self.exposed.entry(key.clone()).or_default();
        let binding = PortBinding {
            host_ip: Some(address.to_owned()),
            host_port: Some(host_port),
        };
        self.bindings
            .entry(key)
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `container port ← address:host port`, sorted.
    fn bindings(value: &str) -> Vec<String> {
        let ports = Ports::parse(&[value.to_owned()]).expect(value);
        let mut list = Vec::new();
        for (port, bindings) in ports.bindings {
            assert!(ports.exposed.contains_key(&port));
            for binding in bindings.expect("bindings") {
                list.push(format!(
                    "{port} {}:{}",
                    binding.host_ip.expect("address"),
                    binding.host_port.expect("port")
                ));
            }
        }
        list.sort();
        list
    }

    #[test]
    fn every_form_of_a_published_port() {
        for (value, expected) in [
            ("80", vec!["80/tcp :"]),
            ("8080:80", vec!["80/tcp :8080"]),
            ("8080:80/udp", vec!["80/udp :8080"]),
            ("127.0.0.1:8080:80", vec!["80/tcp 127.0.0.1:8080"]),
            ("127.0.0.1::80", vec!["80/tcp 127.0.0.1:"]),
            ("[::1]:8080:80", vec!["80/tcp ::1:8080"]),
            ("8000-8010:80", vec!["80/tcp :8000-8010"]),
            ("8000-8001:80-81", vec!["80/tcp :8000", "81/tcp :8001"]),
            ("80-81", vec!["80/tcp :", "81/tcp :"]),
        ] {
            assert_eq!(bindings(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, part) in [
            ("", "'' is no port"),
            ("x", "'x' is no port"),
            ("0:80", "'0' is no port"),
            ("70000:80", "'70000' is no port"),
            ("80:", "'' is no port"),
            ("81-80", "'81-80' is no port"),
            ("80/sctp", "unknown protocol 'sctp'"),
            ("host:80:80", "'host' is no address"),
            ("8000-8002:80-81", "differ in length"),
        ] {
            let error = Ports::parse(&[value.to_owned()]).expect_err(value);
            assert!(error.message().contains(part), "{value}: {error}");
        }
    }
}
