//! The access log.

use std::path::Path;
use std::time::Duration;

use bulkhead_gateway::{AccessLog, AccessLogSettings, LATENCY_BOUNDS_MS};
use serde_json::Value;

use crate::support::*;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_line_says_what_happened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let server = TestServer::named("hello").await;
    let log = AccessLog::open(AccessLogSettings::new(&path)).unwrap();
    let gateway = TestGateway::start_with(
        vec![
            route("web.test", "/", &[refusing_address(), server.address]),
            route("down.test", "/", &[]),
        ],
        quick_settings(),
        log,
    );
    let mut client = gateway.connect().await;
    let mut order = request("POST", "web.test/order?id=1", "four");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    order
        .headers_mut()
        .insert("traceparent", parent.parse().unwrap());
    client.send(order).await;
    client.get("down.test/").await;
    client.get("none.test/").await;
    drop(client);
    gateway.stopped().await;

    let lines = lines(&path);
    assert_eq!(lines.len(), 3);
    let order = &lines[0];
    for (field, value) in [
        ("method", "POST"),
        ("host", "web.test"),
        ("path", "/order"),
        ("client", "127.0.0.1"),
        ("project", "shop"),
        ("service", "web"),
        ("sandbox", "replica-2"),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ("parent_id", "b7ad6b7169203331"),
    ] {
        assert_eq!(order[field], value, "{field}");
    }
    assert_eq!(
        (&order["status"], &order["retries"]),
        (&200.into(), &1.into())
    );
    assert_eq!(
        (&order["bytes_in"], &order["bytes_out"]),
        (&4.into(), &5.into())
    );
    assert!(order["upstream_ms"].as_f64().unwrap() <= order["duration_ms"].as_f64().unwrap());
    assert!(order["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(lines[1]["status"], 503);
    assert!(lines[1]["error"].as_str().unwrap().contains("service down"));
    assert_eq!(lines[2]["status"], 404);
    assert!(lines[2].get("service").is_none());
}

#[tokio::test]
async fn the_log_rotates_and_keeps_so_many_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let settings = AccessLogSettings {
        max_bytes: 2000,
        keep: 2,
        ..AccessLogSettings::new(&path)
    };
    let log = AccessLog::open(settings).unwrap();
    let gateway = TestGateway::start_with(vec![], quick_settings(), log);
    let mut client = gateway.connect().await;
    for number in 0..50 {
        client.get(&format!("none.test/{number}")).await;
    }
    drop(client);
    gateway.stopped().await;
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["access.log", "access.log.1", "access.log.2"]);
    for name in names {
        let file = directory.path().join(name);
        assert!(std::fs::metadata(&file).unwrap().len() <= 2000);
        assert!(lines(&file).len() > 1);
    }
    assert_eq!(lines(&path).last().unwrap()["path"], "/49");
}

/// A pipe that nobody reads stands for a disk that hangs.
#[tokio::test]
async fn a_log_that_hangs_delays_no_request_and_counts_what_it_loses() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let status = std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    // Held open, so that neither side waits for the other at its start.
    let mut pipe = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let settings = AccessLogSettings {
        queue: 4,
        max_bytes: u64::MAX,
        ..AccessLogSettings::new(&path)
    };
    let gateway =
        TestGateway::start_with(vec![], quick_settings(), AccessLog::open(settings).unwrap());
    let mut client = gateway.connect().await;
    let long = "x".repeat(8000);
    for _ in 0..200 {
        client.get(&format!("none.test/{long}")).await;
    }
    drop(client);
    // Every request is either a line or counted.
    let reader = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader};
        let (mut written, mut dropped) = (0, 0);
        let mut lines = BufReader::new(&mut pipe).lines();
        while written + dropped < 200 {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            match line["dropped"].as_u64() {
                Some(count) => dropped += count,
                None => written += 1,
            }
        }
        (written, dropped)
    });
    gateway.stopped().await;
    let (written, dropped) = reader.join().unwrap();
    assert_eq!(written + dropped, 200);
    assert!(dropped > 100, "{dropped}");
}

#[tokio::test]
async fn counters_are_kept_per_service() {
    let server = TestServer::start(|_| async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        http::Response::new(full("slow"))
    })
    .await;
    let gateway = TestGateway::start(vec![
        route("a.test", "/", &[server.address]),
        route("b.test", "/", &[]),
    ]);
    for _ in 0..3 {
        gateway.get("a.test/").await;
    }
    gateway.get("b.test/").await;
    let snapshot = gateway.counters.snapshot();
    assert_eq!(snapshot.len(), 2);
    assert_eq!(snapshot[0].by_status_class, [0, 3, 0, 0, 0]);
    assert_eq!(snapshot[1].by_status_class, [0, 0, 0, 0, 1]);
    let fast = LATENCY_BOUNDS_MS
        .iter()
        .position(|bound| *bound >= 25)
        .unwrap();
    assert_eq!(snapshot[0].latency_buckets[..=fast].iter().sum::<u64>(), 0);
    assert!(snapshot[0].latency_sum_us >= 90_000);
}
