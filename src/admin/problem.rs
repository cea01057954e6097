//! What the admin address answers when it can't do what it was asked: problem documents (RFC 9457), as the data path
//! gives them, with a sentence more, because whoever asks here runs the place.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    /// One word.
    reason: &'static str,
    /// What to do about it.
    detail: String,
    /// The rendered diagnostics of a configuration that was refused.
    errors: Option<String>,
}

impl Problem {
    /// With one word for programs and a sentence for people.
    pub(super) fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self { status, reason, detail: detail.into(), errors: None }
    }

    /// The word.
    pub(super) fn reason(&self) -> &'static str {
        self.reason
    }

    /// A configuration was refused, for these reasons.
    pub(super) fn refused(errors: String) -> Self {
        let detail = "the configuration has errors; the one before stays in force";
        Self { errors: Some(errors), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "configuration_refused", detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut document = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "reason": self.reason,
            "detail": self.detail,
        });
        if let (Some(errors), Some(fields)) = (self.errors, document.as_object_mut()) {
            fields.insert("errors".into(), errors.into());
        }
        let mut response = (self.status, document.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"shardgate\""));
        }
        response
    }
}
