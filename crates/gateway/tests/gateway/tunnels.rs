//! WebSockets, and any other protocol after an upgrade.

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::support::*;

async fn echo_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_web_socket_echoes() {
    let address = echo_server().await;
    // The first replica refuses: an upgrade is retried like any other request.
    let gateway = TestGateway::start(vec![route("web.test", "/", &[refusing_address(), address])]);
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async("ws://web.test/chat", stream)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    for size in [0, 1, 125, 70_000, 1_000_000] {
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    assert_eq!(
        gateway.counters.snapshot()[0].in_flight,
        1,
        "a tunnel is in flight while it is open"
    );
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    drop(socket);
    gateway.stopped().await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_any_other() {
    let server = TestServer::named("no sockets here").await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let error = tokio_tungstenite::client_async("ws://web.test/", stream)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("200"), "{error}");
}

/// Bytes that come with the upgrade, before the answer to it, and ends of one side only.
#[tokio::test]
async fn other_protocols_pass_untouched() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n\r\n") {
            header.push(stream.read_u8().await.unwrap());
        }
        let header = String::from_utf8(header).unwrap().to_ascii_lowercase();
        assert!(header.contains("upgrade: tcp\r\n") && header.contains("connection: upgrade\r\n"));
        stream
            .write_all(
                b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello ",
            )
            .await
            .unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        stream
            .write_all(format!("got {rest}").as_bytes())
            .await
            .unwrap();
    });
    let gateway = TestGateway::start(vec![route("web.test", "/", &[address])]);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream
        .write_all(b"POST /attach HTTP/1.1\r\nhost: web.test\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\nearly ")
        .await
        .unwrap();
    stream.write_all(b"late").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello got early late"), "{answer}");
    server.await.unwrap();
}
