//! What a replica sees of a request, and a client of a response.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn mirrored() -> (TestServer, TestGateway) {
    let server = TestServer::mirror().await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    (server, gateway)
}

#[tokio::test]
async fn the_request_arrives_unchanged_but_for_the_hop() {
    let (_server, gateway) = mirrored().await;
    let answer = gateway
        .raw(
            b"POST /a%2Fb/../c?x=1&y=%20 HTTP/1.1\r\nHost: Web.Test:8080\r\nConnection: close, x-hop\r\n\
              X-Hop: 1\r\nKeep-Alive: 5\r\nCookie: a=1\r\nX-Forwarded-For: 10.1.1.1\r\n\
              Forwarded: for=10.1.1.1\r\nContent-Length: 4\r\n\r\nbody",
        )
        .await;
    assert!(answer.contains("POST /a%2Fb/../c?x=1&y=%20\n"), "{answer}");
    for kept in [
        "\nhost: Web.Test:8080\n",
        "\ncookie: a=1\n",
        "\ncontent-length: 4\n",
        "\nx-forwarded-for: 127.0.0.1\n",
        "\nx-forwarded-proto: http\n",
        "\nx-forwarded-host: Web.Test:8080\n",
        "\nforwarded: for=127.0.0.1;host=\"Web.Test:8080\";proto=http\n",
        "\n\nbody",
    ] {
        assert!(answer.contains(kept), "{kept:?} is missing: {answer}");
    }
    for removed in ["x-hop", "keep-alive:", "10.1.1.1"] {
        assert!(
            !answer.contains(removed),
            "{removed:?} was passed on: {answer}"
        );
    }
}

#[tokio::test]
async fn the_authority_of_the_target_counts_instead_of_host() {
    let (_server, gateway) = mirrored().await;
    let answer = gateway
        .raw(b"GET http://web.test/x HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.contains("GET /x\n") && answer.contains("\nhost: web.test\n"),
        "{answer}"
    );
    assert!(!answer.contains("other.test"));
    let answer = gateway
        .raw(b"CONNECT web.test:80 HTTP/1.1\r\nHost: web.test\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[tokio::test]
async fn the_trace_goes_on() {
    let (_server, gateway) = mirrored().await;
    let mut client = gateway.connect().await;
    let mut traced = request("GET", "web.test/", "");
    traced
        .headers_mut()
        .insert("traceparent", PARENT.parse().unwrap());
    traced
        .headers_mut()
        .insert("tracestate", "vendor=1".parse().unwrap());
    let answer = client.send(traced).await;
    let line = answer
        .text()
        .lines()
        .find(|line| line.starts_with("traceparent: "))
        .unwrap();
    assert!(line.starts_with("traceparent: 00-0af7651916cd43dd8448eb211c80319c-"));
    assert!(
        !line.contains("b7ad6b7169203331"),
        "the gateway's span is the parent"
    );
    assert!(answer.text().contains("tracestate: vendor=1\n"));

    let answer = client.get("web.test/").await;
    assert!(answer.text().contains("traceparent: 00-"));
}

#[tokio::test]
async fn head_and_bodiless_statuses() {
    let server = TestServer::start(|request| async move {
        let status = request.uri().path()[1..].parse().unwrap();
        let mut response = Response::new(full(match status {
            200 => "content",
            _ => "",
        }));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    })
    .await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        let answer = client.send(request("HEAD", "web.test/200", "")).await;
        assert_eq!(answer.headers["content-length"], "7");
        assert!(answer.body.is_empty());
        assert_eq!(client.get("web.test/200").await.text(), "content");
        assert_eq!(
            client.get("web.test/204").await.status,
            StatusCode::NO_CONTENT
        );
        assert_eq!(
            client.get("web.test/304").await.status,
            StatusCode::NOT_MODIFIED
        );
    }
    assert_eq!(server.connection_count(), 1);
}

#[tokio::test]
async fn interim_responses_do_not_disturb() {
    let server = raw_server(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let answer = gateway.get("web.test/").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"));
}

#[tokio::test]
async fn a_client_that_expects_100_is_asked_for_its_body() {
    let (_server, gateway) = mirrored().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream
        .write_all(b"PUT / HTTP/1.1\r\nhost: web.test\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 4\r\n\r\n")
        .await
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("body"),
        "{answer}"
    );
    // Nobody is asked for a body that nobody takes.
    let refused = gateway
        .raw(b"PUT / HTTP/1.1\r\nhost: none.test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await;
    assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
}

#[tokio::test]
async fn old_clients_and_old_replicas() {
    let (_server, gateway) = mirrored().await;
    let answer = gateway
        .raw(b"GET / HTTP/1.0\r\nhost: web.test\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(!answer.contains("transfer-encoding"));
    let answer = gateway.raw(b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 404"),
        "no host is no route: {answer}"
    );

    let old = raw_server(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    gateway.set_routes(vec![route("web.test", "/", &[old.address])]);
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        assert_eq!(client.get("web.test/").await.text(), "until the end");
    }
}

#[tokio::test]
async fn http2_without_tls() {
    let (_server, gateway) = mirrored().await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let requests = (0..20).map(|number| {
        let mut sender = sender.clone();
        async move {
            let request = Request::builder()
                .uri(format!("http://web.test/{number}"))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(Empty::<Bytes>::new())
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8(body.to_vec()).unwrap();
            assert!(text.starts_with(&format!("GET /{number}\n")), "{text}");
            assert!(
                text.contains("\nhost: web.test\n") && text.contains("\ncookie: a=1; b=2\n"),
                "{text}"
            );
        }
    });
    for request in requests.map(tokio::spawn).collect::<Vec<_>>() {
        request.await.unwrap();
    }
}

#[tokio::test]
async fn slow_and_endless_headers_are_cut_off() {
    let server = TestServer::named("a").await;
    let settings = bulkhead_gateway::Settings {
        header_read_timeout: Duration::from_millis(200),
        ..quick_settings()
    };
    let log = bulkhead_gateway::AccessLog::disabled();
    let gateway = TestGateway::start_with(
        vec![route("web.test", "/", &[server.address])],
        settings,
        log,
    );
    // Nothing at all, the beginning of HTTP/2's preface, half a header, a used connection.
    for beginning in [
        &b""[..],
        b"PRI * HT",
        b"GET / HTTP/1.1\r\nhost: web",
        b"GET / HTTP/1.1\r\nhost: web.test\r\n\r\n",
    ] {
        let answer = tokio::time::timeout(Duration::from_secs(10), gateway.raw(beginning)).await;
        let answer = answer.expect("the gateway closes the connection");
        assert_eq!(
            answer.contains("200 OK"),
            beginning.ends_with(b"\r\n\r\n"),
            "{answer}"
        );
    }
    let mut large = b"GET / HTTP/1.1\r\nhost: web.test\r\nx: ".to_vec();
    large.resize(1024 * 1024, b'a');
    let answer = gateway.raw(&large).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let many: String = (0..500)
        .map(|number| format!("x-{number}: 1\r\n"))
        .collect();
    let many = format!("GET / HTTP/1.1\r\nhost: web.test\r\n{many}\r\n");
    let answer = gateway.raw(many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}
