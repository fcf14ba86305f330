//! Streams as Docker's clients read them: raw on a terminal, multiplexed elsewhere, over a
//! connection that is taken out of HTTP (hijacked) or as a response's body.

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::Response;
use bulkhead_engine::{Input, Output, Session};
use bulkhead_model::{Error, ExitStatus};
use bytes::{BufMut, Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::ApiResult;

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// The two streams of a multiplexed connection that a client may want.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub stdout: bool,
    pub stderr: bool,
}

/// One chunk with Docker's eight bytes before it: stream, three zeros, length (big endian).
pub(crate) fn multiplexed(stream: u8, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + data.len());
    frame.put_slice(&[stream, 0, 0, 0]);
    frame.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    frame.put_slice(data);
    frame.freeze()
}

pub(crate) fn content_type(terminal: bool) -> HeaderValue {
    HeaderValue::from_static(if terminal { RAW } else { MULTIPLEXED })
}

/// Answers with `101 UPGRADED` (or `200` where the client did not ask for an upgrade, as old ones
/// do not) and carries a session over the connection. `session` is awaited after the answer.
/// With `close_stdin` the process's stdin ends with the client's.
pub(crate) fn hijack(
    mut request: Request<Body>,
    terminal: bool,
    close_stdin: bool,
    wanted: Wanted,
    session: impl Future<Output = Result<Session, Error>> + Send + 'static,
    finished: impl FnOnce(Option<ExitStatus>) + Send + 'static,
) -> ApiResult<Response> {
    let upgrade = hyper::upgrade::on(&mut request);
    let asked = request.headers().contains_key(header::UPGRADE);
    tokio::spawn(async move {
        let io = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                tracing::debug!(%error, "a client went away before its stream began");
                finished(None);
                return;
            }
        };
        match session.await {
            Ok(session) => finished(carry(io, session, terminal, close_stdin, wanted).await),
            Err(error) => {
                tracing::debug!(%error, "a stream did not begin");
                finished(None);
            }
        }
    });
    let response = Response::builder().header(header::CONTENT_TYPE, content_type(terminal));
    let response = if asked {
        response
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp")
    } else {
        response.status(StatusCode::OK)
    };
    response
        .body(Body::empty())
        .map_err(|error| Error::host("build a response").with_source(error).into())
}

async fn carry(
    io: TokioIo<hyper::upgrade::Upgraded>,
    session: Session,
    terminal: bool,
    close_stdin: bool,
    wanted: Wanted,
) -> Option<ExitStatus> {
    let (mut reader, mut writer) = tokio::io::split(io);
    let Session { input, mut output } = session;
    let reading = tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(32 * 1024);
        loop {
            buffer.reserve(8 * 1024);
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    if input
                        .send(Input::Data(buffer.split().freeze()))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
            }
        }
        // The client has closed its side, or is gone: either way no more input comes.
        if close_stdin && input.send(Input::Close).await.is_err() {
            tracing::trace!("the process was quicker");
        }
    });
    let mut exit = None;
    let mut connected = true;
    while let Some(chunk) = output.recv().await {
        let frame = match chunk {
            Output::Stdout(data) if wanted.stdout => {
                if terminal {
                    data
                } else {
                    multiplexed(1, &data)
                }
            }
            Output::Stderr(data) if wanted.stderr => multiplexed(2, &data),
            Output::Stdout(_) | Output::Stderr(_) => continue,
            Output::Exited(status) => {
                exit = Some(status);
                break;
            }
        };
        // A client that went away does not end what it started.
        connected = connected && writer.write_all(&frame).await.is_ok();
    }
    if connected && let Err(error) = writer.shutdown().await {
        tracing::trace!(%error, "the client closed first");
    }
    reading.abort();
    exit
}
