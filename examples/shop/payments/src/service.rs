//! What every small HTTP service needs: listening, ending on a signal, log lines, a health check.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::Router;
use serde_json::json;
use tokio::signal::unix::{signal, SignalKind};

/// Serves until SIGTERM or SIGINT, then ends the requests that are under way.
pub fn run(port: u16, router: Router) -> ExitCode {
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
                println!(
                    "{}",
                    json!({"message": format!("listening on port {port}")})
                );
                // PID 1 gets no default action for signals: without this, it could not be stopped.
                let mut terminate = signal(SignalKind::terminate())?;
                let mut interrupt = signal(SignalKind::interrupt())?;
                axum::serve(listener, router)
                    .with_graceful_shutdown(async move {
                        tokio::select! {
                            _ = terminate.recv() => {}
                            _ = interrupt.recv() => {}
                        }
                    })
                    .await
            })
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot serve on port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One line of JSON on stdout, with the trace that the request belongs to.
pub fn log(message: &str, headers: &HeaderMap, fields: &BTreeMap<&str, String>) {
    let trace = headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok());
    println!(
        "{}",
        json!({"message": message, "traceparent": trace, "fields": fields})
    );
}

/// Exit code 0 if the service on this port answers 200 to `GET /healthz`.
pub fn healthcheck(port: u16) -> ExitCode {
    match status_line(port) {
        Ok(line) if line.starts_with(b"HTTP/1.1 200") => ExitCode::SUCCESS,
        Ok(line) => {
            eprintln!("unexpected answer: {}", String::from_utf8_lossy(&line));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("no answer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn status_line(port: u16) -> std::io::Result<Vec<u8>> {
    let timeout = Duration::from_secs(2);
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    answer.truncate(
        answer
            .iter()
            .position(|byte| *byte == b'\r')
            .unwrap_or(answer.len()),
    );
    Ok(answer)
}
