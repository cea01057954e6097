//! One check of one backend: connect, TLS included, and for an HTTP check ask and read the head of the answer.
//!
//! Connections are kept for the next check: a thousand connects a second are most of what checking would cost. A kept
//! one that turns out closed says nothing about the backend, so the check starts over with a new one; a failed check
//! never keeps its connection, so what is down is always asked by connecting.
//!
//! Dialling is the data path's. Heads are read by a library (httparse), more laxly than on the data path.

use std::io;

use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::{drain, h2};
use crate::backend::{Cause, Check};
use crate::message::proxy_protocol;
use crate::model::{Address, Announcement, HealthCheck, Protocol, StatusRange};
use crate::upstream::{self, HandshakeFailed, Stream, dial};

/// Bytes of a response head, and fields in it. An answer to a check that is longer is not one.
const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 100;
/// A body up to this is read so that its connection can be kept; a longer one costs a connect instead.
const MAX_BODY: u64 = 64 * 1024;

/// Why a check did not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The backend's doing.
    Backend(Cause),
    /// Ours: no descriptor, no port or no memory left for a connection. It says nothing about the backend: were it
    /// counted, one exhausted balancer would take every backend down.
    Local,
}

/// A connection that is kept between checks.
pub(super) enum Link {
    Http1(Http1),
    Http2(h2::Http2),
}

/// One of HTTP/1.1.
pub(super) struct Http1 {
    stream: Stream,
    /// What has been read and not used; empty between checks, its memory kept.
    buffer: Vec<u8>,
}

/// What is sent. `None`: a connection is all that is asked for.
pub(super) fn request(check: &Check) -> Option<Box<[u8]>> {
    let http = check.settings.http.as_ref().filter(|_| check.backend.identity.protocol == Protocol::H1)?;
    let host = host_of(check);
    let path = &http.path;
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: shardgate-health\r\nAccept: */*\r\n\r\n");
    Some(text.into_bytes().into_boxed_slice())
}

/// The Host of a check.
pub(super) fn host_of(check: &Check) -> &str {
    match (&check.settings.host, &check.backend.identity.address) {
        (Some(host), _) => host,
        (None, Address::Unix(_)) => "localhost",
        (None, _) => &check.backend.label,
    }
}

/// What came of a check.
pub(super) struct Answer {
    pub(super) result: Result<(), Failure>,
    /// The connection, if it can serve again.
    pub(super) link: Option<Link>,
    /// What the backend says of itself beside its answer.
    pub(super) said: Option<Announcement>,
    /// More than the cause says, for the log.
    pub(super) why: Option<Box<str>>,
}

impl Answer {
    pub(super) fn failed(cause: Cause) -> Self {
        Self { result: Err(Failure::Backend(cause)), link: None, said: None, why: None }
    }
}

/// Asks once.
pub(super) async fn ask(check: &Check, request: Option<&[u8]>, kept: Option<Link>) -> Answer {
    let HealthCheck { timeout, http, grpc, .. } = &check.settings;
    if check.backend.identity.protocol == Protocol::H2 && (http.is_some() || grpc.is_some()) {
        return h2::ask(check, kept).await;
    }
    let kept = match kept {
        Some(Link::Http1(link)) => Some(link),
        _ => None,
    };
    let deadline = Instant::now() + *timeout;
    let expect = http.as_ref().map_or(StatusRange::default(), |http| http.expect);
    let answered = match timeout_at(deadline, answer(check, request, kept)).await {
        Err(_) => return Answer::failed(Cause::Timeout),
        Ok(Err(Failed { failure, why })) => return Answer { result: Err(failure), link: None, said: None, why },
        Ok(Ok(None)) => return Answer { result: Ok(()), link: None, said: None, why: None },
        Ok(Ok(Some(answered))) => answered,
    };
    let (mut link, reply) = answered;
    let passes = expect.contains(reply.status);
    if reply.said == Some(Announcement::Drain) || !passes && link.says_drain(&reply, deadline).await {
        return Answer::failed(Cause::Draining);
    }
    if !passes {
        return Answer { said: reply.said, ..Answer::failed(Cause::Status(reply.status)) };
    }
    let reusable = matches!(timeout_at(deadline, link.skip_body(&reply)).await, Ok(true));
    Answer { result: Ok(()), link: reusable.then_some(Link::Http1(link)), said: reply.said, why: None }
}

/// Connects unless a kept connection serves, and reads the head of the answer, if any is asked for.
async fn answer(check: &Check, request: Option<&[u8]>, kept: Option<Http1>) -> Result<Option<(Http1, Reply)>, Failed> {
    if let (Some(request), Some(mut link)) = (request, kept)
        && link.is_quiet()
    {
        match link.exchange(request).await {
            Ok(reply) => return Ok(Some((link, reply))),
            Err(Broken { answered: true, cause, .. }) => return Err(Failure::Backend(cause).into()),
            Err(Broken { answered: false, .. }) => {}
        }
    }
    let mut link = Http1 { stream: connect(check).await?, buffer: Vec::new() };
    let Some(request) = request else { return Ok(None) };
    match link.exchange(request).await {
        Ok(reply) => Ok(Some((link, reply))),
        Err(Broken { cause, why, .. }) => Err(Failed { failure: Failure::Backend(cause), why }),
    }
}

/// Connects for a check, and notes whether anybody listens.
pub(super) async fn connect(check: &Check) -> Result<Stream, Failed> {
    let header = proxy_protocol::write_local(check.settings.proxy_protocol);
    let agrees = |stream: Stream| match check.backend.identity.protocol {
        Protocol::H2 if !stream.may_speak(b"h2") => {
            let why = Some("the backend did not agree to HTTP/2 (ALPN)".into());
            Err(Failed { failure: Failure::Backend(Cause::Tls), why })
        }
        _ => Ok(stream),
    };
    let stream = dial(&check.backend, &header).await.map_err(Failed::from).and_then(agrees);
    match &stream {
        Ok(_) => check.backend.note_connect(false),
        Err(Failed { failure: Failure::Backend(cause), .. }) => check.backend.note_connect(*cause == Cause::Refused),
        Err(Failed { failure: Failure::Local, .. }) => {}
    }
    stream
}

/// A check that did not pass, and what there is to say of it.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) why: Option<Box<str>>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, why: None }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { failure: judge(&error), why: HandshakeFailed::of(&error).map(|failed| failed.to_string().into()) }
    }
}

/// Whose fault is it that there is no connection?
pub(super) fn judge(error: &io::Error) -> Failure {
    const LOCAL: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    if let Some(errno) = Errno::from_io_error(error)
        && LOCAL.contains(&errno)
    {
        return Failure::Local;
    }
    if let Some(failed) = HandshakeFailed::of(error) {
        return Failure::Backend(if failed.is_certificate() { Cause::Certificate } else { Cause::Tls });
    }
    Failure::Backend(match error.kind() {
        // A Unix socket's path that is not there is a port that nobody listens on.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Cause::Refused,
        // A Unix socket whose queue is full says so; a TCP port is just silent.
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Cause::Timeout,
        io::ErrorKind::ConnectionReset => Cause::Reset,
        _ => Cause::Unreachable,
    })
}

/// An exchange that came to no answer.
struct Broken {
    /// Whether anything was read: if not, a kept connection may just have been closed in the meantime.
    answered: bool,
    cause: Cause,
    why: Option<Box<str>>,
}

impl Http1 {
    /// Whether the other side has neither closed it nor said anything unasked.
    fn is_quiet(&mut self) -> bool {
        self.stream.is_quiet()
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Reply, Broken> {
        self.buffer.clear();
        let broken = |answered, cause| Broken { answered, cause, why: None };
        // A backend may answer and close before it has read everything: so a failed write is not the last word.
        let mut written = self.stream.write_all(request).await;
        if written.is_ok() {
            written = self.stream.flush().await;
        }
        let mut read_any = false;
        loop {
            match parse(&self.buffer) {
                Parsed::Reply(reply) if is_interim(reply.status) => {
                    self.buffer.drain(..reply.head);
                    continue;
                }
                Parsed::Reply(reply) => return Ok(reply),
                Parsed::Garbage => return Err(broken(true, Cause::Garbage)),
                Parsed::Partial if self.buffer.len() >= MAX_HEAD => return Err(broken(true, Cause::Garbage)),
                Parsed::Partial => {}
            }
            self.buffer.reserve(512);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(broken(read_any, Cause::Reset)),
                Ok(_) => read_any = true,
                Err(error) => {
                    let why = upstream::refusal(&error).map(Into::into);
                    let cause = if why.is_some() { Cause::Tls } else { Cause::Reset };
                    return Err(Broken { answered: read_any, cause, why });
                }
            }
            if written.is_err() && !read_any {
                return Err(broken(false, Cause::Reset));
            }
        }
    }

    /// Whether the body says that the backend drains. Reads as much of it as may matter, and as comes in time.
    async fn says_drain(&mut self, reply: &Reply, deadline: Instant) -> bool {
        self.buffer.drain(..reply.head.min(self.buffer.len()));
        let wanted = reply.body.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        let wanted = wanted.min(drain::MAX_BODY);
        // In chunks the last one is the end.
        while self.buffer.len() < wanted && !self.buffer.ends_with(b"\r\n0\r\n\r\n") {
            self.buffer.reserve(512);
            if !matches!(timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await, Ok(Ok(1..))) {
                break;
            }
        }
        drain::is_said(self.buffer.get(..wanted).unwrap_or(&self.buffer))
    }

    /// Reads the rest of an answer. Whether the connection is then good for another.
    async fn skip_body(&mut self, reply: &Reply) -> bool {
        let Some(length) = reply.body.filter(|length| *length <= MAX_BODY) else { return false };
        let mut have = (self.buffer.len() - reply.head.min(self.buffer.len())) as u64;
        while have < length {
            self.buffer.clear();
            self.buffer.reserve(512);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(n) => have += n as u64,
            }
        }
        self.buffer.clear();
        self.buffer.shrink_to(1024);
        have == length
    }
}

/// 101 is none: nobody asked for another protocol.
fn is_interim(status: u16) -> bool {
    matches!(status, 100 | 102..=199)
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: u16,
    /// Its length in bytes.
    head: usize,
    /// The length of the body that follows; `None`: unknown, or the connection closes after it.
    body: Option<u64>,
    /// What the backend says of itself in its fields.
    said: Option<Announcement>,
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Reply(Reply),
    Partial,
    Garbage,
}

fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Garbage,
    };
    let (Some(status), Some(version)) = (response.code, response.version) else { return Parsed::Garbage };
    if status < 100 {
        return Parsed::Garbage;
    }
    let is_word = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(Announcement::FIELD);
    let said = response.headers.iter().rfind(is_word).and_then(|field| Announcement::from_value(field.value));
    let body = if version == 1 { body(status, response.headers) } else { None };
    Parsed::Reply(Reply { status, head, body, said })
}

/// The length of a body after which the connection can be used again. In doubt there is none.
fn body(status: u16, fields: &[httparse::Header<'_>]) -> Option<u64> {
    let mut length = matches!(status, 100..=199 | 204 | 304).then_some(0);
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(field.value).ok()?;
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let value: u64 = text.parse().ok().filter(|_| digits)?;
            match length {
                None => length = Some(value),
                Some(0) if matches!(status, 204 | 304) => {}
                Some(_) => return None,
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding")
            || field.name.eq_ignore_ascii_case("connection") && names_close(field.value)
        {
            return None;
        }
    }
    length
}

fn names_close(value: &[u8]) -> bool {
    value.split(|b| *b == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let reply = |status, head, body| Parsed::Reply(Reply { status, head, body, said: None });
        let table: [(&str, Parsed); 18] = [
            ("", Parsed::Partial),
            ("HTTP/1.1 200 OK\r\ncontent-le", Parsed::Partial),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", reply(200, 38, Some(2))),
            ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", reply(200, 35, Some(0))),
            ("HTTP/1.1 204 No Content\r\n\r\n", reply(204, 27, Some(0))),
            ("HTTP/1.1 200 OK\r\n\r\n", reply(200, 19, None)),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", reply(200, 38, None)),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", reply(200, 47, None)),
            ("HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n", reply(200, 60, None)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", reply(200, 57, None)),
            ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n", reply(200, 39, None)),
            ("HTTP/1.1 503 Busy\r\n\r\n", reply(503, 21, None)),
            ("SSH-2.0-OpenSSH_9.2\r\n", Parsed::Garbage),
            ("HTTP/2.0 200 OK\r\n\r\n", Parsed::Garbage),
            ("HTTP/1.1 2x0 OK\r\n\r\n", Parsed::Garbage),
            ("HTTP/1.1 042 OK\r\n\r\n", Parsed::Garbage),
            ("HTTP/1.1 200 OK\r\nbad field: x\r\n\r\n", Parsed::Garbage),
            ("\x16\x03\x01\x02\x00", Parsed::Garbage),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn fields_that_announce() {
        for (fields, expected) in [
            ("", None),
            ("X-Shardgate-State: Drain\r\n", Some(Announcement::Drain)),
            ("x-shardgate-state: ready\r\n", Some(Announcement::Ready)),
            ("x-shardgate-state: busy\r\n", None),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            let Parsed::Reply(reply) = parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(reply.said, expected, "{text}");
        }
    }

    #[test]
    fn whose_fault() {
        let table = [
            (Errno::CONNREFUSED, Failure::Backend(Cause::Refused)),
            (Errno::NOENT, Failure::Backend(Cause::Refused)),
            (Errno::TIMEDOUT, Failure::Backend(Cause::Timeout)),
            (Errno::HOSTUNREACH, Failure::Backend(Cause::Unreachable)),
            (Errno::NETUNREACH, Failure::Backend(Cause::Unreachable)),
            (Errno::MFILE, Failure::Local),
            (Errno::ADDRNOTAVAIL, Failure::Local),
        ];
        for (errno, expected) in table {
            assert_eq!(judge(&errno.into()), expected, "{errno:?}");
        }
    }
}
