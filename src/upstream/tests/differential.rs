//! The oracle: hyper's client on the same bytes.
//!
//! Of whatever the codec accepts, hyper must read the same status, fields and body: it is the parser that most of our
//! kind use, and two readings of one stream are how responses are smuggled. The other way round the codec is stricter,
//! on purpose; [`argued`] says where and why, and nothing else may be refused.

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;

use super::*;

/// Rules of ours that hyper does not have, by their words in the log. For each there are parsers that read on in
/// another way than hyper does.
fn argued(detail: &str) -> bool {
    [
        // Tolerated by RFC 9112, 2.2; but a field that reflects what a user sent can then become two.
        "line ends with a bare LF",
        // RFC 9112, 2.2 lets servers skip empty lines before a request, not clients before a response.
        "not a response of HTTP/1",
        // Equal ones may be taken as one (RFC 9110, 8.6), if all who read on do so.
        "more than one Content-Length",
        // Of both, the coding counts (RFC 9112, 6.3), for those who know it; it "ought to be handled as an error".
        "Transfer-Encoding and Content-Length",
        // hyper reads until the connection ends, with the coding still on, and the field that names it is hop-by-hop.
        "Transfer-Encoding other than one chunked",
        // hyper looks at these fields only where there is a body.
        "Transfer-Encoding in HTTP/1.0",
        "invalid Content-Length",
        // Nobody asked for one.
        "a switch that nobody asked for",
        // Of these hyper keeps no count.
        "too many connection options",
        // hyper skips what stands between a chunk's size and its CRLF, and looks at no trailer but to parse it.
        "control character in a chunk extension",
        "white space after a chunk size",
        "invalid trailer name",
        "control character in a trailer",
        "bare CR in a trailer",
        // hyper takes any number of leading zeros.
        "chunk size over the limit",
    ]
    .contains(&detail)
}

/// What a stream comes to. A refusal has the rule that was broken, as far as it is told.
type Read = Result<(u16, Version, HeaderMap, Bytes), String>;

/// The words of the error at the bottom.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), words)
}

async fn ours(method: &Method, pieces: &[&[u8]]) -> Read {
    let rig = Rig::new();
    let far = rig.connect();
    let (got, _) = tokio::join!(rig.ask(request(method.clone())), answer(far, pieces, true));
    let got = got.map_err(|error| words(&error))?;
    let body = got.body.map_err(|error| words(&error))?;
    Ok((got.status.as_u16(), got.version, got.fields, body))
}

async fn hypers(method: &Method, pieces: &[&[u8]]) -> Read {
    let (near, far) = UnixStream::pair().unwrap();
    let mut builder = http1::Builder::new();
    let (mut sender, driver) =
        builder.max_headers(client::MAX_FIELDS).handshake::<_, Full<Bytes>>(TokioIo::new(near)).await.unwrap();
    let ask = async move {
        let response = sender.send_request(request(method.clone())).await.map_err(|error| words(&error))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| words(&error))?.to_bytes();
        Ok((head.status.as_u16(), head.version, head.headers, body))
    };
    let (got, _, _) = tokio::join!(ask, driver, answer(far, pieces, true));
    got
}

fn compare(method: &Method, bytes: &[u8], piece: usize) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    let pieces: Vec<_> = bytes.chunks(piece).collect();
    let (ours, hypers) = runtime.block_on(async { (ours(method, &pieces).await, hypers(method, &pieces).await) });
    let stream = bytes.escape_ascii();
    match (&ours, &hypers) {
        (Ok(ours), Ok(hypers)) => prop_assert_eq!(ours, hypers, "{}", stream),
        (Ok(_), Err(_)) => prop_assert!(false, "only hyper refuses {stream}: {hypers:?}"),
        (Err(detail), Ok(_)) => prop_assert!(argued(detail), "only we refuse {stream}: {detail}"),
        (Err(_), Err(_)) => {}
    }
    Ok(())
}

/// Pieces of responses, good, odd and bad, so that a random row of them is often nearly right.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let texts = [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 404\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 304 Not Modified\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
        "HTTP/1.0 200 OK\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "content-length:3 \r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-encoding:\tChunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Set-Cookie: a\r\nset-cookie: b\r\n",
        "A:\tb c \r\n",
        "A:\r\n",
        "\r\n",
        "\r\n\r\n",
        "hello",
        "5\r\nhello\r\n",
        "5;x=y\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\nT: r\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        "\0",
        "\u{e9}",
        "Content-Length: 5",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ];
    prop_oneof![
        8 => proptest::sample::select(texts.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..4),
    ]
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![4 => Just(Method::GET), 1 => Just(Method::HEAD), 1 => Just(Method::POST)]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(65_536usize), 1 => 1usize..40]
}

/// Good ones, to be damaged in one place.
const STREAMS: [&[u8]; 3] = [
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\nA: b c\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n5;e=f\r\nhello\r\n000c\r\n, and so on.\r\n0\r\nT: u\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: close\r\nA: b\r\n\r\nall of this, to the end",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hyper_reads_the_same_in_what_the_codec_accepts(
        begin in proptest::bool::weighted(0.8),
        pieces in proptest::collection::vec(piece(), 1..10), method in method(), size in size(),
    ) {
        let begin = if begin { &b"HTTP/1.1 200 OK\r\n"[..] } else { b"" };
        compare(&method, &[begin, &pieces.concat()].concat(), size)?;
    }

    #[test]
    fn one_byte_that_is_changed_makes_no_difference_between_the_two(
        stream in proptest::sample::select(STREAMS.to_vec()), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        how in 0..3, method in method(), size in size(),
    ) {
        let mut bytes = stream.to_vec();
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] = byte,
            1 => { bytes.remove(at); }
            _ => bytes.insert(at, byte),
        }
        compare(&method, &bytes, size)?;
    }
}

#[test]
fn good_streams_are_good_to_both() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for stream in STREAMS {
        let (ours, hypers) =
            runtime.block_on(async { (ours(&Method::GET, &[stream]).await, hypers(&Method::GET, &[stream]).await) });
        assert!(ours.is_ok());
        assert_eq!(ours, hypers);
    }
}
