//! Which replica gets a request, and what happens when it does not take it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::support::*;

#[tokio::test]
async fn replicas_take_turns() {
    let servers = [
        TestServer::named("a").await,
        TestServer::named("b").await,
        TestServer::named("c").await,
    ];
    let addresses = servers.each_ref().map(|server| server.address);
    let gateway = TestGateway::start(vec![route("web.test", "/", &addresses)]);
    let mut client = gateway.connect().await;
    let mut answers = BTreeMap::<String, usize>::new();
    for _ in 0..30 {
        let answer = client.get("web.test/").await;
        *answers.entry(answer.text().to_owned()).or_default() += 1;
    }
    assert_eq!(answers.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    for server in &servers {
        assert_eq!(
            server.connection_count(),
            1,
            "connections are kept and used again"
        );
    }
}

#[tokio::test]
async fn a_refused_connection_is_retried_elsewhere_for_every_method() {
    let server = TestServer::mirror().await;
    let addresses = [refusing_address(), server.address, refusing_address()];
    let gateway = TestGateway::start(vec![route("web.test", "/", &addresses)]);
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
        let mut client = gateway.connect().await;
        for _ in 0..3 {
            let answer = client
                .send(request(method, "web.test/x", "whole body"))
                .await;
            assert_eq!(answer.status, StatusCode::OK, "{method}");
            assert!(answer.text().starts_with(&format!("{method} /x")));
            assert!(answer.text().ends_with("whole body"));
        }
    }
    assert!(gateway.counters.snapshot()[0].retries > 0);
}

#[tokio::test]
async fn a_request_waits_a_little_for_a_replica_that_comes_back() {
    let (socket, address) = refusing_socket();
    let gateway = TestGateway::start_with(
        vec![route("web.test", "/", &[address])],
        bulkhead_gateway::Settings::default(),
        bulkhead_gateway::AccessLog::disabled(),
    );
    let mut client = gateway.connect().await;
    let waiting =
        tokio::spawn(async move { client.send(request("POST", "web.test/", "order")).await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let _server = TestServer::start_on(socket.listen(16).unwrap(), |request| async move {
        Response::new(full(
            request.into_body().collect().await.unwrap().to_bytes(),
        ))
    });
    assert_eq!(waiting.await.unwrap().text(), "order");
}

#[tokio::test]
async fn a_get_is_repeated_when_a_kept_connection_breaks_and_a_post_is_not() {
    // Answers the first request of a connection, and closes it on seeing a second one.
    let requests = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counted = requests.clone();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                use tokio::io::AsyncWriteExt;
                let mut buffer = [0; 4096];
                assert!(stream.read(&mut buffer).await.unwrap() > 0);
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
                assert!(stream.read(&mut buffer).await.unwrap() > 0);
                counted.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    let gateway = TestGateway::start(vec![route("web.test", "/", &[address])]);
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        assert_eq!(client.get("web.test/").await.text(), "ok");
    }
    assert_eq!(
        requests.load(Ordering::SeqCst),
        5,
        "the second and the third were sent twice"
    );
    let answer = client.send(request("POST", "web.test/", "pay")).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(requests.load(Ordering::SeqCst), 6, "nobody pays twice");
    server.abort();
}

#[tokio::test]
async fn a_kept_connection_that_the_replica_closed_is_not_used() {
    let server = TestServer::start(|_| async {
        let mut response = Response::new(full("ok"));
        response
            .headers_mut()
            .insert("connection", "close".parse().unwrap());
        response
    })
    .await;
    let gateway = TestGateway::start(vec![route("web.test", "/", &[server.address])]);
    let mut client = gateway.connect().await;
    for _ in 0..20 {
        let answer = client.send(request("POST", "web.test/", "order")).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(
        gateway.counters.snapshot()[0].by_status_class,
        [0, 20, 0, 0, 0]
    );
}

/// Old replicas leave the table first and then end, as in a rollout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanging_replicas_under_load_loses_no_request() {
    let first = TestServer::named("replica").await;
    let gateway = Arc::new(TestGateway::start(vec![route(
        "web.test",
        "/",
        &[first.address],
    )]));
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|index| {
            let (gateway, done) = (gateway.clone(), done.clone());
            tokio::spawn(async move {
                let mut client = gateway.connect().await;
                let mut answered = 0;
                while !done.load(Ordering::Relaxed) {
                    let method = if index % 2 == 0 { "GET" } else { "POST" };
                    let answer = client.send(request(method, "web.test/", "body")).await;
                    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    let mut current = first;
    for _ in 0..20 {
        let next = TestServer::named("replica").await;
        // A replica that is gone already is in the table, too.
        gateway.set_routes(vec![route(
            "web.test",
            "/",
            &[refusing_address(), next.address],
        )]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(std::mem::replace(&mut current, next));
    }
    done.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    let counters = &gateway.counters.snapshot()[0];
    assert_eq!(counters.by_status_class[1], answered);
    assert_eq!(counters.by_status_class.iter().sum::<u64>(), answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once() {
    let server = TestServer::mirror().await;
    // More clients than the replica's queue takes: some connections need a second attempt.
    let gateway = Arc::new(TestGateway::start_with(
        vec![route("web.test", "/", &[server.address])],
        bulkhead_gateway::Settings::default(),
        bulkhead_gateway::AccessLog::disabled(),
    ));
    let clients: Vec<_> = (0..200)
        .map(|client_number| {
            let gateway = gateway.clone();
            tokio::spawn(async move {
                let mut client = gateway.connect().await;
                for number in 0..10 {
                    let uri = format!("web.test/{client_number}/{number}?q=%2F");
                    let answer = client.send(request("POST", &uri, uri.clone())).await;
                    let line = format!("POST /{client_number}/{number}?q=%2F\n");
                    assert!(answer.text().starts_with(&line), "{}", answer.text());
                    assert!(answer.text().ends_with(&uri));
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let counters = &gateway.counters.snapshot()[0];
    assert_eq!((counters.requests, counters.in_flight), (2000, 0));
}
