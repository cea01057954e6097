//! What a proxy has to know of gRPC: what is a call, how long it may take, how it ended.
//!
//! A call is a request with the content-type `application/grpc`, alone or with `+` and a codec. How it ended stands in
//! `grpc-status`, in the trailers, or in the head of an answer that is nothing else ("Trailers-Only"); the HTTP status is
//! 200 in any case. Source: grpc/doc/PROTOCOL-HTTP2.md.

use std::time::Duration;

use super::fields::{Fields, Known, line};
use super::head::RequestHead;

/// The content-type of an answer of ours.
pub const CONTENT_TYPE: &[u8] = b"application/grpc";
/// How a call ended.
pub const STATUS: &str = "grpc-status";
/// Words for it.
pub const MESSAGE: &str = "grpc-message";
/// How long the client waits.
pub const TIMEOUT: &str = "grpc-timeout";

/// The client has given up.
pub const CANCELLED: u32 = 1;
/// What has no better word.
pub const UNKNOWN: u32 = 2;
/// It took too long.
pub const DEADLINE_EXCEEDED: u32 = 4;
/// Something was too large.
pub const RESOURCE_EXHAUSTED: u32 = 8;
/// There is no such thing here.
pub const UNIMPLEMENTED: u32 = 12;
/// Something is broken.
pub const INTERNAL: u32 = 13;
/// Not now; the only one that invites another try.
pub const UNAVAILABLE: u32 = 14;

/// Whether a request is a call.
pub fn is_call(head: &RequestHead) -> bool {
    head.fields.get(Known::ContentType).is_some_and(is_grpc)
}

fn is_grpc(content_type: &[u8]) -> bool {
    let kind = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let Some((kind, rest)) = kind.split_at_checked(CONTENT_TYPE.len()) else { return false };
    kind.eq_ignore_ascii_case(CONTENT_TYPE) && matches!(rest.first(), None | Some(b'+'))
}

/// How long the client waits, if it says so in a way that can be read.
pub fn timeout(fields: &Fields) -> Option<Duration> {
    fields.named(TIMEOUT).next().and_then(duration)
}

/// `TimeoutValue TimeoutUnit`: up to eight digits and a letter.
fn duration(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes the field for what is left, in the finest unit of which eight digits are enough.
pub fn write_timeout(out: &mut Vec<u8>, left: Duration) {
    const MOST: u128 = 99_999_999;
    let (millis, seconds) = (left.as_millis(), u128::from(left.as_secs()));
    let units =
        [(left.as_micros(), b'u'), (millis, b'm'), (seconds, b'S'), (seconds / 60, b'M'), (seconds / 3600, b'H')];
    let (number, unit) = units.into_iter().find(|(number, _)| *number <= MOST).unwrap_or((MOST, b'H'));
    let mut value = Vec::with_capacity(9);
    value.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    value.push(unit);
    line(out, TIMEOUT.as_bytes(), &value);
}

/// How a call ended, as these fields say it.
pub fn status(fields: &Fields) -> Option<u32> {
    fields.named(STATUS).next().and_then(number)
}

/// A status as it is written.
pub fn number(value: &[u8]) -> Option<u32> {
    let is_short = (1..=3).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    str::from_utf8(value).ok().filter(|_| is_short)?.parse().ok()
}

/// A message as it may stand in a field: all but printable ASCII, and the percent sign, as %XX.
pub fn encoded(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_call() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ] {
            let fields = [("Content-Type", value.as_bytes())];
            assert_eq!(is_call(&RequestHead::new(http::Method::POST, "/a", fields)), expected, "{value}");
        }
    }

    #[test]
    fn timeouts_are_read_and_written() {
        for (text, micros) in [
            ("1H", Some(3_600_000_000)),
            ("2M", Some(120_000_000)),
            ("3S", Some(3_000_000)),
            ("4m", Some(4_000)),
            ("5u", Some(5)),
            ("6000n", Some(6)),
            ("99999999H", Some(99_999_999 * 3_600_000_000)),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("+1S", None),
            ("1x", None),
        ] {
            assert_eq!(duration(text.as_bytes()), micros.map(Duration::from_micros), "{text}");
        }
        for (micros, expected) in [
            (0, "0u"),
            (1_500_000, "1500000u"),
            (99_999_999, "99999999u"),
            (100_000_000, "100000m"),
            (360_000_000_000, "360000S"),
            (u64::MAX, "5124095H"),
        ] {
            let mut out = Vec::new();
            let left = Duration::from_micros(micros);
            let left = if micros == u64::MAX { Duration::from_secs(u64::MAX / 1000) } else { left };
            write_timeout(&mut out, left);
            let text = String::from_utf8(out).unwrap();
            let value = text.strip_prefix("grpc-timeout: ").unwrap().trim_end();
            assert!(value.len() <= 9 && duration(value.as_bytes()).is_some(), "{value}");
            if micros < u64::MAX {
                assert_eq!(value, expected);
            }
        }
    }

    #[test]
    fn messages_are_encoded_and_statuses_are_numbers() {
        assert_eq!(encoded("no_healthy_backend"), "no_healthy_backend");
        assert_eq!(encoded("100% \u{e4}\n"), "100%25 %C3%A4%0A");
        assert_eq!(
            (number(b"14"), number(b"0"), number(b""), number(b"-1"), number(b"1234")),
            (Some(14), Some(0), None, None, None)
        );
    }
}
