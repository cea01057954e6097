//! `Max-Forwards` (RFC 9110, 7.6.2): how many more intermediaries an OPTIONS or a TRACE may pass. Of other methods it says
//! nothing. Where none is left, the request has come to whom it was meant for, and that is us.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};

use super::Refused;
use crate::hint::cold_path;
use crate::message::{RequestHead, Response, ResponseHead};
use crate::model::Reason;

pub(super) const NAME: &str = "max-forwards";

/// How many are left, us included. `None`: as many as there are.
///
/// # Errors
/// It is no number, or there are two of them.
pub(super) fn left(head: &RequestHead) -> Result<Option<u64>, Reason> {
    if !matches!(head.method, Method::OPTIONS | Method::TRACE) {
        return Ok(None);
    }
    cold_path();
    let mut values = head.fields.named(NAME);
    let Some(value) = values.next() else { return Ok(None) };
    let digits = str::from_utf8(value).ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    match (digits, values.next()) {
        // What does not fit is more than any way is long.
        (Some(digits), None) => Ok(Some(digits.parse().unwrap_or(u64::MAX))),
        _ => Err(Reason::BadRequest),
    }
}

/// The answer where none is left. A TRACE would have its fields sent back, cookies and all; nobody needs that of us.
pub(super) fn answer(head: &RequestHead) -> Result<Response<Bytes>, Refused> {
    if head.method == Method::TRACE {
        let allow = Some(HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        return Err(Refused { allow, ..Reason::MethodNotAllowed.into() });
    }
    let mut head = ResponseHead::new(StatusCode::OK);
    head.fields.push(b"server", b"shardgate");
    Ok(Response { head, body: Bytes::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_once_of_two_methods() {
        for (method, values, expected) in [
            ("OPTIONS", &["3"][..], Ok(Some(3))),
            ("TRACE", &["0"], Ok(Some(0))),
            ("TRACE", &["007"], Ok(Some(7))),
            ("OPTIONS", &["99999999999999999999999"], Ok(Some(u64::MAX))),
            ("OPTIONS", &[], Ok(None)),
            ("GET", &["0"], Ok(None)),
            ("GET", &["x"], Ok(None)),
            ("OPTIONS", &["+3"], Err(Reason::BadRequest)),
            ("OPTIONS", &["3,3"], Err(Reason::BadRequest)),
            ("OPTIONS", &[""], Err(Reason::BadRequest)),
            ("TRACE", &["3", "3"], Err(Reason::BadRequest)),
        ] {
            let fields = values.iter().map(|value| ("Max-Forwards", value.as_bytes()));
            let head = RequestHead::new(method.parse().unwrap(), "/", fields);
            assert_eq!(left(&head), expected, "{method} {values:?}");
        }
    }
}
