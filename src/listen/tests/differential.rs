//! The oracle: whatever requests are accepted here, hyper must read the same from the same bytes. It is the parser that
//! most of our kind use, and two readings of one stream are how requests are smuggled.

use std::cell::RefCell;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;

use super::*;
use crate::message::fields::Known;
use crate::message::framing::origin_form;

/// Writes down each request that is whole, and answers with nothing.
#[derive(Default)]
struct Recorder {
    seen: RefCell<Vec<String>>,
    refused: Cell<bool>,
}

impl Recorder {
    async fn record(&self, head: &RequestHead, body: impl Body<Data = Bytes>) -> bool {
        let Ok(body) = body.collect().await else { return false };
        let mut fields: Vec<_> = head.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        // What could pass for another field is left away here.
        fields.retain(|(name, _)| !Known::is_mimicked_by(name));
        // hyper keeps fields by name, in the order of each name's values.
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        let target = origin_form(head.target());
        self.seen.borrow_mut().push(format!(
            "{} {} at {} {:?} {} [{}]",
            head.method,
            target.escape_ascii(),
            head.authority().escape_ascii(),
            head.version,
            fields
                .iter()
                .map(|(name, value)| format!("{}={} ", name.escape_ascii(), value.escape_ascii()))
                .collect::<String>(),
            body.to_bytes().escape_ascii()
        ));
        true
    }
}

impl Service for Rc<Recorder> {
    type Body = Answer;

    async fn call(&self, request: Request<Incoming>, conn: Rc<Conn>) -> Response<Answer> {
        if conn.verdict().is_some() || !self.record(&request.head, request.body).await {
            self.refused.set(true);
        }
        Response { head: ResponseHead::new(StatusCode::OK), body: Answer::whole("") }
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }
}

async fn feed(client: DuplexStream, bytes: &[u8]) {
    let (mut read, mut write) = tokio::io::split(client);
    let mut answers = vec![];
    // A server that is through with it may close before all is read.
    let send = async {
        let _ = write.write_all(bytes).await;
        // In paused time: when nobody has anything left to do. An end of the stream cancels what is being answered.
        sleep(Duration::from_secs(1)).await;
        let _ = write.shutdown().await;
    };
    let _ = tokio::join!(send, read.read_to_end(&mut answers));
}

/// What is accepted, and whether anything was refused.
async fn through_us(bytes: &[u8], room: usize) -> (Vec<String>, bool) {
    let recorder = Rc::<Recorder>::default();
    let (client, server) = duplex(room);
    let conn = Conn::new(None, listener());
    let watch = Watch::new(conn, Rc::default(), &Limits::default());
    let (service, metrics) = (Rc::new(Rc::clone(&recorder)), Metrics::new(1));
    tokio::join!(feed(client, bytes), serve(server, None, watch, Common::new(service), &metrics));
    (recorder.seen.take(), recorder.refused.get())
}

async fn through_hyper(bytes: &[u8]) -> Vec<String> {
    let recorder = Rc::<Recorder>::default();
    let (client, server) = duplex(64 * 1024);
    let seen = Rc::clone(&recorder);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            seen.record(&RequestHead::from(&parts), body).await;
            Ok::<_, std::convert::Infallible>(http::Response::new(Answer::whole("")))
        }
    });
    let mut builder = http1::Builder::new();
    let connection = builder.half_close(true).max_headers(1000).serve_connection(TokioIo::new(server), service);
    let _ = tokio::join!(feed(client, bytes), connection);
    recorder.seen.take()
}

fn compare(bytes: &[u8], room: usize) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let long = Duration::from_secs(60);
    let ours = runtime.block_on(async { timeout(long, through_us(bytes, room)).await });
    let (ours, refused) = ours.map_err(|_| TestCaseError::fail(format!("we hang: {}", bytes.escape_ascii())))?;
    let hyper = runtime.block_on(async { timeout(long, through_hyper(bytes)).await });
    let hyper = hyper.map_err(|_| TestCaseError::fail(format!("hyper hangs: {}", bytes.escape_ascii())))?;
    prop_assert!(hyper.len() >= ours.len(), "{}\n ours {ours:#?}\nhyper {hyper:#?}", bytes.escape_ascii());
    prop_assert_eq!(&ours, &hyper[..ours.len()], "{}", bytes.escape_ascii());
    prop_assert!(refused || hyper.len() == ours.len(), "{}", bytes.escape_ascii());
    Ok(())
}

/// Pieces of requests, good, odd and bad, so that a random row of them is often nearly right.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let texts = [
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\n",
        "HEAD /%41 HTTP/1.1\r\n",
        "GET http://x/y HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "Host: x\r\n",
        "host:y:80\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "content-length:3 \r\n",
        "Transfer-Encoding: chunked\r\n",
        "TE: trailers\r\n",
        "Transfer-encoding:\tChunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "A: b\r\n",
        "A:\tb c \r\n",
        "Expect: 100-continue\r\n",
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
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ];
    prop_oneof![
        8 => proptest::sample::select(texts.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..4),
    ]
}

const STREAM: &[u8] = b"\r\nPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nB: c\r\n\r\nhello\
    POST /b HTTP/1.1\r\nHost: y\r\nTransfer-Encoding: chunked\r\n\r\n5;e=f\r\nhello\r\n0\r\nT: u\r\n\r\n\
    GET /c HTTP/1.1\r\nHost: z\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_good_stream_passes_whole() {
    let (seen, refused) = through_us(STREAM, 65_536).await;
    assert_eq!((seen.len(), refused), (3, false), "{seen:#?}");
    assert_eq!(seen, through_hyper(STREAM).await);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hyper_reads_the_same_in_what_is_accepted(
        pieces in proptest::collection::vec(piece(), 1..14), room in prop_oneof![Just(65_536usize), 1usize..40],
    ) {
        compare(&pieces.concat(), room)?;
    }

    #[test]
    fn one_byte_that_is_changed_makes_no_difference_between_the_two(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), gone in any::<bool>(),
    ) {
        let mut bytes = STREAM.to_vec();
        let at = at.index(bytes.len());
        if gone {
            bytes.remove(at);
        } else {
            bytes[at] = byte;
        }
        compare(&bytes, 65_536)?;
    }
}
