//! The way out, and a successor.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_gateway::{AccessLog, Gateway, RouteTable, Settings};
use http::{Response, StatusCode};
use tokio::sync::{Notify, watch};

use crate::support::*;

#[tokio::test]
async fn running_requests_end_and_connections_are_closed_after() {
    let (begun, proceed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, waits) = (begun.clone(), proceed.clone());
    let server = TestServer::start(move |_| {
        let (begins, waits) = (begins.clone(), waits.clone());
        async move {
            begins.notify_one();
            waits.notified().await;
            Response::new(full("finished"))
        }
    })
    .await;
    let mut gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let mut client = gateway.connect().await;
    let running = tokio::spawn(async move { client.get("web.test/").await });
    begun.notified().await;
    gateway.stop();
    // Until nobody listens any more.
    while tokio::net::TcpStream::connect(gateway.address)
        .await
        .is_ok()
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proceed.notify_one();
    let answer = running.await.unwrap();
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "finished"));
    assert_eq!(answer.headers["connection"], "close");
    gateway.stopped().await;
}

#[tokio::test]
async fn what_does_not_end_is_cut() {
    let server = TestServer::start(|_| std::future::pending()).await;
    let settings = Settings {
        drain_timeout: Duration::from_millis(100),
        ..quick_settings()
    };
    let gateway = TestGateway::start_with(
        vec![route("web.test", "/", &[server.address])],
        settings,
        AccessLog::disabled(),
    );
    let counters = gateway.counters.clone();
    let mut client = gateway.connect().await;
    let running = tokio::spawn(async move {
        client
            .sender
            .send_request(request("GET", "web.test/", ""))
            .await
    });
    while counters.snapshot()[0].in_flight == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gateway.stopped().await;
    assert!(running.await.unwrap().is_err());
    assert_eq!(
        counters.snapshot()[0].by_status_class[3],
        1,
        "counted as 499"
    );
}

/// One gateway after the other on the same listener, while clients connect anew for each request
/// and others keep their connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn successors_inherit_the_listener_without_losing_a_request() {
    let server = TestServer::named("ok").await;
    let table = Arc::new(RouteTable {
        routes: vec![route("web.test", "/", &[server.address])],
    });
    let (sender, routes) = watch::channel(table.clone());
    let gateway = Gateway::bind(
        "127.0.0.1:0".parse().unwrap(),
        routes,
        AccessLog::disabled(),
    )
    .unwrap();
    let address = gateway.local_address();
    let mut inherited = gateway.as_fd().try_clone_to_owned().unwrap();
    // A client on a busy host may need longer than usual to send its next request, and one that
    // comes while its idle connection is closed is nobody's to answer.
    let settings = Settings {
        drain_grace: Duration::from_secs(10),
        ..quick_settings()
    };
    let mut current = TestGateway::run(gateway.with_settings(settings.clone()), sender);
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|index| {
            let done = done.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut answered = 0;
                while !done.load(Ordering::Relaxed) {
                    let answer = client.send(request("POST", "web.test/", "x")).await;
                    assert_eq!(answer.text(), "ok");
                    answered += 1;
                    if index % 2 == 0 || answer.headers.contains_key("connection") {
                        client = Client::connect(address).await;
                    }
                }
                answered
            })
        })
        .collect();
    for _ in 0..5 {
        let (sender, routes) = watch::channel(table.clone());
        let listener = std::net::TcpListener::from(inherited);
        let successor = Gateway::from_listener(listener, routes, AccessLog::disabled()).unwrap();
        inherited = successor.as_fd().try_clone_to_owned().unwrap();
        let successor = TestGateway::run(successor.with_settings(settings.clone()), sender);
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::mem::replace(&mut current, successor).stopped().await;
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}
