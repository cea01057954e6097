//! From a reason to an answer: the only place where the status of an error of ours is chosen.
//!
//! Answers are problem documents (RFC 9457). The client learns the reason word, what was wrong with its request itself,
//! and its request's id, and no more; what really happened stands in the log under the same id.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::grpc;
use super::head::{Response, ResponseHead};
use crate::model::Reason;

/// The status that a reason becomes. 499, in the log alone, stands for a client that went away, or was sent away before its
/// answer had begun.
pub fn status(reason: Reason) -> StatusCode {
    let code = match reason {
        Reason::BadRequest | Reason::NoAsset => 400,
        Reason::NoRoute | Reason::UnknownAsset | Reason::UnknownRegion => 404,
        Reason::MethodNotAllowed => 405,
        Reason::RequestTimeout | Reason::BodyTimeout => 408,
        Reason::RequestTooLarge => 413,
        Reason::TargetTooLong => 414,
        Reason::MisdirectedRequest => 421,
        Reason::RateLimited => 429,
        Reason::HeadersTooLarge => 431,
        Reason::ClientClosed | Reason::SlowReader => 499,
        Reason::TunnelUnsupported => 501,
        Reason::ConnectFailed
        | Reason::UpstreamReset
        | Reason::UpstreamProtocolError
        | Reason::UpstreamTruncated
        | Reason::UpstreamStalled => 502,
        Reason::NoHealthyBackend | Reason::Overloaded | Reason::QueueTimeout | Reason::Draining => 503,
        Reason::UpstreamTimeout | Reason::ExchangeTimeout | Reason::TunnelTimeout => 504,
    };
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
}

/// How a call of gRPC ends for a reason: what the gRPC document "HTTP to gRPC Status Code Mapping" makes of the status, but
/// for what we know better.
pub fn grpc_status(reason: Reason) -> u32 {
    match reason {
        Reason::RequestTimeout | Reason::UpstreamTimeout => grpc::DEADLINE_EXCEEDED,
        Reason::RequestTooLarge | Reason::HeadersTooLarge | Reason::TargetTooLong => grpc::RESOURCE_EXHAUSTED,
        Reason::ClientClosed | Reason::SlowReader => grpc::CANCELLED,
        other => match status(other).as_u16() {
            400 => grpc::INTERNAL,
            404 => grpc::UNIMPLEMENTED,
            429 | 502..=504 => grpc::UNAVAILABLE,
            _ => grpc::UNKNOWN,
        },
    }
}

/// The answer to a call of gRPC for a reason: a head that is its own end ("Trailers-Only").
pub fn call_failed(reason: Reason) -> Response<Bytes> {
    let mut head = ResponseHead::new(StatusCode::OK);
    head.fields.push(b"content-type", grpc::CONTENT_TYPE);
    let status = grpc_status(reason);
    head.fields.push(grpc::STATUS.as_bytes(), itoa::Buffer::new().format(status).as_bytes());
    head.fields.push(grpc::MESSAGE.as_bytes(), grpc::encoded(reason.as_str()).as_bytes());
    head.fields.push(b"server", b"shardgate");
    Response { head, body: Bytes::new() }
}

/// The trailers of a call that we end.
pub fn call_ended(reason: Reason) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(grpc::STATUS, grpc_status(reason).into());
    if let Ok(message) = grpc::encoded(reason.as_str()).parse() {
        trailers.insert(grpc::MESSAGE, message);
    }
    trailers
}

/// The answer for a reason. `detail`: what its client did wrong, if that is known. `request_id`: empty if it has none.
pub fn problem(reason: Reason, detail: Option<&str>, request_id: &str) -> Response<Bytes> {
    let status = status(reason);
    let problem = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        reason: reason.as_str(),
        detail,
        request_id,
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut head = ResponseHead::new(status);
    head.fields.push(b"content-type", b"application/problem+json");
    head.fields.push(b"server", b"shardgate");
    if status == StatusCode::SERVICE_UNAVAILABLE {
        head.fields.push(b"retry-after", b"1");
    }
    Response { head, body: Bytes::from(body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_an_error_status() {
        for &reason in Reason::ALL {
            let status = status(reason);
            assert!(status.is_client_error() || status.is_server_error(), "{reason}: {status}");
            assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{reason}");
        }
    }

    #[test]
    fn a_call_ends_with_a_status_of_its_own() {
        for (reason, expected) in [
            (Reason::BadRequest, 13),
            (Reason::UnknownAsset, 12),
            (Reason::RateLimited, 14),
            (Reason::NoHealthyBackend, 14),
            (Reason::UpstreamReset, 14),
            (Reason::UpstreamTimeout, 4),
            (Reason::RequestTooLarge, 8),
            (Reason::ClientClosed, 1),
            (Reason::MethodNotAllowed, 2),
        ] {
            let response = call_failed(reason);
            assert_eq!((response.head.status.as_u16(), grpc::status(&response.head.fields)), (200, Some(expected)));
            assert_eq!(call_ended(reason)[grpc::MESSAGE], reason.as_str());
            assert!(response.body.is_empty());
        }
    }

    #[test]
    fn a_problem_says_what_and_for_which_request() {
        let response = problem(Reason::NoHealthyBackend, None, "4f\"x");
        assert_eq!(response.head.status, 503);
        assert_eq!(response.head.fields.named("Retry-After").next(), Some(&b"1"[..]));
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "about:blank", "title": "Service Unavailable", "status": 503,
                "reason": "no_healthy_backend", "request_id": "4f\"x",
            })
        );
        let response = problem(Reason::BadRequest, Some("no Host"), "");
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!((&body["detail"], body.get("request_id")), (&"no Host".into(), None));
    }
}
