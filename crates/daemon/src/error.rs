//! Errors as Docker's API tells them: a status and `{"message": "…"}`.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_model::{Error, ErrorKind};
use serde_json::json;

#[derive(Debug)]
pub(crate) struct ApiError(pub Error);

/// The longest text of a refusal, in bytes.
const REFUSAL_LIMIT: usize = 64 * 1024;

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

pub(crate) fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidInput | ErrorKind::CommandNotFound | ErrorKind::CommandNotExecutable => {
            StatusCode::BAD_REQUEST
        }
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Host | ErrorKind::Channel => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The text of an error. A stock client tells exit codes 126 and 127 by these very words.
pub(crate) fn message_of(error: &Error) -> String {
    let message = error.to_string();
    let words = match error.kind() {
        ErrorKind::CommandNotFound => "executable file not found in $PATH",
        ErrorKind::CommandNotExecutable => "permission denied",
        _ => return message,
    };
    if message.contains(words) {
        message
    } else {
        format!("{message}: {words}")
    }
}

/// The answer to a request whose handler died.
pub(crate) fn died(error: &tokio::task::JoinError) -> Response {
    tracing::error!(%error, "a handler died");
    let message = "internal error: see the daemon's log";
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        Json(json!({ "message": message })),
    )
        .into_response()
}

/// Refusals of the framework itself (a malformed query, body or method) in the form of all errors.
pub(crate) async fn in_our_form(response: Response) -> Response {
    let status = response.status();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !(status.is_client_error() || status.is_server_error()) || is_json {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), REFUSAL_LIMIT)
        .await
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let message = match text.trim() {
        "" => status.canonical_reason().unwrap_or("refused"),
        text => text,
    };
    // Docker knows no 422 and no 415: a body that cannot be read is a bad request.
    let status = match status {
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            StatusCode::BAD_REQUEST
        }
        status => status,
    };
    (status, Json(json!({ "message": message }))).into_response()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = status_of(self.0.kind());
        if status.is_server_error() {
            tracing::warn!(error = %self.0, "a request failed");
        }
        (status, Json(json!({ "message": message_of(&self.0) }))).into_response()
    }
}
