//! Bodies on their way through: streamed frame by frame, never collected, so that the slower side
//! sets the pace and the size does not matter.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::exchange::Exchange;
use crate::pool::Lease;

/// A request's body on its way to a replica; counts its bytes.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Streamed {
        body: Incoming,
        bytes: Arc<AtomicU64>,
    },
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, bytes: Arc<AtomicU64>) -> Self {
        match body.is_end_stream() {
            true => Self::Empty,
            false => Self::Streamed { body, bytes },
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streamed { body, bytes } => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed { body, .. } => body.size_hint(),
        }
    }
}

/// A response's body on its way to the client. Holds the request's record, which is thereby
/// written when the last byte was taken or the client went away.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// A page of the gateway's own.
    Page {
        content: Option<Bytes>,
        exchange: Box<Exchange>,
    },
    Streamed {
        body: Incoming,
        exchange: Box<Exchange>,
        /// The connection to the replica; goes back to the pool after the last byte, and is closed
        /// if the body is abandoned.
        lease: Option<Lease>,
    },
    /// The response to an upgrade, whose exchange goes on in the tunnel.
    Upgraded,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Upgraded => Poll::Ready(None),
            Self::Page { content, exchange } => Poll::Ready(content.take().map(|content| {
                exchange.sent(content.len() as u64);
                Ok(Frame::data(content))
            })),
            Self::Streamed {
                body,
                exchange,
                lease,
            } => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(context));
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            exchange.sent(data.len() as u64);
                        }
                    }
                    Some(Err(error)) => {
                        exchange.failed(format!("the response broke off: {error}"));
                        *lease = None;
                    }
                    None => {}
                }
                // hyper asks no more after the last byte of a known length.
                if frame.is_none() || body.is_end_stream() {
                    give_back(lease);
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upgraded => true,
            Self::Page { content, .. } => content.is_none(),
            Self::Streamed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upgraded => SizeHint::with_exact(0),
            Self::Page { content, .. } => {
                SizeHint::with_exact(content.as_ref().map_or(0, |content| content.len() as u64))
            }
            Self::Streamed { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    /// A body that was empty from the start is never asked for a frame.
    fn drop(&mut self) {
        if let Self::Streamed { body, lease, .. } = self
            && body.is_end_stream()
        {
            give_back(lease);
        }
    }
}

fn give_back(lease: &mut Option<Lease>) {
    if let Some(lease) = lease.take() {
        lease.give_back();
    }
}
