//! The client against a server that answers with prepared bytes, so that what travels is seen as
//! it is.

use std::path::Path;

use bulkhead_api::bulkhead::{ProgressLine, ProjectUp};
use bulkhead_api::client::{AttachOptions, BuildOptions, body_channel};
use bulkhead_api::multiplex::{Chunk, Stream, frame};
use bulkhead_api::{Client, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// Reads one request up to the end of its head, and whatever of its body came along.
async fn read_request(stream: &mut UnixStream) -> String {
    let mut request = Vec::new();
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        assert_ne!(
            stream.read_buf(&mut request).await.expect("read"),
            0,
            "the request ended early"
        );
    }
    String::from_utf8(request).expect("text")
}

/// Serves one connection with these pieces, each sent by itself; gives the request.
fn serve(directory: &Path, pieces: Vec<Vec<u8>>) -> JoinHandle<String> {
    let listener = UnixListener::bind(directory.join("socket")).expect("bind");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let request = read_request(&mut stream).await;
        for piece in pieces {
            stream.write_all(&piece).await.expect("write");
            stream.flush().await.expect("flush");
            tokio::task::yield_now().await;
        }
        request
    })
}

async fn connect(directory: &Path) -> Client {
    Client::connect(&directory.join("socket"))
        .await
        .expect("connect")
}

fn chunked(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

#[tokio::test]
async fn an_error_has_its_status_and_message() {
    let directory = tempfile::tempdir().expect("directory");
    let body = r#"{"message":"no such container: web"}"#;
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let server = serve(directory.path(), vec![answer.into_bytes()]);
    let client = connect(directory.path()).await;
    let error = client.start_container("web").await.expect_err("no such");
    assert_eq!(error.status(), Some(404));
    assert_eq!(error.to_string(), "no such container: web");
    let request = server.await.expect("server");
    assert!(
        request.starts_with("POST /containers/web/start HTTP/1.1\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn nobody_at_the_socket_is_told_from_an_answer() {
    let directory = tempfile::tempdir().expect("directory");
    let error = Client::connect(&directory.path().join("none"))
        .await
        .expect_err("nobody");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.is_disconnected());
}

#[tokio::test]
async fn progress_arrives_line_by_line_and_a_lost_daemon_is_noticed() {
    let directory = tempfile::tempdir().expect("directory");
    let server = serve(
        directory.path(),
        vec![
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            chunked("{\"service\":\"db\",\"stage\":\"star"),
            chunked("ting\"}\n{\"service\":\"db\",\"stage\":\"healthy\"}\n"),
        ],
    );
    let client = connect(directory.path()).await;
    let mut lines = client
        .project_up(&ProjectUp::default())
        .await
        .expect("answer");
    for stage in ["starting", "healthy"] {
        match lines.next().await.expect("line") {
            Some(ProgressLine::Event(event)) => assert_eq!(event.stage.to_string(), stage),
            other => panic!("{other:?}"),
        }
    }
    let error = lines.next().await.expect_err("the answer was cut off");
    assert!(error.is_disconnected(), "{error}");
    server.await.expect("server");
}

#[tokio::test]
async fn an_attached_sandbox_gets_input_and_gives_both_streams() {
    let directory = tempfile::tempdir().expect("directory");
    let listener = UnixListener::bind(directory.path().join("socket")).expect("bind");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let request = read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            .await
            .expect("write");
        let mut input = Vec::new();
        stream.read_to_end(&mut input).await.expect("end of input");
        let mut answer = frame(Stream::Stdout, b"got ").to_vec();
        answer.extend(frame(Stream::Stderr, &input));
        stream.write_all(&answer).await.expect("write");
        request
    });
    let client = connect(directory.path()).await;
    let options = AttachOptions {
        stdin: true,
        stdout: true,
        ..AttachOptions::default()
    };
    let mut attached = client
        .attach_container("web", &options)
        .await
        .expect("attach");
    attached.input.write(b"some ").await.expect("write");
    attached.input.write(b"input").await.expect("write");
    attached.input.close().await.expect("close");
    let mut output: Vec<Chunk> = Vec::new();
    while let Some(chunk) = attached.output.next().await.expect("output") {
        output.push(chunk);
    }
    assert_eq!(output[0].data, "got ");
    assert_eq!(output[1].stream, Stream::Stderr);
    assert_eq!(output[1].data, "some input");
    let request = server.await.expect("server").to_ascii_lowercase();
    assert!(request.contains("upgrade: tcp"), "{request}");
    assert!(
        request.contains("attach?stream=1&stdin=1&stdout=1 "),
        "{request}"
    );
}

#[tokio::test]
async fn a_build_streams_its_context() {
    let directory = tempfile::tempdir().expect("directory");
    let listener = UnixListener::bind(directory.path().join("socket")).expect("bind");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut request = Vec::new();
        while !request.ends_with(b"0\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.expect("read"), 0);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"stream\":\"Step 1\"}\r\n{\"error\":\"no\"}")
            .await
            .expect("write");
        String::from_utf8(request).expect("text")
    });
    let client = connect(directory.path()).await;
    let (sender, receiver) = body_channel();
    tokio::spawn(async move {
        for piece in ["first", "second"] {
            let _ = sender.send(Ok(piece.into())).await;
        }
    });
    let options = BuildOptions {
        tags: vec!["a:1".into(), "b".into()],
        ..BuildOptions::default()
    };
    let mut progress = client.build_image(&options, receiver).await.expect("build");
    let step = progress.next().await.expect("line").expect("line");
    assert_eq!(step.stream.as_deref(), Some("Step 1"));
    let failure = progress.next().await.expect("line").expect("line");
    assert_eq!(failure.error.as_deref(), Some("no"));
    assert!(progress.next().await.expect("end").is_none());
    let request = server.await.expect("server");
    assert!(
        request.starts_with("POST /build?rm=1&t=a:1&t=b HTTP/1.1"),
        "{request}"
    );
    assert!(
        request.contains("5\r\nfirst\r\n6\r\nsecond\r\n"),
        "{request}"
    );
}
