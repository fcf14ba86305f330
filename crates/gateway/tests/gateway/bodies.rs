//! Bodies are streamed, whatever their size, and whichever side is slow.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel};
use hyper::body::{Body as HttpBody, Frame};

use crate::support::*;

const CHUNK: usize = 64 * 1024;
const LARGE: u64 = 100 * 1024 * 1024;

/// So many bytes, made when they are asked for, and counted.
struct Generated {
    left: u64,
    made: Arc<AtomicU64>,
}

impl Generated {
    fn body(size: u64) -> (Body, Arc<AtomicU64>) {
        let made = Arc::new(AtomicU64::new(0));
        let body = Self {
            left: size,
            made: made.clone(),
        };
        (body.boxed(), made)
    }
}

impl HttpBody for Generated {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        static ZEROS: [u8; CHUNK] = [0; CHUNK];
        let size = self.left.min(CHUNK as u64);
        if size == 0 {
            return Poll::Ready(None);
        }
        self.left -= size;
        self.made.fetch_add(size, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
            &ZEROS[..size as usize],
        )))))
    }
}

async fn count(mut body: hyper::body::Incoming) -> u64 {
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        size += frame
            .unwrap()
            .into_data()
            .map_or(0, |data| data.len() as u64);
    }
    size
}

/// The most memory that this process ever had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions_without_being_kept() {
    let server = TestServer::start(|request| async move {
        let size = count(request.into_body()).await;
        let mut response = Response::new(Generated::body(LARGE).0);
        response.headers_mut().insert("x-size", size.into());
        response
    })
    .await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let before = peak_memory();
    let mut client = gateway.connect().await;
    let mut upload = request("POST", "web.test/", "");
    *upload.body_mut() = Generated::body(LARGE).0;
    let response = client.begin(upload).await;
    assert_eq!(
        response.headers()["x-size"].to_str().unwrap(),
        LARGE.to_string()
    );
    assert_eq!(count(response.into_body()).await, LARGE);
    let growth = peak_memory() - before;
    assert!(growth < 24 * 1024, "memory grew by {growth} KiB");
    let counters = &gateway.counters.snapshot()[0];
    assert_eq!((counters.bytes_in, counters.bytes_out), (LARGE, LARGE));
}

#[tokio::test]
async fn the_slower_side_sets_the_pace() {
    let (body, made) = Generated::body(LARGE);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let server = TestServer::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::new(body) }
    })
    .await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let mut client = gateway.connect().await;
    let mut response = client.begin(request("GET", "web.test/", "")).await;
    response.body_mut().frame().await.unwrap().unwrap();
    // The client stops reading: soon nobody makes anything more.
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = made.load(Ordering::Relaxed);
        if now == last {
            break;
        }
        last = now;
    }
    assert!(
        last < LARGE / 2,
        "{last} bytes were made for a client that does not read"
    );
    assert!(count(response.into_body()).await > LARGE - 16 * CHUNK as u64);
}

#[tokio::test]
async fn the_response_may_begin_before_the_request_has_ended() {
    let server = TestServer::start(|request| async move {
        // An echo: each chunk comes back as it arrives.
        Response::new(request.into_body().boxed())
    })
    .await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let (mut sender, body) = Channel::<Bytes, hyper::Error>::new(1);
    let mut echo = request("POST", "web.test/", "");
    *echo.body_mut() = body.boxed();
    let mut client = gateway.connect().await;
    sender.send_data("0".into()).await.unwrap();
    let mut response = client.begin(echo).await;
    for number in 0..10 {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), number.to_string());
        sender
            .send_data((number + 1).to_string().into())
            .await
            .unwrap();
    }
    drop(sender);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "10"
    );
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let server = TestServer::start(|request| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let trailers = request
            .into_body()
            .collect()
            .await
            .unwrap()
            .trailers()
            .cloned();
        let mut response =
            Response::new(full("ok").with_trailers(async { trailers.map(Ok) }).boxed());
        response
            .headers_mut()
            .insert("trailer", "x-sum".parse().unwrap());
        // Else hyper would send a length, with no place for trailers.
        response
            .headers_mut()
            .insert("transfer-encoding", "chunked".parse().unwrap());
        response
    })
    .await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    let body = full("data")
        .with_trailers(async { Some(Ok(trailers)) })
        .boxed();
    let request = Request::builder()
        .method("POST")
        .uri("/")
        .header("host", "web.test")
        .header("te", "trailers")
        .header("connection", "te")
        .header("trailer", "x-sum")
        .header("transfer-encoding", "chunked")
        .body(body)
        .unwrap();
    let response = gateway.connect().await.begin(request).await;
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "42");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_made_to_look_whole() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"[..],
        &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"[..],
    ] {
        let server = raw_server(answer).await;
        let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
        let response = gateway
            .connect()
            .await
            .begin(request("GET", "web.test/", ""))
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.into_body().collect().await.is_err());
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request_at_the_replica() {
    let (body, made) = Generated::body(u64::MAX);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let server = TestServer::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::new(body) }
    })
    .await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let mut client = gateway.connect().await;
    let mut response = client.begin(request("GET", "web.test/", "")).await;
    response.body_mut().frame().await.unwrap().unwrap();
    drop((response, client));
    while gateway.counters.snapshot()[0].in_flight > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The replica's sending has ended, too, or it would make zeros for ever.
    let mut last = made.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = made.load(Ordering::Relaxed);
        if now == last {
            break;
        }
        last = now;
    }
}
