//! What the gateway says when no replica answers.

use std::time::Duration;

use http::StatusCode;
use tokio::net::TcpListener;

use crate::support::*;

#[tokio::test]
async fn an_unknown_host_is_told_which_exist() {
    let gateway = TestGateway::start(vec![
        route("web.shop.localhost", "/", &[]),
        route("api.shop.localhost", "/v1", &[]),
    ]);
    let answer = gateway.get("nobody.test/x").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.headers["content-type"], "application/json");
    let json = answer.json();
    assert_eq!(json["status"], 404);
    assert_eq!(json["routes"][0], "api.shop.localhost/v1");
    assert_eq!(json["routes"][1], "web.shop.localhost/");

    let mut page = request("GET", "nobody.test/%3Cscript%3E", "");
    page.headers_mut()
        .insert("accept", "text/html,application/json".parse().unwrap());
    let answer = gateway.connect().await.send(page).await;
    assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
    assert!(answer.text().contains("<code>web.shop.localhost/</code>"));
    // A host may hold what would be markup in a page.
    assert!(answer.text().contains("nobody.test/%3Cscript%3E"));
    let hostile = b"GET / HTTP/1.1\r\nhost: a'&b\r\naccept: text/html\r\nconnection: close\r\n\r\n";
    assert!(gateway.raw(hostile).await.contains("a&#39;&amp;b"));

    let answer = gateway.get("api.shop.localhost/v2").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn no_healthy_replica_says_which_service_and_why() {
    let mut routes = vec![route("db.test", "/", &[])];
    routes[0].unavailable_reason =
        Some("replica 1 is unhealthy: pg_isready: no response".to_owned());
    let gateway = TestGateway::start(routes);
    let answer = gateway.get("db.test/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key("retry-after"));
    let json = answer.json();
    assert_eq!(json["service"], "db");
    assert_eq!(json["project"], "shop");
    assert_eq!(
        json["reason"],
        "replica 1 is unhealthy: pg_isready: no response"
    );
    assert_eq!(gateway.counters.snapshot()[0].by_status_class[4], 1);
}

#[tokio::test]
async fn replicas_that_fail_are_named() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closing = raw_server(b"").await;
    let garbage = raw_server(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    let protocol_changer = raw_server(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    )
    .await;
    let settings = bulkhead_gateway::Settings {
        response_timeout: Duration::from_millis(200),
        ..quick_settings()
    };
    let gateway = TestGateway::start_with(
        vec![
            route("refused.test", "/", &[refusing_address()]),
            route("closing.test", "/", &[closing.address]),
            route("garbage.test", "/", &[garbage.address]),
            route("changer.test", "/", &[protocol_changer.address]),
            route("silent.test", "/", &[silent.local_addr().unwrap()]),
        ],
        settings,
        bulkhead_gateway::AccessLog::disabled(),
    );
    for (service, status, reason) in [
        ("refused", 502, "connection refused"),
        ("closing", 502, "closed the connection"),
        ("garbage", 502, "not valid HTTP"),
        ("changer", 502, "changed the protocol"),
        ("silent", 504, "did not answer within 0.2 s"),
    ] {
        for method in ["GET", "POST"] {
            let mut client = gateway.connect().await;
            let answer = client
                .send(request(method, &format!("{service}.test/"), "x"))
                .await;
            let text = answer.text();
            assert_eq!(answer.status.as_u16(), status, "{service}: {text}");
            assert!(text.contains(reason), "{service}: {text}");
            assert_eq!(answer.json()["service"], service);
        }
    }
    assert!(closing.connection_count() >= 2);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let (_sender, routes) = tokio::sync::watch::channel(Default::default());
    let error =
        bulkhead_gateway::Gateway::bind(address, routes, bulkhead_gateway::AccessLog::disabled())
            .unwrap_err();
    assert_eq!(error.kind(), bulkhead_model::ErrorKind::Conflict);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
