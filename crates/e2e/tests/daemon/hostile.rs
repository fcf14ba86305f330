//! Checklist, line 19: a request of any size and shape gets 4xx, never a panic.

use anyhow::{Result, ensure};
use bulkhead_e2e::http::Request;
use serde_json::{Value, json};

use crate::support::{Daemon, IMAGE};

#[test]
fn nonsense_is_refused_with_a_reason() -> Result<()> {
    let Some(daemon) = Daemon::new()? else {
        return Ok(());
    };
    let id = daemon.run("target", &["sleep", "1000"], Value::Null)?;
    let mut checked = 0;
    for (method, path) in requests(&id) {
        for body in bodies() {
            let headers: &[(&str, &str)] = &[("content-type", "application/json")];
            let request = Request {
                method,
                path: &path,
                headers,
                body: &body,
            };
            let answer = match request.send_unix(&daemon.socket()) {
                // Refused and closed before it was all read.
                Err(_) if body.len() > 50_000 => continue,
                answer => answer?,
            };
            let shown: String = body.chars().take(60).collect();
            // 501 is an answer to what is understood and not there.
            ensure!(
                answer.status < 500 || answer.status == 501,
                "{method} {path} {shown}: {}: {}",
                answer.status,
                answer.text()
            );
            if answer.status >= 400 {
                let message = answer.json()?["message"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                ensure!(!message.is_empty(), "{method} {path} {shown}: no reason");
            }
            checked += 1;
        }
    }
    println!("{checked} requests");
    ensure!(daemon.status(&id)? == "running");
    ensure!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.remove_all()?;
    for volume in daemon.json("/volumes")?["Volumes"]
        .as_array()
        .into_iter()
        .flatten()
    {
        daemon
            .delete(&format!(
                "/volumes/{}",
                volume["Name"].as_str().unwrap_or_default()
            ))?
            .expect(204)?;
    }
    for network in daemon.json("/networks")?.as_array().into_iter().flatten() {
        daemon
            .delete(&format!(
                "/networks/{}",
                network["Id"].as_str().unwrap_or_default()
            ))?
            .expect(204)?;
    }
    daemon.finish()
}

fn requests(id: &str) -> Vec<(&'static str, String)> {
    let mut requests: Vec<(&'static str, String)> = Vec::new();
    for path in [
        "/containers/create",
        "/containers/create?name=../../etc/passwd",
        "/containers/create?name=%00",
        "/containers/prune?filters=[1]",
        "/networks/create",
        "/volumes/create",
        "/bulkhead/projects/..%2f..%2fetc/up",
        "/bulkhead/projects/x/up",
        "/bulkhead/projects/nothing/down",
        "/images/create?fromSrc=nowhere",
        "/images/..%2f..%2fetc/tag?repo=a%20b",
        "/exec/nothing/start",
        "/exec/nothing/resize?h=-1&w=99999999",
        "/build?buildargs=%7B&t=UPPER%20CASE",
        "/auth",
        "/nothing/at/all",
        "//",
    ] {
        requests.push(("POST", path.to_owned()));
    }
    for path in [
        "exec",
        "update",
        "resize?h=x&w=y",
        "kill?signal=SIGNOTHING",
        "stop?t=-5",
        "stop?t=1e9",
        "rename?name=..%2f..%2fx",
        "rename?name=",
        "wait?condition=never",
        "unpause",
        "restart?t=abc",
    ] {
        requests.push(("POST", format!("/containers/{id}/{path}")));
    }
    for path in [
        "/containers/json?filters=nonsense".to_owned(),
        "/containers/json?filters=%7B%22label%22%3A5%7D".to_owned(),
        "/containers/json?limit=-99999999999999999999".to_owned(),
        "/containers/%ff%fe/json".to_owned(),
        "/containers/..%2f..%2f..%2fetc%2fpasswd/json".to_owned(),
        format!("/containers/{}/json", "a".repeat(4000)),
        format!("/containers/{id}/logs"),
        format!("/containers/{id}/logs?stdout=1&tail=-1"),
        format!("/containers/{id}/logs?stdout=1&since=tomorrow"),
        format!("/containers/{id}/logs?stdout=1&since=99999999999999999999.9"),
        format!("/containers/{id}/top?ps_args=--no-such-option"),
        "/volumes/..%2f..%2fetc".to_owned(),
        "/networks/%2e%2e".to_owned(),
        "/images/..%2f..%2fetc%2fpasswd/json".to_owned(),
        "/images/nothing/history".to_owned(),
        "/events?since=x&until=x".to_owned(),
        "/v99999999999.9/info?x=%zz".to_owned(),
        "/bulkhead/projects/nothing".to_owned(),
    ] {
        requests.push(("GET", path));
    }
    for path in [
        "/volumes/..%2f..%2fetc",
        "/volumes/.",
        "/images/..%2f..%2fetc",
        "/networks/nothing",
        "/containers/nothing?force=1",
    ] {
        requests.push(("DELETE", path.to_owned()));
    }
    requests.push(("PATCH", "/containers/json".to_owned()));
    requests
}

fn bodies() -> Vec<String> {
    let create = |more: Value| {
        let mut body = json!({ "Image": IMAGE, "Cmd": ["true"], "Name": "../x" });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        body.to_string()
    };
    let host = |host: Value| create(json!({ "HostConfig": host }));
    vec![
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"text\"".to_owned(),
        "-1e400".to_owned(),
        "[".repeat(100_000),
        format!("{{\"Image\":\"{}\"}}", "x".repeat(9 << 20)),
        "{\"Image\":5,\"Cmd\":\"sh\"}".to_owned(),
        create(json!({ "Cmd": ["a\0b"] })),
        create(json!({ "Env": ["A=\0"], "Hostname": "x".repeat(5000) })),
        create(json!({ "Hostname": "a\nb" })),
        create(json!({ "Labels": { "com.docker.compose.project": "../..", "com.docker.compose.service": "\0", "com.docker.compose.container-number": "-1" } })),
        create(json!({ "Healthcheck": { "Test": ["CMD", "true"], "Interval": -5 } })),
        create(json!({ "Healthcheck": { "Test": ["WHAT"] } })),
        create(json!({ "StopTimeout": -9223372036854775808_i64, "StopSignal": "SIGWHAT" })),
        create(json!({ "ExposedPorts": { "99999/tcp": {} } })),
        host(json!({ "Memory": -1, "NanoCpus": -1, "CpuShares": -9, "PidsLimit": -7, "ShmSize": -1 })),
        host(json!({ "Memory": 9223372036854775807_i64, "CpuQuota": 9223372036854775807_i64, "CpuPeriod": 1 })),
        host(json!({ "Memory": "lots" })),
        host(json!({ "Binds": ["../../etc:/x", "/:/"] })),
        host(json!({ "Binds": ["../x:/etc"] })),
        host(json!({ "Binds": ["..:/x"] })),
        host(json!({ "Binds": ["ok:/../../x"] })),
        host(json!({ "Mounts": [{ "Type": "volume", "Source": "../../../etc", "Target": "/x" }] })),
        host(json!({ "PortBindings": { "80/tcp": [{ "HostIp": "not an address", "HostPort": "-1" }] } })),
        host(json!({ "PortBindings": { "80/sctp": [{ "HostPort": "70000" }] } })),
        host(json!({ "NetworkMode": "container:../x", "Runtime": "../../bin/sh" })),
        host(json!({ "Sysctls": { "../../etc/passwd": "x" }, "Ulimits": [{ "Name": "nothing", "Soft": 2, "Hard": 1 }] })),
        host(json!({ "ExtraHosts": ["a:b:c:d"], "Dns": ["x\ny"] })),
        json!({ "Name": "../../etc", "Driver": "local" }).to_string(),
        json!({ "Name": "a\0b", "Labels": { "x": 5 } }).to_string(),
        json!({ "Name": "net", "IPAM": { "Config": [{ "Subnet": "999.1.1.1/40" }] } }).to_string(),
        json!({ "Name": "net", "IPAM": { "Config": [{ "Subnet": "0.0.0.0/0" }] } }).to_string(),
        json!({ "Name": "net", "IPAM": { "Config": [{ "Subnet": "10.99.0.0/32" }] } }).to_string(),
        json!({ "Cmd": ["nothing-like-this"], "User": "../..", "WorkingDir": "relative" }).to_string(),
        json!({ "Cmd": [], "ConsoleSize": [-1, 70000] }).to_string(),
        json!({ "spec": { "name": "../x", "services": [{ "name": "../..", "container": { "Image": IMAGE } }] } }).to_string(),
        json!({ "spec": { "networks": [{ "key": "n", "name": "../n" }], "services": [{ "name": "s", "replicas": 1, "container": { "Image": IMAGE, "Cmd": ["true"] } }] } }).to_string(),
        json!({ "spec": { "services": [{ "name": "s", "container_name": "../../s", "replicas": 1, "container": { "Image": IMAGE, "Cmd": ["true"] } }] } }).to_string(),
    ]
}
