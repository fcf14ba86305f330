//! The command against a daemon with prepared answers.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use bulkhead_api::multiplex::{Stream, frame};
use serde_json::{Value, json};
use support::{Answer, Daemon, Request, command, stderr, stdout};

const COMPOSE: &str = "name: shop\nservices:\n  web:\n    image: web:1\n    runtime: microvm\n";

fn project() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("directory");
    std::fs::write(directory.path().join("compose.yaml"), COMPOSE).expect("write");
    directory
}

fn container() -> Value {
    json!({
        "Id": "0123456789abcdef", "Names": ["/shop-web-1"], "Image": "web:1", "State": "running",
        "Status": "Up 2 minutes", "Ports": [], "Created": 1,
        "HostConfig": {"NetworkMode": "shop_default", "Annotations": {"bulkhead.runtime": "microvm"}},
        "Labels": {
            "com.docker.compose.project": "shop", "com.docker.compose.service": "web",
            "com.docker.compose.container-number": "1", "com.docker.compose.oneoff": "False"
        }
    })
}

fn not_found(request: &Request) -> Answer {
    let message = json!({"message": format!("no answer to {}", request.line)});
    Answer::Json(404, message.to_string())
}

fn lines(lines: &[Value]) -> Answer {
    let pieces = lines.iter().map(|line| format!("{line}\n").into_bytes());
    Answer::Stream {
        pieces: pieces.collect(),
        broken: false,
    }
}

#[test]
fn ps_asks_once_and_shows_the_kind() {
    let directory = project();
    let daemon = Daemon::start(directory.path(), |request| {
        match request.line.starts_with("GET /containers/json") {
            true => Answer::Json(200, json!([container()]).to_string()),
            false => not_found(request),
        }
    });
    let output = daemon.run(directory.path(), &["ps"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "ID             NAME         SERVICE   KIND      IMAGE   STATUS         PORTS\n\
         0123456789ab   shop-web-1   web       microvm   web:1   Up 2 minutes\n"
    );
    assert_eq!(daemon.lines().len(), 1, "{:?}", daemon.lines());

    let output = daemon.run(directory.path(), &["ps", "--format", "json"]);
    let object: Value = serde_json::from_str(&stdout(&output)).expect("one object a line");
    assert_eq!(
        (&object["Service"], &object["Kind"]),
        (&json!("web"), &json!("microvm"))
    );
}

#[test]
fn up_sends_the_project_and_prints_plain_progress() {
    let directory = project();
    let daemon = Daemon::start(directory.path(), |request| match request.line.as_str() {
        "GET /images/web:1/json" => Answer::Json(200, json!({"Id": "sha256:1"}).to_string()),
        "GET /bulkhead/info" => Answer::Json(
            200,
            json!({"accelerator": "tcg", "accelerator_reason": "no /dev/kvm"}).to_string(),
        ),
        "POST /bulkhead/projects/shop/up" => lines(&[
            json!({"service": "web", "sandbox": "shop-web-1", "stage": "starting"}),
            json!({"service": "web", "sandbox": "shop-web-1", "stage": "healthy"}),
            json!({"done": {"error": null}}),
        ]),
        _ => not_found(request),
    });
    let output = daemon.run(
        directory.path(),
        &["up", "-d", "--wait", "--scale", "web=2"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
    assert_eq!(
        stderr(&output),
        "note: micro VMs run on software emulation here (no /dev/kvm): \
         CPU-bound code takes about ten times as long\n\
         shop-web-1: starting\nshop-web-1: healthy\n"
    );
    let request: Value = serde_json::from_str(&daemon.requests()[2].body).expect("request");
    let service = &request["spec"]["services"][0];
    assert_eq!(
        (&request["wait"], &service["replicas"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(service["container"]["HostConfig"]["Runtime"], "microvm");
}

#[test]
fn an_up_that_starts_nothing_says_nothing_of_emulation() {
    let directory = project();
    let daemon = Daemon::start(directory.path(), |request| match request.line.as_str() {
        "GET /images/web:1/json" => Answer::Json(200, json!({"Id": "sha256:1"}).to_string()),
        "GET /bulkhead/info" => Answer::Json(200, json!({"accelerator": "tcg"}).to_string()),
        "POST /bulkhead/projects/shop/up" => lines(&[
            json!({"service": "web", "sandbox": "shop-web-1", "stage": "running"}),
            json!({"done": {"error": null}}),
        ]),
        _ => not_found(request),
    });
    let output = daemon.run(directory.path(), &["up", "-d"]);
    assert_eq!(stderr(&output), "shop-web-1: running\n");
}

#[test]
fn inspect_adds_what_dockers_api_cannot_say() {
    let directory = project();
    let daemon = Daemon::start(directory.path(), |request| match request.line.as_str() {
        line if line.starts_with("GET /containers/json") => {
            Answer::Json(200, json!([container()]).to_string())
        }
        "GET /containers/0123456789abcdef/json" => {
            Answer::Json(200, json!({"Id": "0"}).to_string())
        }
        "GET /bulkhead/sandboxes/0123456789abcdef" => Answer::Json(
            200,
            json!({"kind": "microvm", "accelerator": "kvm", "accelerator_reason": "why"})
                .to_string(),
        ),
        _ => not_found(request),
    });
    let format = "{{.Bulkhead.Kind}} {{.Bulkhead.Accelerator}} {{.Bulkhead.AcceleratorReason}}";
    let output = daemon.run(directory.path(), &["inspect", "-f", format, "web"]);
    assert_eq!(stdout(&output), "microvm kvm why\n", "{}", stderr(&output));
}

#[test]
fn logs_show_the_console_of_one_sandbox() {
    let directory = project();
    let daemon = Daemon::start(directory.path(), |request| match request.line.as_str() {
        line if line.starts_with("GET /containers/json") => {
            Answer::Json(200, json!([container()]).to_string())
        }
        "GET /bulkhead/sandboxes/0123456789abcdef/console" => lines(&[json!("panic")]),
        _ => not_found(request),
    });
    let output = daemon.run(directory.path(), &["logs", "--console", "web"]);
    assert_eq!(stdout(&output), "\"panic\"\n", "{}", stderr(&output));
    let output = daemon.run(directory.path(), &["logs", "--console"]);
    assert_eq!(stderr(&output), "bulkhead: --console: name one sandbox\n");
}

#[test]
fn a_failed_up_says_why() {
    let directory = project();
    let daemon = Daemon::start(directory.path(), |request| match request.line.as_str() {
        "GET /images/web:1/json" => Answer::Json(200, json!({"Id": "sha256:1"}).to_string()),
        "POST /bulkhead/projects/shop/up" => {
            lines(&[json!({"done": {"error": {"message": "port 80 is in use", "code": 409}}})])
        }
        _ => not_found(request),
    });
    let output = daemon.run(directory.path(), &["up", "-d"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "bulkhead: port 80 is in use\n");

    let missing = Daemon::start(
        &directory.path().join("."),
        not_found_twice(directory.path()),
    );
    let output = missing.run(directory.path(), &["up", "-d"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "service 'web': image 'web:1' is not here";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
}

/// Frees the socket's name for a second daemon.
fn not_found_twice(directory: &std::path::Path) -> impl Fn(&Request) -> Answer + use<> {
    std::fs::remove_file(directory.join("daemon.sock")).expect("remove");
    not_found
}

#[test]
fn exec_passes_both_streams_and_the_exit_code_on() {
    let directory = project();
    let daemon = Daemon::start(directory.path(), |request| match request.line.as_str() {
        "GET /containers/json?all=1" => Answer::Json(200, json!([container()]).to_string()),
        "POST /containers/0123456789abcdef/exec" => {
            Answer::Json(201, json!({"Id": "e1"}).to_string())
        }
        "POST /exec/e1/start" => {
            let mut output = frame(Stream::Stdout, b"out\n").to_vec();
            output.extend(frame(Stream::Stderr, b"err\n"));
            Answer::Hijacked(output)
        }
        "GET /exec/e1/json" => {
            Answer::Json(200, json!({"Running": false, "ExitCode": 7}).to_string())
        }
        _ => not_found(request),
    });
    let arguments = [
        "exec", "-e", "A=1", "-w", "/srv", "web", "sh", "-c", "exit 7",
    ];
    let output = daemon.run(directory.path(), &arguments);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(
        (stdout(&output), stderr(&output)),
        ("out\n".into(), "err\n".into())
    );
    let body: Value = serde_json::from_str(&daemon.requests()[1].body).expect("request");
    assert_eq!(body["Cmd"], json!(["sh", "-c", "exit 7"]));
    assert_eq!(
        (&body["Env"], &body["WorkingDir"]),
        (&json!(["A=1"]), &json!("/srv"))
    );
}

#[test]
fn run_gives_the_codes_that_docker_gives() {
    let directory = tempfile::tempdir().expect("directory");
    for (message, recorded, expected) in [
        ("no such program", Some(127), 127),
        ("exec: \"x\": executable file not found in $PATH", None, 127),
        ("exec: \"/etc\": permission denied", None, 126),
        ("the disk is full", Some(0), 125),
    ] {
        let directory = tempfile::tempdir_in(directory.path()).expect("directory");
        let daemon = Daemon::start(directory.path(), move |request| {
            match request.line.as_str() {
                "POST /containers/create" => {
                    Answer::Json(201, json!({"Id": "c1", "Warnings": []}).to_string())
                }
                "POST /containers/c1/start" => {
                    Answer::Json(400, json!({"message": message}).to_string())
                }
                "GET /containers/c1/json" => {
                    Answer::Json(200, json!({"State": {"ExitCode": recorded}}).to_string())
                }
                line if line.starts_with("POST /containers/c1/attach") => Answer::Hijacked(vec![]),
                line if line.starts_with("POST /containers/c1/wait") => Answer::Stream {
                    pieces: vec![],
                    broken: false,
                },
                "DELETE /containers/c1?force=1&v=1" => Answer::Json(204, String::new()),
                _ => not_found(request),
            }
        });
        let output = daemon.run(directory.path(), &["run", "--rm", "image", "x"]);
        assert_eq!(output.status.code(), Some(expected), "{}", stderr(&output));
        assert_eq!(stderr(&output), format!("bulkhead: {message}\n"));
        assert!(
            daemon
                .lines()
                .last()
                .expect("requests")
                .starts_with("DELETE")
        );
    }
    let daemon = Daemon::start(directory.path(), not_found);
    let output = daemon.run(directory.path(), &["run", "none:1"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr(&output).contains("bulkhead import"),
        "{}",
        stderr(&output)
    );
}

/// The daemon is killed while the log is read, and the next one sends what is asked for again.
#[test]
fn logs_go_on_with_the_next_daemon_and_no_line_is_lost_or_doubled() {
    let directory = project();
    let connections = AtomicUsize::new(0);
    let line = |second: u32, text: &str| {
        let line = format!("2026-01-01T00:00:{second:02}.5Z {text}\n");
        frame(Stream::Stdout, line.as_bytes()).to_vec()
    };
    let daemon = Daemon::start(directory.path(), move |request| {
        let path = request.line.as_str();
        if path.starts_with("GET /containers/json") {
            return Answer::Json(200, json!([container()]).to_string());
        }
        if path.starts_with("GET /events") {
            return Answer::Stream {
                pieces: vec![],
                broken: false,
            };
        }
        if path.starts_with("GET /containers/0123456789abcdef/json") {
            let running = connections.load(Ordering::SeqCst) < 2;
            let inspected = json!({"Config": {"Tty": false}, "State": {"Running": running}});
            return Answer::Json(200, inspected.to_string());
        }
        if !path.starts_with("GET /containers/0123456789abcdef/logs") {
            return not_found(request);
        }
        match connections.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::Stream {
                pieces: vec![line(1, "one"), line(2, "two"), line(2, "two again")],
                broken: true,
            },
            _ => Answer::Stream {
                pieces: vec![
                    line(2, "two"),
                    line(2, "two again"),
                    line(2, "and again"),
                    line(3, "three"),
                ],
                broken: false,
            },
        }
    });
    let output = daemon.run(directory.path(), &["logs", "-f", "--tail", "5"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "web-1  | one\nweb-1  | two\nweb-1  | two again\nweb-1  | and again\nweb-1  | three\n"
    );
    let logs: Vec<String> = daemon
        .lines()
        .into_iter()
        .filter(|line| line.contains("/logs"))
        .collect();
    assert!(logs[0].ends_with("&tail=5"), "{logs:?}");
    assert!(logs[1].contains("since=1767225602.500000000"), "{logs:?}");
}

#[test]
fn a_build_sends_the_context_and_shows_what_the_daemon_says() {
    let directory = tempfile::tempdir().expect("directory");
    let context = directory.path().join("context");
    std::fs::create_dir(&context).expect("directory");
    std::fs::write(context.join("Dockerfile"), "FROM scratch\n").expect("write");
    std::fs::write(context.join("content-of-the-context"), "x").expect("write");
    let daemon = Daemon::start(directory.path(), |_| {
        lines(&[
            json!({"stream": "Step 1/1 : FROM scratch\n"}),
            json!({"aux": {"ID": "sha256:abc"}}),
        ])
    });
    let output = daemon.run(directory.path(), &["build", "-t", "a:1", "context"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "Step 1/1 : FROM scratch\n");
    let request = &daemon.requests()[0];
    assert_eq!(request.line, "POST /build?dockerfile=Dockerfile&rm=1&t=a:1");
    assert!(request.body.contains("content-of-the-context"));

    let output = daemon.run(directory.path(), &["build", "-q", "./context"]);
    assert_eq!(stdout(&output), "sha256:abc\n");
    let output = daemon.run(directory.path(), &["build", "./nothing"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("nothing: No such file"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_needs_no_daemon_works_without() {
    let directory = project();
    let run = |arguments: &[&str]| {
        command(directory.path())
            .args(arguments)
            .output()
            .expect("run")
    };
    assert_eq!(stdout(&run(&["config", "--services"])), "web\n");
    assert!(stdout(&run(&["config"])).contains("runtime: microvm"));
    assert!(stdout(&run(&["completion", "bash"])).contains("_bulkhead"));
    let pull = run(&["pull", "x"]);
    assert_eq!(pull.status.code(), Some(1));
    assert!(stderr(&pull).contains("no registry"), "{}", stderr(&pull));
    let usage = run(&["up", "--bild"]);
    assert_eq!(usage.status.code(), Some(125));

    std::fs::write(
        directory.path().join("compose.yaml"),
        "services: {web: {imag: x}}\n",
    )
    .expect("write");
    let broken = run(&["config"]);
    assert_eq!(broken.status.code(), Some(1));
    let text = stderr(&broken);
    assert!(
        text.starts_with("error:") && text.contains("compose.yaml:1:"),
        "{text}"
    );
}

#[test]
fn nobody_at_a_named_socket_is_an_error_and_starts_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let output = command(directory.path())
        .args(["-H", "unix:///nonexistent/bulkhead.sock", "images"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "bulkhead: cannot connect to the daemon at /nonexistent/bulkhead.sock: \
         No such file or directory (os error 2)\n"
    );
}
