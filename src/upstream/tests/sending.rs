//! What goes to a backend, and what becomes of the connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

use super::*;
use crate::message::body::BodyFault;
use crate::message::framing::Chunks;

type Boxed = Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

/// A body that hands out these pieces, and then fails, ends, or says nothing more.
struct Pieces {
    left: Vec<Bytes>,
    then: Then,
    length: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    End,
    Fail,
    Wait,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.left.pop() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.then == Then::End => Poll::Ready(None),
            None if self.then == Then::Fail => Poll::Ready(Some(Err("the client is gone".into()))),
            None => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn pieces(pieces: &[&[u8]], then: Then, length: Option<u64>) -> Boxed {
    let left = pieces.iter().rev().map(|piece| Bytes::copy_from_slice(piece)).collect();
    Box::pin(Pieces { left, then, length })
}

fn post(body: Boxed) -> Request<Boxed> {
    Request::builder().method("POST").uri("/a").header("host", "h").body(body).unwrap()
}

/// Reads until the client has closed or sends nothing more, and answers.
async fn record(mut far: UnixStream, enough: impl Fn(&[u8]) -> bool) -> (Vec<u8>, UnixStream) {
    let mut bytes = Vec::new();
    while !enough(&bytes) {
        assert!(far.read_buf(&mut bytes).await.unwrap() > 0, "closed after {}", bytes.escape_ascii());
    }
    far.write_all(OK).await.unwrap();
    (bytes, far)
}

#[tokio::test]
async fn heads_are_written_as_they_are_and_framed_by_us() {
    let table: [(&str, &str, Boxed, &str); 6] = [
        ("GET", "/x?y=%20", pieces(&[], Then::End, Some(0)), "GET /x?y=%20 HTTP/1.1\r\n{}\r\n"),
        ("OPTIONS", "*", pieces(&[], Then::End, Some(0)), "OPTIONS * HTTP/1.1\r\n{}\r\n"),
        ("POST", "/", pieces(&[b"hello"], Then::End, Some(5)), "POST / HTTP/1.1\r\n{}content-length: 5\r\n\r\nhello"),
        (
            "POST",
            "/",
            pieces(&[b"he", b"", b"llo"], Then::End, Some(5)),
            "POST / HTTP/1.1\r\n{}content-length: 5\r\n\r\nhello",
        ),
        (
            "POST",
            "/",
            pieces(&[b"hello", b"0123456789abcdefg"], Then::End, None),
            "POST / HTTP/1.1\r\n{}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n11\r\n0123456789abcdefg\r\n0\r\n\r\n",
        ),
        ("PUT", "/", pieces(&[], Then::End, None), "PUT / HTTP/1.1\r\n{}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ];
    for (method, uri, body, expected) in table {
        let rig = Rig::new();
        let far = rig.connect();
        let request = Request::builder().method(method).uri(uri);
        let request = request.header("host", "h").header("x", "\u{e9}").header("x", "").body(body).unwrap();
        let expected = expected.replace("{}", "host: h\r\nx: \u{e9}\r\nx: \r\n");
        let (got, (sent, _)) = tokio::join!(rig.ask(request), record(far, |bytes| bytes.len() >= expected.len()));
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
        assert_eq!(got.unwrap().body.unwrap(), "hi");
    }
}

#[tokio::test]
async fn a_length_of_nothing_is_repeated_and_not_added() {
    for (length, expected) in [(Some("0"), "content-length: 0\r\n"), (None, "")] {
        let rig = Rig::new();
        let far = rig.connect();
        let mut request = post(pieces(&[], Then::End, Some(0)));
        if let Some(length) = length {
            request.headers_mut().insert("content-length", length.parse().unwrap());
        }
        let (_, (sent, _)) = tokio::join!(rig.ask(request), record(far, |bytes| bytes.ends_with(b"\r\n\r\n")));
        assert_eq!(String::from_utf8(sent).unwrap(), format!("POST /a HTTP/1.1\r\nhost: h\r\n{expected}\r\n"));
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole_in_either_framing() {
    let data: Vec<u8> = (0..1_500_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let parts: Vec<_> = data.chunks(70_001).collect();
    for length in [Some(data.len() as u64), None] {
        let rig = Rig::new();
        let far = rig.connect();
        let last = length.map_or(&b"\r\n0\r\n\r\n"[..], |_| &data[data.len() - 100..]);
        let request = post(pieces(&parts, Then::End, length));
        let (got, (mut sent, _far)) = tokio::join!(rig.ask(request), record(far, |bytes| bytes.ends_with(last)));
        let head = sent.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let body = &mut sent[head..];
        let len = if length.is_none() { Chunks::default().decode(body).unwrap().data } else { body.len() };
        assert!(body[..len] == data);
        assert!(got.is_ok() && rig.pooled().await);
    }
}

#[tokio::test]
async fn large_answers_arrive_whole_in_any_framing() {
    let data: Vec<u8> = (0..1_500_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let mut chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in data.chunks(9_999) {
        chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunks.extend_from_slice(chunk);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    let length = [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", data.len()).as_bytes(), &data].concat();
    let close = [b"HTTP/1.1 200 OK\r\n\r\n", &data[..]].concat();
    for (stream, until_close) in [(&length, false), (&chunks, false), (&close, true)] {
        let rig = Rig::new();
        let far = rig.connect();
        let (got, _far) = tokio::join!(rig.ask(request(Method::GET)), say(far, stream, until_close));
        assert!(got.unwrap().body.unwrap() == data);
        assert_eq!(rig.pooled().await, !until_close);
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_or_has_spoken_is_passed_over() {
    let rig = Rig::new();
    let good = rig.connect();
    let _deaf = deafen(rig.connect());
    let mut talker = rig.connect();
    talker.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await.unwrap();
    settle().await;
    assert_eq!(rig.backend.connections(), 3);
    let (got, _far) = tokio::join!(rig.ask(request(Method::GET)), say(good, OK, false));
    assert_eq!(got.unwrap().body.unwrap(), "hi");
    assert_eq!(rig.backend.connections(), 1);
}

#[tokio::test]
async fn a_sweep_closes_what_is_closed() {
    let rig = Rig::<Full<Bytes>>::new();
    let _good = rig.connect();
    drop(rig.connect());
    settle().await;
    rig.client.sweep();
    assert_eq!(rig.backend.connections(), 1);
}

/// Reads no more and still looks open, so that the next write fails.
fn deafen(far: UnixStream) -> UnixStream {
    let far = far.into_std().unwrap();
    far.shutdown(Shutdown::Read).unwrap();
    UnixStream::from_std(far).unwrap()
}

#[tokio::test]
async fn a_connection_that_takes_nothing_is_passed_over_in_silence_with_the_body() {
    let rig = Rig::new();
    let good = rig.connect();
    let _deaf = [deafen(rig.connect()), deafen(rig.connect())];
    let request = post(pieces(&[b"hello", b" ", b"world"], Then::End, Some(11)));
    let (got, (sent, _far)) = tokio::join!(rig.ask(request), record(good, |bytes| bytes.ends_with(b"world")));
    assert_eq!(sent, b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 11\r\n\r\nhello world");
    assert_eq!(got.unwrap().body.unwrap(), "hi");
    // And when there is none left, a new one is tried.
    let _deaf = deafen(rig.connect());
    drop(_far);
    settle().await;
    let error = rig.ask(post(pieces(&[b"x"], Then::End, Some(1)))).await.unwrap_err();
    assert_eq!((error.kind, error.wrote, error.connect.is_some()), (ErrorKind::Refused, false, true));
}

#[tokio::test]
async fn what_breaks_after_a_byte_was_written_says_so() {
    let rig = Rig::new();
    let far = rig.connect();
    let (got, _) = tokio::join!(rig.ask(request(Method::GET)), say(far, b"", true));
    let error = got.unwrap_err();
    assert_eq!((error.kind, error.wrote, error.connect), (ErrorKind::Reset, true, None));
}

#[tokio::test]
async fn a_body_that_fails_is_not_the_backends_fault() {
    for (body, wrote) in [
        (pieces(&[], Then::Fail, Some(5)), false),
        (pieces(&[&[b'x'; 9000]], Then::Fail, Some(9999)), true),
        (pieces(&[b"hello!"], Then::End, Some(5)), false),
        (pieces(&[b"hell"], Then::End, Some(5)), false),
    ] {
        let rig = Rig::new();
        let _far = rig.connect();
        let error = rig.ask(post(body)).await.unwrap_err();
        assert_eq!((error.kind, error.wrote), (ErrorKind::Body, wrote));
        assert!(!rig.pooled().await);
    }
}

#[tokio::test]
async fn an_early_answer_is_read_while_the_body_waits_and_ends_the_connection() {
    let rig = Rig::new();
    let mut far = rig.connect();
    let exchange = rig.ask(post(pieces(&[b"abc"], Then::Wait, Some(99))));
    let backend = async {
        read_head(&mut far).await;
        far.write_all(OK).await.unwrap();
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
    };
    let (got, ()) = tokio::join!(exchange, backend);
    assert_eq!(got.unwrap().body.unwrap(), "hi");
    assert!(!rig.pooled().await);
}

/// A body that goes on when it is told to.
struct Gated(Rc<Cell<bool>>, Vec<&'static str>);

impl Body for Gated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.0.get() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.1.pop().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}

#[tokio::test]
async fn reading_an_early_answer_drives_the_rest_of_the_request() {
    let open = Rc::new(Cell::new(false));
    let rig = Rig::new();
    let mut far = rig.connect();
    let backend = async {
        read_head(&mut far).await;
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nec").await.unwrap();
        settle().await;
        open.set(true);
        let mut rest = Vec::new();
        while !rest.ends_with(b"0\r\n\r\n") {
            assert!(far.read_buf(&mut rest).await.unwrap() > 0);
        }
        far.write_all(b"ho").await.unwrap();
        (rest, far)
    };
    let request = Request::post("/a").body(Gated(Rc::clone(&open), vec!["world", "hello "])).unwrap();
    let (got, (sent, _far)) = tokio::join!(rig.ask(request), backend);
    assert_eq!(sent, b"6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n");
    assert_eq!(got.unwrap().body.unwrap(), "echo");
    // The request was sent whole after all.
    assert!(rig.pooled().await);
}

/// A body that fails, with this, when it is told to.
struct Failing(Rc<Cell<bool>>, BodyFault);

impl Body for Failing {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if self.0.get() { Poll::Ready(Some(Err(self.1))) } else { Poll::Pending }
    }
}

#[tokio::test]
async fn an_answer_ends_with_the_upload_unless_that_was_given_up() {
    let early = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nno";
    for (fault, whole) in [(BodyFault::Client, false), (BodyFault::TooLarge, false), (BodyFault::Over, true)] {
        let fail = Rc::new(Cell::new(false));
        let rig = Rig::new();
        let far = rig.connect();
        let request = Request::post("/a").body(Failing(Rc::clone(&fail), fault)).unwrap();
        let (got, far) = tokio::join!(rig.exchange(request), say(far, early, false));
        let body = got.unwrap().response.body;
        fail.set(true);
        far.unwrap().write_all(b"pe").await.unwrap();
        assert_eq!(body.collect().await.is_ok(), whole, "{fault:?}");
        assert!(!rig.pooled().await);
    }
}

#[tokio::test]
async fn an_answer_is_read_though_the_backend_reads_no_further() {
    let rig = Rig::new();
    let far = rig.connect();
    let large = vec![b'x'; 1 << 20];
    let backend = async {
        let mut far = far;
        read_head(&mut far).await;
        far.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        deafen(far)
    };
    let request = post(pieces(&[&large[..], &large[..]], Then::End, Some(2 << 20)));
    let (got, _far) = tokio::join!(rig.ask(request), backend);
    let got = got.unwrap();
    assert_eq!((got.status.as_u16(), got.body.unwrap()), (413, "no".into()));
    assert!(!rig.pooled().await);
}

#[tokio::test]
async fn a_100_lets_the_body_go() {
    let rig = Rig::new();
    let mut far = rig.connect();
    let backend = async {
        assert!(read_head(&mut far).await.ends_with(b"\r\n\r\n"));
        settle().await;
        far.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        record(far, |bytes| bytes.ends_with(b"hello")).await
    };
    let budget = crate::message::body::ReplayBudget::new(0);
    let body =
        crate::message::body::RequestBody::new(Full::new(Bytes::from("hello")), 99, true, &budget, Instant::now());
    let terms = Terms {
        announced: None,
        ahead: None,
        timeouts: &Timeouts::default(),
        began: Instant::now(),
        since: Instant::now(),
        total: Duration::from_secs(9),
        end: None,
        max_connections: 9,
        upload: &Sent(Instant::now()),
        interim: &|head| {
            assert_eq!(head.status, 100);
            body.release();
        },
    };
    let request = Request::post("/").header("expect", "100-continue").body(body.attempt()).unwrap();
    let (got, (sent, _far)) = tokio::join!(rig.client.exchange(&rig.backend, &terms, outgoing(request)), backend);
    assert_eq!(sent, b"hello");
    assert_eq!(got.unwrap().response.head.status, 200);
}

#[tokio::test]
async fn dropping_a_body_or_an_exchange_closes_the_connection() {
    let rig = Rig::new();
    let far = rig.connect();
    let part = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi";
    let (got, far) = tokio::join!(rig.exchange(request(Method::GET)), say(far, part, false));
    drop(got);
    assert_eq!(rig.backend.connections(), 0);
    assert_eq!(far.unwrap().read(&mut [0; 9]).await.unwrap(), 0);
    let mut far = rig.connect();
    tokio::select! {
        _ = rig.exchange(request(Method::GET)) => panic!("nobody answers"),
        _ = read_head(&mut far) => {}
    }
    assert_eq!(rig.backend.connections(), 0);
}

#[tokio::test]
async fn a_connection_is_closed_for_the_sake_of_another_worker() {
    let rig = Rig::new();
    let far = rig.connect();
    assert!(rig.backend.try_connection(1).is_none());
    let (got, _far) = tokio::join!(rig.ask(request(Method::GET)), say(far, OK, false));
    assert!(got.is_ok() && rig.backend.connections() == 0);
}

#[tokio::test(start_paused = true)]
async fn patience_ends_to_the_millisecond() {
    for wait in [30, 999, 1001, 5000].map(Duration::from_millis) {
        let rig = Rig::new();
        let _far = rig.connect();
        let began = Instant::now();
        let sent = Sent(began);
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        let error = tokio::select! {
            got = rig.exchange_as(request(Method::GET), &sent, wait) => got.map(|_| ()).unwrap_err(),
            () = async { loop { tick.tick().await; rig.client.sweep(); } } => unreachable!(),
        };
        assert_eq!((error.kind, error.wrote, began.elapsed()), (ErrorKind::Timeout, true, wait));
    }
}

/// A client that has sent some of its body, and is waited for or not.
struct Stalled(Instant, bool);

impl Upload for Stalled {
    fn done(&self, _: &Waker) -> Option<Instant> {
        None
    }

    fn progress(&self) -> (Instant, bool) {
        (self.0, self.1)
    }

    fn seen(&self) {}
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_told_from_a_backend_that_does() {
    for (client_is_slow, kind) in [(true, ErrorKind::BodyTimeout), (false, ErrorKind::Timeout)] {
        let rig = Rig::new();
        let _far = rig.connect();
        let began = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        let stalled = Stalled(began, client_is_slow);
        let request = post(pieces(&[b"x"], Then::Wait, Some(5)));
        let error = tokio::select! {
            got = rig.exchange_as(request, &stalled, Duration::from_secs(1)) => got.map(|_| ()).unwrap_err(),
            () = async { loop { tick.tick().await; rig.client.sweep(); } } => unreachable!(),
        };
        assert_eq!((error.kind, began.elapsed()), (kind, Duration::from_secs(60)));
    }
}

/// Hears whether a backend may have seen the request.
struct Hears(Instant, Cell<bool>);

impl Upload for Hears {
    fn done(&self, _: &Waker) -> Option<Instant> {
        Some(self.0)
    }

    fn progress(&self) -> (Instant, bool) {
        (self.0, false)
    }

    fn seen(&self) {
        self.1.set(true);
    }
}

#[tokio::test]
async fn on_a_connection_that_has_served_what_is_written_may_have_been_seen() {
    let hears = Hears(Instant::now(), Cell::new(false));
    let wait = Duration::from_secs(10);

    // It takes nothing, and there is nobody else to connect to.
    let rig = Rig::new();
    drop(rig.connect());
    let error = rig.exchange_as(request(Method::GET), &hears, wait).await.err().unwrap();
    assert_eq!((error.kind, error.wrote), (ErrorKind::Refused, false));
    assert!(!hears.1.get());

    // A new one may turn out to be one to nobody, whatever was written.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let address = Address::Unix(path.into());
    let backend = Backend::new(Identity { region: "north".into(), address, protocol: Protocol::H1, tls: None });
    let rig = Rig { backend, ..Rig::new() };
    let (got, _far) = tokio::join!(rig.exchange_as(request(Method::GET), &hears, wait), async {
        say(listener.accept().await.unwrap().0, OK, false).await
    });
    assert!(got.is_ok() && !hears.1.get());

    let rig = Rig::new();
    let far = rig.connect();
    let (got, _far) = tokio::join!(rig.exchange_as(request(Method::GET), &hears, wait), say(far, OK, false));
    assert!(got.is_ok() && hears.1.get());
}
