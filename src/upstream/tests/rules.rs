//! What a backend may say, byte by byte: each stream whole, and cut in two at every place.

use http_body::Body as _;

use super::*;

/// What a stream comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    /// A whole answer with this body; `true`: and the connection may be used again.
    Good(u16, &'static str, bool),
    /// No answer: the backend does not speak HTTP/1.1.
    Bad,
    /// No answer: the connection ended first.
    Reset,
    /// A good head, then a body that is cut short or breaks the coding. If all of it came at once, it may be refused
    /// as a whole.
    BadBody,
}
use Is::*;

const GET: Method = Method::GET;

/// Fields and what follows, after `HTTP/1.1 200 OK`; whether the backend closes then; what that is.
const ANSWERS: &[(&str, bool, Is)] = &[
    // Lengths.
    ("Content-Length: 5\r\n\r\nhello", false, Good(200, "hello", true)),
    ("content-length:5\t \r\n\r\nhello", true, Good(200, "hello", false)),
    ("Content-Length: 0\r\n\r\n", false, Good(200, "", true)),
    ("Content-Length: 6\r\n\r\nhello", true, BadBody),
    ("Content-Length: 05\r\n\r\nhello", false, Good(200, "hello", true)),
    ("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", false, Bad),
    ("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", false, Bad),
    ("Content-Length: 5, 5\r\n\r\nhello", false, Bad),
    ("Content-Length: +5\r\n\r\nhello", false, Bad),
    ("Content-Length: -1\r\n\r\nhello", false, Bad),
    ("Content-Length: 0x5\r\n\r\nhello", false, Bad),
    ("Content-Length:\r\n\r\n", false, Bad),
    ("Content-Length: 18446744073709551616\r\n\r\n", false, Bad),
    // Bytes after the end.
    ("Content-Length: 5\r\n\r\nhello!", false, Good(200, "hello", false)),
    ("Content-Length: 0\r\n\r\n\r\n", false, Good(200, "", false)),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n", false, Good(200, "", false)),
    // Chunks.
    ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false, Good(200, "hello", true)),
    (
        "Transfer-encoding:Chunked\r\n\r\n2;a=b\r\nhe\r\n03 \t;c\r\nllo\r\n00\r\nX: y\r\n\r\n",
        false,
        Good(200, "hello", true),
    ),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, Good(200, "", true)),
    ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nhello\r\n0\r\n\r\n", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n", true, BadBody),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\nX: \0\r\n\r\n", true, BadBody),
    // Codings.
    ("Transfer-Encoding: gzip\r\n\r\nx", true, Bad),
    ("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", true, Bad),
    ("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", true, Bad),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, Bad),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", true, Bad),
    ("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", true, Bad),
    ("Transfer-Encoding:\r\n\r\n0\r\n\r\n", true, Bad),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", true, Bad),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, Bad),
    // Until the connection ends.
    ("\r\nhello", true, Good(200, "hello", false)),
    ("\r\n", true, Good(200, "", false)),
    // Who keeps the connection.
    ("Connection: close\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", false)),
    ("Connection: x , Close\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", false)),
    ("Connection: close\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", false)),
    ("Connection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\nConnection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\n\r\n", true, Bad),
    ("Connection: closed\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", true)),
    ("Keep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", false)),
    ("Keep-Alive: timeout=5, max=9\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", true)),
    // Fields.
    ("X: a\0b\r\n\r\n", true, Bad),
    ("X: a\rb\r\n\r\n", true, Bad),
    ("X: a\x7fb\r\n\r\n", true, Bad),
    ("X: a\r\r\n\r\n", true, Bad),
    ("X: a\r\n b\r\n\r\n", true, Bad),
    (" X: a\r\n\r\n", true, Bad),
    ("X : a\r\n\r\n", true, Bad),
    (": a\r\n\r\n", true, Bad),
    ("X\r\n\r\n", true, Bad),
    ("X\u{e9}: a\r\n\r\n", true, Bad),
    ("X: a\n\r\n", true, Bad),
    // Ends too early.
    ("Content-Le", true, Reset),
];

/// Other streams, from their first byte.
const STREAMS: &[(Method, &str, bool, Is)] = &[
    // No body.
    (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, Good(200, "", true)),
    (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, Good(200, "", false)),
    (Method::HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, Good(200, "", true)),
    (Method::HEAD, "HTTP/1.1 200 OK\r\n\r\n", false, Good(200, "", true)),
    (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", false, Bad),
    (GET, "HTTP/1.1 204 No Content\r\n\r\n", false, Good(204, "", true)),
    (GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, Good(304, "", true)),
    (GET, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", false, Good(204, "", false)),
    // The version before.
    (GET, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, Bad),
    (GET, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello", true, Good(200, "hello", false)),
    (GET, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", false)),
    (GET, "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", true)),
    // Interim responses.
    (GET, "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", true)),
    (GET, "HTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 103 E\r\n\r\nHTTP/1.1 204 N\r\n\r\n", false, Good(204, "", true)),
    // What they say of a body means nothing.
    (
        GET,
        "HTTP/1.1 103 E\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
        false,
        Good(204, "", true),
    ),
    (GET, "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false, Bad),
    (GET, "HTTP/1.1 100 Continue\r\n\r\n", true, Reset),
    // Status lines.
    (GET, "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", true)),
    (GET, "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", false, Good(200, "hi", true)),
    (GET, "HTTP/1.1 299 A\tl\u{e9}\r\nContent-Length: 2\r\n\r\nhi", false, Good(299, "hi", true)),
    (GET, "HTTP/1.1 20 OK\r\n\r\n", true, Bad),
    (GET, "HTTP/1.1 2000 OK\r\n\r\n", true, Bad),
    (GET, "HTTP/1.1 099 OK\r\n\r\n", true, Bad),
    (GET, "HTTP/1.1 2x0 OK\r\n\r\n", true, Bad),
    (GET, "HTTP/1.1  200 OK\r\n\r\n", true, Bad),
    (GET, "HTTP/1.1\t200 OK\r\n\r\n", true, Bad),
    (GET, "HTTP/1.1 200 O\rK\r\n\r\n", true, Bad),
    (GET, "HTTP/1.1 200 O\0K\r\n\r\n", true, Bad),
    (GET, "HTTP/1.2 200 OK\r\n\r\n", true, Bad),
    (GET, "HTTP/2.0 200 OK\r\n\r\n", true, Bad),
    (GET, "http/1.1 200 OK\r\n\r\n", true, Bad),
    (GET, "\r\nHTTP/1.1 200 OK\r\n\r\n", true, Bad),
    (GET, " HTTP/1.1 200 OK\r\n\r\n", true, Bad),
    (GET, "HTTP/1.1 200 OK\n\n", false, Bad),
    // What can't become a response is refused before it is complete.
    (GET, "SSH-2.0-OpenSSH\r\n", false, Bad),
    (GET, "", true, Reset),
];

async fn try_one(method: &Method, pieces: &[&[u8]], close: bool) -> Is {
    let rig = Rig::new();
    let far = rig.connect();
    let (got, _far) = tokio::join!(rig.ask(request(method.clone())), answer(far, pieces, close));
    match got {
        Ok(got) => match got.body {
            Ok(body) => {
                let body = String::from_utf8(body.to_vec()).unwrap();
                Good(got.status.as_u16(), body.leak(), rig.pooled().await)
            }
            Err(_) => BadBody,
        },
        Err(error) => {
            assert!(error.wrote);
            assert!(!rig.pooled().await);
            match error.kind {
                ErrorKind::Protocol => Bad,
                ErrorKind::Reset => Reset,
                kind => panic!("{kind:?}"),
            }
        }
    }
}

async fn at_every_place(method: &Method, stream: &[u8], close: bool, expected: Is) {
    let whole: Vec<Vec<&[u8]>> = (0..=stream.len())
        .map(|cut| vec![&stream[..cut], &stream[cut..]])
        .chain([stream.chunks(1).collect()])
        .collect();
    for pieces in whole {
        let is = try_one(method, &pieces, close).await;
        let same = is == expected || (expected == BadBody && is == Bad);
        assert!(same, "{:?}: {is:?}, not {expected:?}", pieces.iter().map(|p| p.escape_ascii().to_string()));
    }
}

#[tokio::test]
async fn every_rule_holds_wherever_the_stream_is_cut() {
    for (rest, close, expected) in ANSWERS {
        let stream = format!("HTTP/1.1 200 OK\r\n{rest}");
        at_every_place(&GET, stream.as_bytes(), *close, *expected).await;
    }
    for (method, stream, close, expected) in STREAMS {
        at_every_place(method, stream.as_bytes(), *close, *expected).await;
    }
}

#[tokio::test]
async fn a_body_that_is_here_is_one_piece_of_known_length() {
    for stream in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ] {
        let rig = Rig::new();
        let far = rig.connect();
        let (got, _far) = tokio::join!(rig.exchange(request(GET)), say(far, stream.as_bytes(), false));
        let mut body = got.unwrap().response.body;
        // The connection is free before anybody has looked at the body.
        assert!(rig.pooled().await);
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test]
async fn heads_and_fields_are_bounded() {
    let fields = |n: usize| format!("HTTP/1.1 204 N\r\n{}\r\n", "a: b\r\n".repeat(n));
    let bytes = |n: usize| format!("HTTP/1.1 204 N\r\na: {}\r\n\r\n", "x".repeat(n - 23));
    let endless = "x".repeat(65 * 1024);
    let interims = |n: usize| format!("{}HTTP/1.1 204 N\r\n\r\n", "HTTP/1.1 103 E\r\n\r\n".repeat(n));
    for (stream, expected) in [
        (fields(200), Good(204, "", true)),
        (fields(201), Bad),
        (bytes(64 * 1024), Good(204, "", true)),
        (bytes(64 * 1024 + 1), Bad),
        (format!("HTTP/1.1 200 {endless}"), Bad),
        (format!("HTTP/1.1 200 OK\r\n{endless}"), Bad),
        (interims(1000), Good(204, "", true)),
        (interims(4000), Bad),
    ] {
        let is = try_one(&GET, &[stream.as_bytes()], false).await;
        assert_eq!(is, expected, "{} bytes of {stream:.50}", stream.len());
    }
}

#[tokio::test]
async fn interim_responses_are_passed_on_in_order_and_not_without_end() {
    let rig = Rig::new();
    let far = rig.connect();
    let stream = format!(
        "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: a\r\nlink: b\r\n\r\n{}HTTP/1.1 200 OK\r\nX: y\r\n\r\n",
        "HTTP/1.1 102 P\r\n\r\n".repeat(30)
    );
    let (got, _) = tokio::join!(rig.ask(request(GET)), say(far, stream.as_bytes(), true));
    let got = got.unwrap();
    assert_eq!((got.status.as_u16(), got.version, got.fields.len()), (200, Version::HTTP_11, 1));
    let interims = rig.interims.borrow();
    let said: Vec<_> = interims.iter().map(|(status, _)| status.as_u16()).collect();
    assert_eq!(said[..3], [100, 103, 102]);
    assert_eq!(said.len(), client::MAX_INTERIM);
    let links: Vec<_> = interims[1].1.get_all("link").iter().collect();
    assert_eq!(links, ["a", "b"]);
}

#[tokio::test]
async fn the_words_of_a_backend_go_through() {
    for (line, expected) in [("200 OK", None), ("200 Fine", Some("Fine")), ("200", Some("")), ("299 OK", Some("OK"))] {
        let rig = Rig::new();
        let far = rig.connect();
        let stream = format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n");
        let (got, _) = tokio::join!(rig.exchange(request(GET)), say(far, stream.as_bytes(), true));
        let response = got.unwrap().response;
        assert_eq!(response.head.reason.as_deref(), expected.map(str::as_bytes), "{line}");
    }
}
