//! As much of an HTTP/1.1 client as the tests need: one request a connection, over TCP or a unix
//! socket, so that a lost request shows as what it is and nothing retries behind the test's back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Emulated guests on a busy machine answer slowly.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A request's answer, its body whole.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Errors
    /// The body is not JSON; it is then in the message.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{}: not JSON: {}", self.status, self.text()))
    }

    /// # Errors
    /// The status is another one; the body is then in the message.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "expected {status}, got {}: {}",
            self.status,
            self.text()
        );
        Ok(self)
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a str,
}

impl<'a> Request<'a> {
    pub fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            headers: &[],
            body: "",
        }
    }

    pub fn post(path: &'a str, body: &'a str) -> Self {
        Self {
            method: "POST",
            path,
            headers: &[("content-type", "application/json")],
            body,
        }
    }

    pub fn with_headers(self, headers: &'a [(&'a str, &'a str)]) -> Self {
        Self { headers, ..self }
    }

    /// # Errors
    /// No connection, or no whole answer in time.
    pub fn send_tcp(self, address: SocketAddr) -> Result<Response> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)
            .with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        self.send(stream, &address.to_string())
    }

    /// # Errors
    /// No connection, or no whole answer in time.
    pub fn send_unix(self, socket: &Path) -> Result<Response> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        self.send(stream, "localhost")
    }

    fn send(self, mut stream: impl Read + Write, host: &str) -> Result<Response> {
        let what = format!("{} {}", self.method, self.path);
        let mut head = format!("{what} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        if !self.body.is_empty() || self.method == "POST" {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        for (name, value) in self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let request = format!("{head}\r\n{}", self.body);
        stream
            .write_all(request.as_bytes())
            .with_context(|| format!("{what}: send"))?;
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .with_context(|| format!("{what}: receive"))?;
        parse(&answer).with_context(|| what)
    }
}

fn parse(answer: &[u8]) -> Result<Response> {
    let end = position(answer, b"\r\n\r\n").context("no whole answer")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status line: {head}"))?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut response = Response {
        status,
        headers,
        body: answer[end + 4..].to_vec(),
    };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = unchunk(&response.body)?;
    } else if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().context("content-length")?;
        ensure!(
            response.body.len() == length,
            "the body has {} bytes instead of {length}",
            response.body.len()
        );
    }
    Ok(response)
}

fn unchunk(mut chunked: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = position(chunked, b"\r\n").context("the last chunk is missing")?;
        let size = String::from_utf8_lossy(&chunked[..line]);
        let size = size.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            bail!("no chunk size: {size}");
        };
        let rest = &chunked[line + 2..];
        if size == 0 {
            return Ok(body);
        }
        ensure!(rest.len() >= size + 2, "a chunk is cut off");
        body.extend_from_slice(&rest[..size]);
        chunked = &rest[size + 2..];
    }
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_both_forms_are_read() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").expect("plain");
        assert_eq!((plain.status, plain.text().as_str()), (200, "hi"));
        let chunked = parse(
            b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        )
        .expect("chunked");
        assert_eq!((chunked.status, chunked.text().as_str()), (201, "hi"));
    }

    #[test]
    fn a_body_that_is_cut_off_is_a_failure() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"",
        ] {
            parse(answer).expect_err("cut off");
        }
    }
}
