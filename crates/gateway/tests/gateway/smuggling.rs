//! Requests whose end is a matter of opinion must not reach a replica as two.

use std::sync::{Arc, Mutex};

use http::Response;
use http_body_util::BodyExt;

use crate::support::*;

/// What the replica took for requests: method, path and body of each.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

async fn watched() -> (TestServer, TestGateway, Seen) {
    let seen = Seen::default();
    let recorded = seen.clone();
    let server = TestServer::start(move |request| {
        let recorded = recorded.clone();
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            let body = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes());
            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            recorded.lock().unwrap().push((line, body));
            Response::new(full("ok"))
        }
    })
    .await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    (server, gateway, seen)
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let (_server, gateway, seen) = watched().await;
    let chunked = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: web.test\r\n\r\n";
    let cases = [
        (
            "two lengths",
            "content-length: 4\r\ncontent-length: 5\r\n",
            "abcde",
        ),
        ("a list of lengths", "content-length: 4, 5\r\n", "abcde"),
        ("a signed length", "content-length: +4\r\n", "abcd"),
        ("a negative length", "content-length: -1\r\n", ""),
        (
            "chunked is not last",
            "transfer-encoding: chunked, gzip\r\n",
            chunked,
        ),
        (
            "an unknown coding",
            "transfer-encoding: xchunked\r\n",
            chunked,
        ),
        ("a space before the colon", "content-length : 4\r\n", "abcd"),
        (
            "a folded line",
            "x: a\r\n transfer-encoding: chunked\r\n",
            chunked,
        ),
        ("a bare return", "x: a\rcontent-length: 4\r\n", "abcd"),
        ("a zero byte", "x: a\0b\r\n", ""),
        ("two hosts", "host: other.test\r\n", ""),
        (
            "no chunk size",
            "transfer-encoding: chunked\r\n",
            "zz\r\nabcd\r\n0\r\n\r\n",
        ),
        (
            "a huge chunk size",
            "transfer-encoding: chunked\r\n",
            "fffffffffffffffff\r\na\r\n0\r\n\r\n",
        ),
    ];
    for (name, fields, body) in cases {
        let raw = format!(
            "POST /{} HTTP/1.1\r\nhost: web.test\r\n{fields}\r\n{body}",
            name.replace(' ', "-")
        );
        let answer = gateway.raw(raw.as_bytes()).await;
        assert!(!answer.contains(" 200 OK"), "{name}: {answer}");
        let seen = seen.lock().unwrap();
        assert!(
            !seen.iter().any(|(line, _)| line.contains("smuggled")),
            "{name}: {seen:?}"
        );
    }
    let answer = gateway.raw(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "no host: {answer}");
    for host in ["a b", "user@web.test", "web.test/x", "a\"b"] {
        let answer = gateway
            .raw(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
    }
}

/// RFC 9112 §6.3 lets a server take `Transfer-Encoding` alone, if the connection is closed after.
#[tokio::test]
async fn a_length_beside_chunked_reaches_the_replica_as_one_request() {
    for fields in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 60\r\n",
        "Transfer-Encoding: cHuNkEd\r\nContent-Length: 0\r\n",
    ] {
        let (_server, gateway, seen) = watched().await;
        let raw = format!(
            "POST /first HTTP/1.1\r\nhost: web.test\r\n{fields}\r\n4\r\nbody\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n"
        );
        let answer = gateway.raw(raw.as_bytes()).await;
        let seen = seen.lock().unwrap();
        match seen.first() {
            Some(first) => assert_eq!(first, &("POST /first".to_owned(), "body".to_owned())),
            None => assert!(answer.starts_with("HTTP/1.1 400"), "{answer}"),
        }
        assert!(seen.len() < 2, "the connection was used on: {seen:?}");
    }
}

/// In a tunnel of HTTP/2 a client could reach what no route leads to.
#[tokio::test]
async fn an_upgrade_to_http2_does_not_pass() {
    let server = TestServer::mirror().await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let answer = gateway
        .raw(
            b"GET / HTTP/1.1\r\nhost: web.test\r\nconnection: upgrade, http2-settings, close\r\n\
              upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        !answer.contains("h2c") && !answer.contains("http2-settings"),
        "{answer}"
    );
}
