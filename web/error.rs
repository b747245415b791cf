//! Errors as clients see them: `{"error": {"code", "message", "position"?}}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use weir_store::query::{Position, QueryError};

use crate::engine::EngineError;

/// Seconds after which a refused client may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A refused or failed request.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    position: Option<Position>,
}

impl ApiError {
    /// `code` is a short word for machines, `message` for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), position: None }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// What stands under `error`.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({ "code": self.code, "message": self.message });
        if let Some(p) = self.position {
            body["position"] = json!({ "line": p.line, "column": p.column });
        }
        body
    }
}

impl From<QueryError> for ApiError {
    fn from(e: QueryError) -> Self {
        let status = match &e {
            QueryError::Syntax { .. }
            | QueryError::Refused(_)
            | QueryError::Name { .. }
            | QueryError::Plan(_) => StatusCode::BAD_REQUEST,
            QueryError::Failed(_) => StatusCode::UNPROCESSABLE_ENTITY,
            QueryError::Busy { .. } | QueryError::Memory(_) => StatusCode::SERVICE_UNAVAILABLE,
            QueryError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            QueryError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        };
        let (code, position) = (e.code(), e.position());
        Self { status, code, message: e.to_string(), position }
    }
}

impl From<EngineError> for ApiError {
    fn from(e: EngineError) -> Self {
        let (status, code) = match &e {
            EngineError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            EngineError::Invalid(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            EngineError::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
            EngineError::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            EngineError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        Self::new(status, code, e.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.body() }));
        let mut response = (self.status, body).into_response();
        let again = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS];
        if again.contains(&self.status) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}
