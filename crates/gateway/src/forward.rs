//! Sends a request to a replica, and to another one where that is safe.
//!
//! A request is sent again only if
//! - nothing of it was written: the connection could not be made, or was found closed before the
//!   request was handed to it. This holds for every method and body; or
//! - it is idempotent and has no body (RFC 9110 §9.2.2), and the connection broke before a byte
//!   of the response.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response, Uri};
use hyper::body::Incoming;

use crate::body::RequestBody;
use crate::exchange::Exchange;
use crate::pool::{BackendState, ConnectError, Lease};
use crate::router::{Routes, Target};
use crate::settings::Settings;

/// How often a request that may have been seen by a replica is repeated at most.
const MAX_REPLAYS: u32 = 2;

/// A replica's response, with the connection that it comes over.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There was no replica from the start, or none is left in the route table.
    NoReplica { reason: Option<String> },
    /// No replica could be connected to.
    Unreachable {
        sandbox: String,
        error: ConnectError,
    },
    /// A replica accepted the request, or a part of it, and did not answer.
    Broken {
        sandbox: String,
        error: hyper::Error,
    },
    /// A replica was silent for too long.
    Timeout { sandbox: String, after: Duration },
}

/// What forwarding needs besides the request.
pub(crate) struct Forwarder<'a> {
    pub(crate) routes: &'a Routes,
    pub(crate) settings: &'a Settings,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) exchange: &'a mut Exchange,
    /// The request asks for another protocol: such a connection is never shared.
    pub(crate) upgrade: bool,
}

/// What is needed to form the same request once more.
struct Replay {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    left: u32,
}

enum AttemptError {
    /// The request is returned whole.
    NotSent(Box<Request<RequestBody>>, hyper::Error),
    Broken(hyper::Error),
    Timeout,
}

impl Forwarder<'_> {
    pub(crate) async fn forward(
        mut self,
        mut target: Arc<Target>,
        request: Request<RequestBody>,
    ) -> Result<Answer, Failure> {
        let started = Instant::now();
        let mut replay = Replay::of(&request, self.upgrade);
        let mut request = request;
        let mut pause = Duration::from_millis(25);
        loop {
            let mut unreachable = None;
            for backend in target.order() {
                request = match self.try_backend(backend, request, &mut replay).await? {
                    Tried::Answered(answer) => {
                        self.exchange
                            .answered_by(&backend.backend, started.elapsed());
                        return Ok(answer);
                    }
                    Tried::Unreachable(request, error) => {
                        tracing::debug!(sandbox = backend.sandbox(), %error, "replica not reached");
                        unreachable = Some((backend.sandbox().to_owned(), error));
                        self.exchange.retried();
                        *request
                    }
                };
            }
            let Some((sandbox, error)) = unreachable else {
                let reason = target.route.unavailable_reason.clone();
                return Err(Failure::NoReplica { reason });
            };
            if started.elapsed() + pause > self.settings.connect_window {
                return Err(Failure::Unreachable { sandbox, error });
            }
            // The table is older than the replicas' death: a newer one is under way, or they come
            // back at the same address.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
            match self.routes.current().find(self.host, self.path) {
                Some(current) => target = current.clone(),
                None => return Err(Failure::NoReplica { reason: None }),
            }
        }
    }

    /// Tries idle connections to one replica first, then a new one.
    async fn try_backend(
        &mut self,
        backend: &Arc<BackendState>,
        mut request: Request<RequestBody>,
        replay: &mut Option<Replay>,
    ) -> Result<Tried, Failure> {
        let max_age = match replay {
            Some(_) => self.settings.idle_timeout,
            None => self.settings.idle_timeout_unsafe,
        };
        loop {
            let idle = match self.upgrade {
                true => None,
                false => backend.take_idle(max_age, self.settings),
            };
            let lease = match idle {
                Some(lease) => lease,
                None => match backend.connect(self.settings).await {
                    Ok(lease) => lease,
                    Err(error) => return Ok(Tried::Unreachable(Box::new(request), error)),
                },
            };
            match self.attempt(lease, request).await {
                Ok(answer) => return Ok(Tried::Answered(answer)),
                Err(AttemptError::NotSent(unsent, error)) => {
                    tracing::debug!(%error, "a connection was closed before the request was sent");
                    request = *unsent;
                }
                Err(AttemptError::Broken(error)) => {
                    let again = replay.as_mut().and_then(Replay::again);
                    let Some(again) = again else {
                        let sandbox = backend.sandbox().to_owned();
                        return Err(Failure::Broken { sandbox, error });
                    };
                    request = again;
                }
                Err(AttemptError::Timeout) => {
                    return Err(Failure::Timeout {
                        sandbox: backend.sandbox().to_owned(),
                        after: self.settings.response_timeout,
                    });
                }
            }
            self.exchange.retried();
        }
    }

    async fn attempt(
        &self,
        mut lease: Lease,
        request: Request<RequestBody>,
    ) -> Result<Answer, AttemptError> {
        let timeout = self.settings.response_timeout;
        let bytes_in: &AtomicU64 = &self.exchange.bytes_in;
        let mut seen = bytes_in.load(Ordering::Relaxed);
        let response = lease.sender.try_send_request(request);
        tokio::pin!(response);
        loop {
            match tokio::time::timeout(timeout, &mut response).await {
                Ok(Ok(response)) => return Ok(Answer { response, lease }),
                Ok(Err(mut error)) => {
                    return Err(match error.take_message() {
                        Some(request) => {
                            AttemptError::NotSent(Box::new(request), error.into_error())
                        }
                        None => AttemptError::Broken(error.into_error()),
                    });
                }
                Err(_) => {
                    let now = bytes_in.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(AttemptError::Timeout);
                    }
                    seen = now;
                }
            }
        }
    }
}

enum Tried {
    Answered(Answer),
    Unreachable(Box<Request<RequestBody>>, ConnectError),
}

impl Replay {
    fn of(request: &Request<RequestBody>, upgrade: bool) -> Option<Self> {
        let empty = matches!(request.body(), RequestBody::Empty);
        (empty && !upgrade && request.method().is_idempotent()).then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            left: MAX_REPLAYS,
        })
    }

    fn again(&mut self) -> Option<Request<RequestBody>> {
        self.left = self.left.checked_sub(1)?;
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }
}
