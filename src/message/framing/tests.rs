//! The rules, case by case, each with the section it comes from: "9112 5.1" is RFC 9112, section 5.1.

use super::*;
use crate::model::Reason::{self, BadRequest, HeadersTooLarge, TargetTooLong};

const LIMITS: HeadLimits = HeadLimits { bytes: 512, fields: 8, target: 64 };

fn head(bytes: &[u8]) -> Result<Option<Head>, Fault> {
    Scan::default().feed(bytes, &LIMITS)
}

/// Fed byte by byte, the outcome must be the same. An error may come earlier than at the end.
fn head_in_pieces(bytes: &[u8]) -> Result<Option<Head>, Fault> {
    let mut scan = Scan::default();
    for end in 1..bytes.len() {
        if let Some(head) = scan.feed(&bytes[..end], &LIMITS)? {
            return Ok(Some(head));
        }
    }
    scan.feed(bytes, &LIMITS)
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A head with one thing that matters in it.
fn get(rest: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: x\r\n{rest}\r\n\r\n").into_bytes()
}

fn target(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

fn host(value: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost:{value}\r\n\r\n").into_bytes()
}

#[test]
fn heads_that_pass() {
    let empty = Framing::Empty;
    let cases: Vec<(&str, Vec<u8>, Framing)> = vec![
        ("9112 2.1 plain", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), empty),
        ("9112 2.2 a leading empty line", b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), empty),
        ("9112 2.2 several", b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), empty),
        ("9112 2.3 HTTP/1.0 needs no Host", b"GET / HTTP/1.0\r\n\r\n".into(), empty),
        ("9112 2.3 HTTP/1.0 with Host", b"GET / HTTP/1.0\r\nHost: x\r\n\r\n".into(), empty),
        ("9110 9.1 unknown method", b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n".into(), empty),
        ("9110 9.1 a method is a token", b"M-S_E.A!#$%&'*+^`|~9 / HTTP/1.1\r\nHost: x\r\n\r\n".into(), empty),
        ("9112 3.2.1 query", target("/a/b?c=d&e=%20"), empty),
        ("9112 3.2.1 empty query", target("/?"), empty),
        ("9112 3.2.1 a second ? is data", target("/a?b?c/d"), empty),
        ("9112 3.2.1 two slashes", target("//a//b"), empty),
        ("9112 3.2.1 dots stay", target("/a/../b/./c"), empty),
        ("3986 3.3 every pchar", target("/-._~!$&'()*+,;=:@%41"), empty),
        ("http::Uri takes more in a path", target("/\"{}|[]^\\"), empty),
        ("http::Uri takes more in a query", target("/?{}|[]^\\`"), empty),
        ("9112 3.2.2 absolute-form", target("http://x/a?b"), empty),
        ("9112 3.2.2 https", b"GET https://x:8443/a HTTP/1.1\r\nHost: X:8443\r\n\r\n".into(), empty),
        ("9110 4.2.3 a scheme's own port may be left out", target("http://x:80/a"), empty),
        ("9110 4.2.3 also in Host", b"GET https://x/ HTTP/1.1\r\nHost: x:443\r\n\r\n".into(), empty),
        ("9112 3.2 HTTP/1.0 may leave Host away", b"GET http://x/ HTTP/1.0\r\n\r\n".into(), empty),
        ("9110 4.2.3 schemes have no case", target("HTTP://x/a"), empty),
        ("3986 3.3 without a path", target("http://x"), empty),
        ("3986 3.4 without a path, with a query", target("http://x?a=b"), empty),
        ("9112 3.2.2 IPv6 authority", b"GET http://[::1]:80/a HTTP/1.1\r\nHost: [::1]\r\n\r\n".into(), empty),
        ("9112 3.2.4 asterisk-form", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n".into(), empty),
        ("9110 7.2 port", host(" a.example:8080"), empty),
        ("3986 3.2.3 empty port", host(" a.example:"), empty),
        ("9110 7.2 IPv4", host(" 127.0.0.1:80"), empty),
        ("3986 3.2.2 IPv6", host(" [2001:db8::1]"), empty),
        ("3986 3.2.2 IPv6 and port", host(" [::1]:65535"), empty),
        ("3986 3.2.2 underscore and tilde", host(" my_host~1"), empty),
        ("3986 3.2.2 sub-delims", host(" a!$&'()*+,;=b"), empty),
        ("9112 5 no space before the value", host("x"), empty),
        ("9112 5 tabs around the value", host("\tx\t "), empty),
        ("9110 5.1 names have no case", b"GET / HTTP/1.1\r\nhOsT: x\r\n\r\n".into(), empty),
        ("9110 5.5 empty value", get("A:"), empty),
        ("9110 5.5 only white space", get("A: \t "), empty),
        ("9110 5.5 tab inside", get("A: b\tc"), empty),
        ("9110 5.5 obs-text", [&b"GET / HTTP/1.1\r\nHost: x\r\nA: "[..], b"\xe9\xff\x80\r\n\r\n"].concat(), empty),
        ("9110 5.6.2 every tchar in a name", get("!#$%&'*+-.^_`|~aZ09: x"), empty),
        ("9110 5.3 a field twice", get("A: 1\r\nA: 2"), empty),
        ("9112 6.2 Content-Length", get("Content-Length: 5"), Framing::Length(5)),
        ("9110 8.6 zero", get("Content-Length: 0"), empty),
        ("9110 8.6 1*DIGIT: leading zeros", get("Content-Length: 0005"), Framing::Length(5)),
        ("9110 8.6 white space around it", get("Content-Length:\t5 "), Framing::Length(5)),
        ("9110 8.6 many digits", get("Content-Length: 18446744073709551612"), Framing::Length(u64::MAX - 3)),
        ("9112 6.1 chunked", get("Transfer-Encoding: chunked"), Framing::Chunked),
        ("9112 7 codings have no case", get("tRANSFER-eNCODING: ChunKed"), Framing::Chunked),
        ("9110 10.1.4 TE does not frame", get("TE: trailers, gzip"), empty),
        ("9110 7.6.1 Connection", get("Connection: close"), empty),
        ("9110 7.8 Upgrade is for the service", get("Connection: upgrade\r\nUpgrade: x"), empty),
    ];
    for (rule, bytes, framing) in &cases {
        let found = head(bytes);
        let Ok(Some(found)) = found else { panic!("{rule}: {} -> {found:?}", text(bytes)) };
        assert_eq!(found.framing, *framing, "{rule}");
        assert_eq!(found.end, bytes.len(), "{rule}");
        assert_eq!(head_in_pieces(bytes).unwrap().as_ref(), Some(&found), "{rule}: in pieces");
        for end in 0..bytes.len() {
            assert_eq!(head(&bytes[..end]), Ok(None), "{rule}: cut at {end}");
        }
    }
    assert!(cases.len() > 40);
}

#[test]
fn heads_that_are_refused() {
    let long = "a".repeat(65);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        // The request line.
        ("9112 2.2 too many empty lines", b"\r\n".repeat(9), "empty lines"),
        ("9112 2.2 bare CR in front", b"\rGET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), "bare CR"),
        ("9112 2.2 bare LF in front", b"\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), "LF"),
        ("9112 2.2 white space in front", b" GET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), "method"),
        ("9112 2.2 bare LF ends the request line", b"GET / HTTP/1.1\nHost: x\r\n\r\n".into(), "LF"),
        ("9112 2.2 bare LF ends a field", b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n".into(), "LF"),
        ("9112 2.2 bare LF ends the head", b"GET / HTTP/1.1\r\nHost: x\r\n\n".into(), "LF"),
        ("9112 2.2 only LFs", b"GET / HTTP/1.1\nHost: x\n\n".into(), "LF"),
        ("9112 2.3 HTTP/0.9", b"GET /\r\n".into(), "request line"),
        ("9112 2.3 HTTP/1.2", b"GET / HTTP/1.2\r\nHost: x\r\n\r\n".into(), "request line"),
        ("9112 2.3 HTTP/2.0", b"GET / HTTP/2.0\r\nHost: x\r\n\r\n".into(), "request line"),
        ("9112 2.3 HTTP/1.10", b"GET / HTTP/1.10\r\nHost: x\r\n\r\n".into(), "request line"),
        ("9112 2.3 HTTP/1", b"GET / HTTP/1\r\nHost: x\r\n\r\n".into(), "request line"),
        ("9112 2.3 HTTP-name has case", b"GET / http/1.1\r\nHost: x\r\n\r\n".into(), "request line"),
        ("9112 2.3 another protocol", b"GET / RTSP/1.1\r\nHost: x\r\n\r\n".into(), "request line"),
        ("9113 3.4 HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "request line"),
        ("9112 3 two spaces before the target", b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n".into(), "target"),
        ("9112 3 two spaces after the target", b"GET /  HTTP/1.1\r\nHost: x\r\n\r\n".into(), "target"),
        ("9112 3 tab for space", b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n".into(), "method"),
        ("9112 3 space at the end", b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n".into(), "request line"),
        ("9112 3 no method", b" / HTTP/1.1\r\nHost: x\r\n\r\n".into(), "method"),
        ("9112 3 no target", b"GET HTTP/1.1\r\nHost: x\r\n\r\n".into(), "request line"),
        ("9112 3 empty target", b"GET  HTTP/1.1\r\nHost: x\r\n\r\n".into(), "target"),
        ("9112 3 space in the target", target("/a b"), "target"),
        ("9110 9.1 a method is a token", b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n".into(), "method"),
        ("9110 9.1 NUL in the method", b"G\0T / HTTP/1.1\r\nHost: x\r\n\r\n".into(), "method"),
        ("a TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".into(), "method"),
        ("a method without end", b"A".repeat(80), "method"),
        // Targets.
        ("9112 3.2 no form", target("a/b"), "neither"),
        ("9112 3.2 dot", target("."), "neither"),
        ("9112 3.2 question mark", target("?a"), "neither"),
        ("9112 3.2 no fragment", target("/a#b"), "character"),
        ("9112 3.2 no fragment after a query", target("/a?b#c"), "character"),
        ("3986 3.3 NUL", target("/a\0b"), "character"),
        ("3986 3.3 DEL", target("/a\x7fb"), "character"),
        ("3986 3.3 tab", target("/a\tb"), "character"),
        ("3986 3.3 escape", target("/a\x1bb"), "character"),
        ("3986 3.3 not ASCII", target("/\u{e9}"), "character"),
        ("3986 3.4 not ASCII", target("/?\u{e9}"), "character"),
        ("3986 3.3 angle brackets", target("/<a>"), "character"),
        ("3986 3.4 angle brackets", target("/?<a>"), "character"),
        ("http::Uri: back-tick in a path", target("/`"), "character"),
        ("http::Uri: quote in a query", target("/?\""), "character"),
        ("9112 2.2 bare CR in the target", b"GET /a\rb HTTP/1.1\r\nHost: x\r\n\r\n".into(), "character"),
        ("9112 3.2.2 another scheme", target("ftp://x/a"), "neither"),
        ("9112 3.2.2 one slash", target("http:/x/a"), "neither"),
        ("9110 4.2.1 empty host", target("http:///a"), "authority"),
        ("9110 4.2.4 user information", target("http://u@x/a"), "authority"),
        ("9110 4.2.4 user and password", target("http://u:p@x/a"), "authority"),
        ("3986 3.2.3 port is a number", target("http://x:y/a"), "authority"),
        ("3986 3.2.2 broken IPv6", target("http://[::1/a"), "authority"),
        ("9112 3.2.3 CONNECT", b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n".into(), "CONNECT"),
        ("9112 3.2.3 CONNECT with a path", b"CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n".into(), "CONNECT"),
        ("9112 3.2.3 authority-form without it", target("x:443"), "neither"),
        ("9112 3.2.4 * with GET", target("*"), "asterisk"),
        ("9112 3.2.4 * and more", b"OPTIONS *a HTTP/1.1\r\nHost: x\r\n\r\n".into(), "neither"),
        // Host.
        ("9112 3.2 none", b"GET / HTTP/1.1\r\n\r\n".into(), "no Host"),
        ("9112 3.2 none beside others", b"GET / HTTP/1.1\r\nA: b\r\n\r\n".into(), "no Host"),
        ("9112 3.2 none in absolute-form", b"GET http://x/ HTTP/1.1\r\n\r\n".into(), "no Host"),
        ("9112 3.2 two", host(" x\r\nHost: y"), "more than one Host"),
        ("9112 3.2 two equal", host(" x\r\nHost: x"), "more than one Host"),
        ("9112 3.2 two in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n".into(), "more than one Host"),
        ("9110 4.2.1 empty", host(""), "invalid Host"),
        ("9110 7.2 space", host(" a b"), "invalid Host"),
        ("9110 7.2 user information", host(" x@evil"), "invalid Host"),
        ("9110 7.2 two ports", host(" a:80:81"), "invalid Host"),
        ("9110 7.2 only a port", host(" :80"), "invalid Host"),
        ("9110 7.2 port out of range", host(" a:65536"), "invalid Host"),
        ("9110 7.2 port with a sign", host(" a:+80"), "invalid Host"),
        ("9110 7.2 long port", host(" a:000080"), "invalid Host"),
        ("9110 7.2 path", host(" a/b"), "invalid Host"),
        ("9110 7.2 query", host(" a?b"), "invalid Host"),
        ("9110 7.2 fragment", host(" a#b"), "invalid Host"),
        ("9110 7.2 back-slash", host(" a\\b"), "invalid Host"),
        ("9110 7.2 scheme", host(" http://a"), "invalid Host"),
        ("9110 7.2 percent", host(" a%20b"), "invalid Host"),
        ("9110 7.2 not ASCII", host(" \u{e9}"), "invalid Host"),
        ("3986 3.2.2 IPv6 without brackets", host(" ::1"), "invalid Host"),
        ("3986 3.2.2 open bracket", host(" [::1"), "invalid Host"),
        ("3986 3.2.2 closed bracket", host(" ::1]"), "invalid Host"),
        ("3986 3.2.2 nothing in brackets", host(" []"), "invalid Host"),
        ("3986 3.2.2 name in brackets", host(" [a]"), "invalid Host"),
        ("3986 3.2.2 text after brackets", host(" [::1]a"), "invalid Host"),
        ("6874 zone", host(" [fe80::1%25eth0]"), "invalid Host"),
        // Fields.
        ("7.6.1 many connection options", get(&format!("Connection: {}x", "a,".repeat(32))), "connection options"),
        ("7.6.1 on several lines", get(&"Connection: a,b,c,d,e,f\r\n".repeat(6)), "connection options"),
        ("9112 5.1 space before the colon", get("A : b"), "field name"),
        ("9112 5.1 tab before the colon", get("A\t: b"), "field name"),
        ("9112 5.1 space before Content-Length's", get("Content-Length : 5"), "field name"),
        ("9112 5.1 no name", get(": b"), "field name"),
        ("9112 5 no colon", get("A"), "colon"),
        ("9112 5.2 folding", get("A: b\r\n c"), "folding"),
        ("9112 5.2 folding with a tab", get("A: b\r\n\tc"), "folding"),
        ("9112 2.2 white space before the first field", b"GET / HTTP/1.1\r\n Host: x\r\n\r\n".into(), "folding"),
        ("9110 5.1 space in a name", get("A b: c"), "field name"),
        ("9110 5.1 bracket in a name", get("A[1]: c"), "field name"),
        ("9110 5.1 not ASCII in a name", get("\u{e9}: c"), "field name"),
        ("9110 5.1 NUL in a name", get("A\0: c"), "field name"),
        ("9110 5.5 NUL in a value", get("A: b\0c"), "control"),
        ("9110 5.5 bare CR in a value", get("A: b\rc"), "control"),
        ("9110 5.5 CR before the end of the line", get("A: b\r"), "control"),
        ("9110 5.5 DEL in a value", get("A: \x7f"), "control"),
        ("9110 5.5 escape in a value", get("A: \x1b[0m"), "control"),
        ("9110 5.5 form feed in a value", get("A: \x0c"), "control"),
        // Framing.
        ("9110 8.6 sign", get("Content-Length: +5"), "Content-Length"),
        ("9110 8.6 minus", get("Content-Length: -5"), "Content-Length"),
        ("9110 8.6 hexadecimal", get("Content-Length: 0x5"), "Content-Length"),
        ("9110 8.6 fraction", get("Content-Length: 5.0"), "Content-Length"),
        ("9110 8.6 empty", get("Content-Length:"), "Content-Length"),
        ("9110 8.6 text", get("Content-Length: five"), "Content-Length"),
        ("9110 8.6 space inside", get("Content-Length: 5 5"), "Content-Length"),
        ("9110 8.6 other digits", get("Content-Length: \u{0665}"), "Content-Length"),
        ("9110 8.6 overflow", get("Content-Length: 18446744073709551616"), "Content-Length"),
        ("9110 8.6 overflow by far", get(&format!("Content-Length: 9{}", "0".repeat(40))), "Content-Length"),
        ("more than some parsers can count", get("Content-Length: 18446744073709551615"), "Content-Length"),
        ("9110 8.6 list", get("Content-Length: 5, 5"), "Content-Length"),
        ("9110 8.6 list that differs", get("Content-Length: 5, 6"), "Content-Length"),
        ("9112 6.3 two that differ", get("Content-Length: 5\r\nContent-Length: 6"), "more than one Content-Length"),
        ("9112 6.3 two that agree", get("Content-Length: 5\r\nContent-Length: 5"), "more than one Content-Length"),
        ("9112 6.3 with chunked", get("Content-Length: 5\r\nTransfer-Encoding: chunked"), "and Content-Length"),
        ("9112 6.3 chunked first", get("Transfer-Encoding: chunked\r\nContent-Length: 5"), "and Content-Length"),
        ("9112 6.3 zero with chunked", get("Content-Length: 0\r\nTransfer-Encoding: chunked"), "and Content-Length"),
        ("9112 6.1 chunked not last", get("Transfer-Encoding: chunked, identity"), "other than chunked"),
        ("9112 6.1 gzip, chunked", get("Transfer-Encoding: gzip, chunked"), "other than chunked"),
        ("9112 6.1 identity", get("Transfer-Encoding: identity"), "other than chunked"),
        ("9112 6.1 gzip", get("Transfer-Encoding: gzip"), "other than chunked"),
        ("9112 6.1 empty", get("Transfer-Encoding:"), "other than chunked"),
        ("9112 6.1 comma", get("Transfer-Encoding: chunked,"), "other than chunked"),
        ("9112 6.1 comma first", get("Transfer-Encoding: ,chunked"), "other than chunked"),
        ("9112 6.1 twice in a line", get("Transfer-Encoding: chunked, chunked"), "other than chunked"),
        ("9112 6.1 quoted", get("Transfer-Encoding: \"chunked\""), "other than chunked"),
        ("9112 6.1 parameter", get("Transfer-Encoding: chunked;q=1"), "other than chunked"),
        ("9112 6.1 prefix", get("Transfer-Encoding: xchunked"), "other than chunked"),
        ("9112 6.1 vertical tab", get("Transfer-Encoding: \x0bchunked"), "control"),
        ("9112 6.1 two lines", get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), "more than one Tr"),
        (
            "9112 6.1 two lines that differ",
            get("Transfer-Encoding: chunked\r\nTransfer-Encoding: x"),
            "more than one Tr",
        ),
        (
            "9112 6.1 in HTTP/1.0",
            b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            "in HTTP/1.0",
        ),
    ];
    for (rule, bytes, detail) in &cases {
        for (how, found) in [("whole", head(bytes)), ("pieces", head_in_pieces(bytes))] {
            let Err(fault) = found else { panic!("{rule} ({how}): {} -> {found:?}", text(bytes)) };
            assert_eq!(fault.reason, BadRequest, "{rule} ({how})");
            assert!(how == "pieces" || fault.detail.contains(detail), "{rule}: {}", fault.detail);
        }
    }
    assert!(cases.len() >= 120, "{}", cases.len());
    let sized: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("9112 3 target", target(&format!("/{long}")), TargetTooLong),
        ("9112 3 target without end", format!("GET /{}", "a".repeat(400)).into_bytes(), TargetTooLong),
        ("9112 3 target longer than a head", format!("GET /{}", "a".repeat(600)).into_bytes(), TargetTooLong),
        ("9112 3 a bad one that is long", target(&format!("/#{long}")), TargetTooLong),
        ("6585 5 fields", get("A: b\r\n".repeat(8).trim_end()), HeadersTooLarge),
        ("6585 5 fields that are left away", get("X_Forwarded_For: b\r\n".repeat(8).trim_end()), HeadersTooLarge),
        ("6585 5 bytes", get(&format!("A: {}", "b".repeat(600))), HeadersTooLarge),
        ("6585 5 without end", format!("GET / HTTP/1.1\r\nHost: {}", "x".repeat(600)).into_bytes(), HeadersTooLarge),
    ];
    for (rule, bytes, reason) in &sized {
        for found in [head(bytes), head_in_pieces(bytes)] {
            assert_eq!(found.map_err(|fault| fault.reason), Err(*reason), "{rule}");
        }
    }
}

#[test]
fn a_head_may_be_as_large_as_the_limits_say() {
    let fill = |n: usize| get(&format!("A: {}", "b".repeat(n)));
    let room = LIMITS.bytes - fill(0).len();
    assert!(head(&fill(room)).unwrap().is_some());
    assert!(head(&fill(room + 1)).is_err());
    assert!(head(&target(&format!("/{}", "a".repeat(LIMITS.target - 1)))).unwrap().is_some());
    assert!(head(&get("A: b\r\n".repeat(7).trim_end())).unwrap().is_some());
}

#[test]
fn an_expectation_counts_only_where_a_body_may_come() {
    let expects = |bytes: &[u8]| head(bytes).unwrap().unwrap().expects_continue;
    assert!(expects(&get("Content-Length: 1\r\nExpect: 100-Continue")));
    assert!(!expects(&get("Expect: 100-continue")));
    assert!(!expects(&get("Content-Length: 1\r\nExpect: something")));
    assert!(expects(&get("Content-Length: 1\r\nExpect: 100-continue\r\nExpect: something")));
    assert!(!expects(b"POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"));
}

#[test]
fn fields_that_could_pass_for_others_are_left_away() {
    let bytes = get("Content_Length: 5\r\nA_b: c\r\nTransfer_Encoding: chunked\r\nX_FORWARDED_FOR: 192.0.2.1");
    let found = head(&bytes).unwrap().unwrap();
    assert_eq!(found.framing, Framing::Empty);
    assert_eq!(head_in_pieces(&bytes).unwrap().as_ref(), Some(&found));
    let values: Vec<_> = found.fields.iter().map(|field| text(field.value(&bytes))).collect();
    assert_eq!(values, ["x", "c"]);
}

#[test]
fn what_passes_as_a_target_is_a_uri_and_stays_what_it_is() {
    for byte in 0..=u8::MAX {
        for (before, after) in [("/a", "b"), ("/a?", "b"), ("http://x/", ""), ("http://x?", ""), ("http://x", "/")] {
            let bytes = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            if target::check(b"GET", &bytes).is_err() {
                continue;
            }
            let uri = http::Uri::try_from(bytes.as_slice()).unwrap_or_else(|e| panic!("{}: {e}", text(&bytes)));
            // Without a path, http leaves the slash out.
            let path = uri.path_and_query().map_or("", |path| path.as_str());
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            assert_eq!(text(path.as_bytes()), text(&origin_form(&bytes)));
        }
    }
    for (target, expected) in
        [("/a?b", "/a?b"), ("*", "*"), ("http://x", "/"), ("HTTPS://x:1/a", "/a"), ("http://x?b", "/?b")]
    {
        assert_eq!(text(&origin_form(target.as_bytes())), expected);
    }
}

#[test]
fn what_passes_as_a_name_or_a_value_passes_in_http_too() {
    for byte in 0..=u8::MAX {
        let bytes = [b'a', byte, b'b'];
        assert!(!is_token(&bytes) || http::HeaderName::from_bytes(&bytes).is_ok(), "{byte:#x}");
        assert_eq!(is_token(&bytes), http::Method::from_bytes(&bytes).is_ok(), "{byte:#x}");
        assert_eq!(is_value(&bytes), http::HeaderValue::from_bytes(&bytes).is_ok(), "{byte:#x}");
    }
}

/// The data, whether the body is complete, and how many bytes it took.
fn chunks(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, bool, usize), Fault> {
    let (mut chunks, mut data, mut used) = (Chunks::default(), vec![], 0);
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let done = chunks.decode(&mut piece)?;
        assert!(done.data <= done.used && (done.used == piece.len() || chunks.is_end()));
        data.extend_from_slice(&piece[..done.data]);
        used += done.used;
    }
    Ok((data, chunks.is_end(), used))
}

#[test]
fn chunked_bodies_that_pass() {
    let cases: &[(&str, &str, &str)] = &[
        ("9112 7.1", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("9112 7.1 empty", "0\r\n\r\n", ""),
        ("9112 7.1 upper case", "A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("9112 7.1 lower case", "a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("9112 7.1 leading zeros", "0005\r\nhello\r\n000\r\n\r\n", "hello"),
        ("9112 7.1 data like framing", "6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", "\r\n0\r\n\r"),
        ("9112 7.1.1 extension", "5;a=b\r\nhello\r\n0\r\n\r\n", "hello"),
        ("9112 7.1.1 on the last", "5\r\nhello\r\n0;a\r\n\r\n", "hello"),
        ("9112 7.1.1 quoted", "1;a=\"b;\\\"c\"\r\nx\r\n0\r\n\r\n", "x"),
        ("9112 7.1.1 BWS", "1 \t;a = b\r\nx\r\n0\r\n\r\n", "x"),
        ("9112 7.1.2 trailer dropped", "1\r\nx\r\n0\r\nA: b\r\n\r\n", "x"),
        ("9112 7.1.2 trailers dropped", "0\r\nA: b\r\nContent-Length: 9\r\n\r\n", ""),
    ];
    for (rule, sent, kept) in cases {
        let all = format!("{sent}GET /next");
        for piece in 1..=all.len() {
            let (out, end, used) = chunks(all.as_bytes(), piece).unwrap_or_else(|e| panic!("{rule}: {e}"));
            assert_eq!((text(&out), end, used), (text(kept.as_bytes()), true, sent.len()), "{rule} by {piece}");
        }
        for end in 0..sent.len() {
            assert!(!chunks(&sent.as_bytes()[..end], 3).unwrap_or_else(|e| panic!("{rule}: {e}")).1, "{rule} at {end}");
        }
    }
}

#[test]
fn chunked_bodies_that_are_refused() {
    let cases: Vec<(&str, String, &str)> = [
        ("9112 7.1 no size", "\r\nx\r\n0\r\n\r\n", "chunk size"),
        ("9112 7.1 only an extension", ";a\r\n", "chunk size"),
        ("9112 7.1 not hexadecimal", "g\r\n", "chunk size"),
        ("9112 7.1 prefix", "0x5\r\nhello\r\n", "chunk size"),
        ("9112 7.1 sign", "+5\r\nhello\r\n", "chunk size"),
        ("9112 7.1 minus", "-5\r\nhello\r\n", "chunk size"),
        ("9112 7.1 space in front", " 5\r\nhello\r\n", "chunk size"),
        ("9112 7.1 underscore", "5_0\r\n", "chunk size"),
        ("9112 7.1 comma", "5,5\r\n", "chunk size"),
        ("9112 7.1 NUL", "5\0\r\nhello\r\n", "chunk size"),
        ("9112 7.1 overflow", "10000000000000000\r\n", "over the limit"),
        ("9112 7.1 many zeros", "00000000000000005\r\nhello\r\n", "over the limit"),
        ("9112 2.2 bare LF after the size", "5\nhello\r\n0\r\n\r\n", "chunk size"),
        ("9112 2.2 bare CR after the size", "5\rhello\r\n0\r\n\r\n", "bare CR"),
        ("9112 2.2 two CRs", "5\r\r\nhello\r\n0\r\n\r\n", "bare CR"),
        ("9112 7.1 white space after the size", "5 \r\nhello\r\n0\r\n\r\n", "white space"),
        ("9112 7.1 a second size", "5 5\r\nhello\r\n0\r\n\r\n", "white space"),
        ("9112 7.1.1 LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n", "extension"),
        ("9112 7.1.1 NUL in an extension", "5;a\0\r\nhello\r\n0\r\n\r\n", "extension"),
        ("9112 7.1.1 bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", "bare CR"),
        ("9112 7.1 longer than its size", "5\r\nhello!\r\n0\r\n\r\n", "longer"),
        ("9112 7.1 shorter than its size", "6\r\nhello\r\n0\r\n\r\n", "longer"),
        ("9112 7.1 bare LF after the data", "5\r\nhello\n0\r\n\r\n", "longer"),
        ("9112 7.1 bare CR after the data", "5\r\nhello\r0\r\n\r\n", "longer"),
        ("9112 7.1 LF CR after the data", "5\r\nhello\n\r0\r\n\r\n", "longer"),
        ("9112 7.1 bare LF at the end", "0\r\n\n", "trailer"),
        ("9112 7.1 bare CR at the end", "0\r\n\rG", "bare CR"),
        ("9112 7.1.2 no name", "0\r\n: b\r\n\r\n", "trailer name"),
        ("9112 7.1.2 no colon", "0\r\nA\r\n\r\n", "trailer name"),
        ("9112 7.1.2 space before the colon", "0\r\nA : b\r\n\r\n", "trailer name"),
        ("9112 7.1.2 folding", "0\r\nA: b\r\n c\r\n\r\n", "trailer name"),
        ("9112 7.1.2 NUL in a value", "0\r\nA: \0\r\n\r\n", "trailer"),
        ("9112 7.1.2 bare LF after a trailer", "0\r\nA: b\n\r\n", "trailer"),
        ("9112 7.1.2 bare CR in a trailer", "0\r\nA: b\rc\r\n\r\n", "bare CR"),
    ]
    .map(|(rule, bytes, detail)| (rule, bytes.to_owned(), detail))
    .into_iter()
    .chain([
        ("extensions are bounded", format!("1;{}\r\nx\r\n", "a".repeat(4096)), "extensions over"),
        ("over all chunks", format!("1;{}\r\nx\r\n", "a".repeat(99)).repeat(50), "extensions over"),
        ("trailers are bounded", format!("0\r\nA: {}\r\n\r\n", "a".repeat(8192)), "trailers over"),
        ("and many of them", format!("0\r\n{}\r\n", "A: b\r\n".repeat(2000)), "trailers over"),
    ])
    .collect();
    for (rule, bytes, detail) in &cases {
        for piece in [1, 2, 3, 7, bytes.len()] {
            let found = chunks(bytes.as_bytes(), piece);
            let Err(fault) = found else { panic!("{rule}: {}", bytes.escape_debug()) };
            assert_eq!(fault.reason, BadRequest);
            assert!(fault.detail.contains(detail), "{rule}: {}", fault.detail);
        }
    }
}
