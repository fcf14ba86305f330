//! How a request is written: its path, query and body.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Method;
use hyper::body::{Body, Frame};
use serde::Serialize;
use tokio::sync::mpsc;

/// What `GET` on a list asks for: each key's values are alternatives.
pub type Filters = BTreeMap<String, Vec<String>>;

/// The sending side of a body that is made while it is sent. An error breaks the request off.
pub type BodySender = mpsc::Sender<io::Result<Bytes>>;
pub type BodyReceiver = mpsc::Receiver<io::Result<Bytes>>;

/// A body that is made while it is sent, and the side to write to.
pub fn body_channel() -> (BodySender, BodyReceiver) {
    mpsc::channel(8)
}

pub(super) enum RequestBody {
    Empty,
    Whole(Bytes),
    Streamed(BodyReceiver),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(data) => {
                let data = std::mem::take(data);
                *self = RequestBody::Empty;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            RequestBody::Streamed(receiver) => receiver
                .poll_recv(context)
                .map(|data| data.map(|data| data.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            RequestBody::Empty => hyper::body::SizeHint::with_exact(0),
            RequestBody::Whole(data) => hyper::body::SizeHint::with_exact(data.len() as u64),
            RequestBody::Streamed(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// A request as it is put together.
pub(super) struct Call {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) body: RequestBody,
    pub(super) content_type: Option<&'static str>,
    pub(super) headers: Vec<(&'static str, String)>,
    has_query: bool,
}

impl Call {
    /// `segments` are joined with slashes and escaped, except that a slash inside one stays: the
    /// names of images have them.
    pub(super) fn new(method: Method, segments: &[&str]) -> Self {
        let mut target = String::new();
        for segment in segments {
            target.push('/');
            escape(segment, b"/:@", &mut target);
        }
        Self {
            method,
            target,
            body: RequestBody::Empty,
            content_type: None,
            headers: Vec::new(),
            has_query: false,
        }
    }

    pub(super) fn get(segments: &[&str]) -> Self {
        Self::new(Method::GET, segments)
    }

    pub(super) fn post(segments: &[&str]) -> Self {
        Self::new(Method::POST, segments)
    }

    pub(super) fn delete(segments: &[&str]) -> Self {
        Self::new(Method::DELETE, segments)
    }

    pub(super) fn query(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.target.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.target.push_str(name);
        self.target.push('=');
        escape(value.as_ref(), b"/:", &mut self.target);
        self
    }

    pub(super) fn optional(self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds the parameter only where it is true: false is Docker's default everywhere.
    pub(super) fn flag(self, name: &str, value: bool) -> Self {
        if value { self.query(name, "1") } else { self }
    }

    pub(super) fn filters(self, filters: &Filters) -> Self {
        if filters.is_empty() {
            return self;
        }
        self.query("filters", json(filters))
    }

    pub(super) fn json(mut self, value: &impl Serialize) -> Self {
        self.body = RequestBody::Whole(json(value).into());
        self.content_type = Some("application/json");
        self
    }

    pub(super) fn tar(mut self, body: BodyReceiver) -> Self {
        self.body = RequestBody::Streamed(body);
        self.content_type = Some("application/x-tar");
        self
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("types of the API have no maps with keys that are no text")
}

fn escape(text: &str, keep: &[u8], output: &mut String) {
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            output.push(char::from(byte));
        } else {
            let _: Result<(), Infallible> = write!(output, "%{byte:02X}").or(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_escaped() {
        let call = Call::get(&["images", "localhost:5000/a b:1", "json"])
            .query("name", "x&y=1/2")
            .flag("force", true)
            .flag("quiet", false)
            .optional("none", None::<&str>);
        assert_eq!(
            call.target,
            "/images/localhost:5000/a%20b:1/json?name=x%26y%3D1/2&force=1"
        );
    }

    #[test]
    fn filters_are_a_json_object_of_lists() {
        let filters = Filters::from([("label".to_owned(), vec!["a=b".to_owned()])]);
        let call = Call::get(&["events"]).filters(&filters);
        assert_eq!(
            call.target,
            "/events?filters=%7B%22label%22:%5B%22a%3Db%22%5D%7D"
        );
        assert_eq!(
            Call::get(&["events"]).filters(&Filters::new()).target,
            "/events"
        );
    }
}
