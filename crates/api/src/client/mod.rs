//! A client of the daemon's API over its unix socket.
//!
//! Every request has a connection of its own: answers that stream for hours (logs, events, wait)
//! then hold up nothing, and a daemon that is replaced between two requests is not noticed.

mod containers;
mod error;
mod exec;
mod images;
mod objects;
mod projects;
mod request;
mod streams;
mod system;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::docker::ErrorResponse;
pub use containers::{AttachOptions, ListContainers, LogOptions, Wait, WaitCondition};
pub use error::{Error, Result};
pub use images::{BuildOptions, ImportOptions};
pub use request::{BodyReceiver, BodySender, Filters, body_channel};
pub use streams::{Hijacked, Input, JsonLines, Output};

use request::Call;

/// The daemon's API at one socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// The connection that proved that somebody answers, for the first request.
    spare: Mutex<Option<UnixStream>>,
}

impl Client {
    /// # Errors
    /// [`Error::Unreachable`] if nobody listens at the socket.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = open(socket).await?;
        Ok(Self {
            socket: socket.to_owned(),
            spare: Mutex::new(Some(stream)),
        })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn take_spare(&self) -> Option<UnixStream> {
        self.spare.lock().ok()?.take()
    }

    /// Sends the request; an answer that says that it failed is an error.
    async fn send(&self, call: Call) -> Result<Response<Incoming>> {
        let stream = match self.take_spare() {
            Some(stream) => stream,
            None => open(&self.socket).await?,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(Error::lost)?;
        tokio::spawn(connection.with_upgrades());

        let name = format!("{} {}", call.method, call.target);
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.target)
            .header(HOST, "bulkhead");
        if let Some(content_type) = call.content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        for (header, value) in call.headers {
            request = request.header(header, value);
        }
        let request = request.body(call.body).map_err(|source| Error::Malformed {
            request: name.clone(),
            source: source.into(),
        })?;
        let response = sender.send_request(request).await.map_err(Error::lost)?;
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(response);
        }
        let body = collect(response).await?;
        let message = match serde_json::from_slice::<ErrorResponse>(&body) {
            Ok(error) => error.message,
            Err(_) if body.is_empty() => format!("the daemon answered {name} with {status}"),
            Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
        };
        Err(Error::Daemon {
            status: status.as_u16(),
            message,
        })
    }

    /// For requests whose answer has no body.
    async fn done(&self, call: Call) -> Result<()> {
        self.send(call).await.map(drop)
    }

    async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let name = format!("{} {}", call.method, call.target);
        let response = self.send(call).await?;
        let body = collect(response).await?;
        serde_json::from_slice(&body).map_err(|source| Error::Malformed {
            request: name,
            source: source.into(),
        })
    }

    async fn lines<T: DeserializeOwned>(&self, call: Call) -> Result<JsonLines<T>> {
        let name = format!("{} {}", call.method, call.target);
        Ok(JsonLines::new(name, self.send(call).await?.into_body()))
    }

    /// Turns the connection into a stream in both directions.
    async fn hijack(&self, mut call: Call, terminal: bool) -> Result<Hijacked> {
        call.headers.push((CONNECTION.as_str(), "Upgrade".into()));
        call.headers.push((UPGRADE.as_str(), "tcp".into()));
        let name = format!("{} {}", call.method, call.target);
        let response = self.send(call).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::Malformed {
                request: name,
                source: format!("status {} instead of 101", response.status()).into(),
            });
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(Error::lost)?;
        Ok(Hijacked::new(TokioIo::new(upgraded), terminal))
    }
}

async fn open(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket)
        .await
        .map_err(|source| Error::Unreachable {
            socket: socket.to_owned(),
            source,
        })
}

async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    let body = response.into_body().collect().await.map_err(Error::lost)?;
    Ok(body.to_bytes())
}
