//! Errors as Docker's API tells them: a status and `{"message": "…"}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bulkhead_model::{Error, ErrorKind};
use serde_json::json;

#[derive(Debug)]
pub(crate) struct ApiError(pub Error);

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
    if message.contains(words) { message } else { format!("{message}: {words}") }
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
