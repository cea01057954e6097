//! What the head of a response must keep to beyond what hyper checks (RFC 9112, 6.1 to 6.3; RFC 9110, 15.2.2).
//!
//! hyper takes a response with both Content-Length and Transfer-Encoding for chunked and leaves the length among the
//! fields, so a client would wait for bytes that never come; it drops codings that it does not know, so a client would
//! get a coded body without being told; and it takes a 101 that nobody asked for. All are the backend's mistakes, and
//! there is no way to pass such an answer on unharmed.

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Response, StatusCode};

/// What is wrong with a response, if anything.
pub(super) fn fault<B>(response: &Response<B>) -> Option<&'static str> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Some("a change of protocol that was not asked for");
    }
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter();
    let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (None, None) => None,
        (Some(_), Some(_)) => Some("both Content-Length and Transfer-Encoding"),
        (Some(coding), None) => {
            let fits = codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked");
            (!fits).then_some("a transfer coding other than chunked")
        }
        (None, Some(length)) => {
            let fits = lengths.next().is_none() && is_number(length);
            (!fits).then_some("more than one Content-Length, or one that is no number")
        }
    }
}

fn is_number(value: &HeaderValue) -> bool {
    !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_framing_and_that_a_known_one() {
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let table: [(u16, Fields<'_>, bool); 14] = [
            (200, &[], true),
            (200, &[("content-length", "0")], true),
            (200, &[("transfer-encoding", "Chunked")], true),
            (204, &[("x", "y")], true),
            (101, &[], false),
            (200, &[("content-length", "5"), ("transfer-encoding", "chunked")], false),
            (200, &[("content-length", "5"), ("content-length", "5")], false),
            (200, &[("content-length", "5, 5")], false),
            (200, &[("content-length", "+5")], false),
            (200, &[("content-length", "")], false),
            (200, &[("transfer-encoding", "gzip")], false),
            (200, &[("transfer-encoding", "gzip, chunked")], false),
            (200, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            (200, &[("transfer-encoding", "")], false),
        ];
        for (status, fields, good) in table {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            assert_eq!(fault(&response.body(()).unwrap()).is_none(), good, "{status} {fields:?}");
        }
    }
}
