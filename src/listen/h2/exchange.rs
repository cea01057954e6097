//! One stream: a request, its answer, and their bodies under flow control.
//!
//! Both directions are held back by whoever is slower. What a client sends is acknowledged to it when the proxy asks for
//! the piece after it, so a backend that reads slowly slows the client. What a backend sends is asked for as far as there
//! is room for it: in the windows, in a send buffer of [`SEND_BUFFER`](super::SEND_BUFFER) bytes, and beside the other
//! streams ([`flow`](super::flow)). Without room only a little is, since the end of a body needs none. So a client that
//! reads slowly slows the backend, and what waits for it is little.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, StatusCode};
use http_body::Body;

use super::flow::Part;
use super::head;
use super::io::Lower;
use super::tunnel;
use super::{Connection, SEND_BUFFER};
use crate::listen::incoming::{Incoming, Source};
use crate::listen::lasting::Lasting;
use crate::listen::tunnel::Parting;
use crate::listen::watch::Pace;
use crate::listen::{BoxError, Service};
use crate::message::ahead::LITTLE;
use crate::message::framing::{Fault, Framing};
use crate::message::send::Coding;
use crate::message::tunnel::Tunnel;
use crate::message::{Conn, Request, RequestHead, Response, ResponseHead};

/// What the connection's sweep sees of one stream.
pub(super) struct Stream {
    pub(super) conn: Rc<Conn>,
    pub(super) reading: Pace,
    pub(super) writing: Pace,
    /// The client does not take its answer, or not in time.
    pub(super) stalled: Cell<bool>,
    /// Set once the exchange has become a tunnel.
    pub(super) tunnel: OnceCell<Rc<Lasting>>,
}

/// A request's body.
struct Upload {
    /// `None`: it has ended, or nobody wants it any more.
    from: RefCell<Option<RecvStream>>,
    stream: Rc<Stream>,
    /// Bytes handed on and not acknowledged yet.
    owed: Cell<usize>,
    /// The client waits to be asked for it.
    expects: Cell<bool>,
    whole: Cell<bool>,
    /// Have come and have not been handed on.
    trailers: RefCell<Option<HeaderMap>>,
}

/// How sending an answer ends.
pub(super) enum Sent {
    Whole,
    /// The stream or the connection is gone.
    Gone,
    /// With this the client can tell that it is not whole.
    Reset(Reason),
}

/// Serves one stream to its end.
pub(super) async fn serve<S: Service>(
    connection: Rc<Connection<S>>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let conn = connection.watch.conn.stream();
    let (parts, recv) = request.into_parts();
    let head = read_head(&connection, &conn, &parts, recv.is_end_stream());
    let stream = Rc::new(Stream {
        conn: Rc::clone(&conn),
        reading: Pace::default(),
        writing: Pace::default(),
        stalled: Cell::default(),
        tunnel: OnceCell::new(),
    });
    let _open = connection.open(&stream);
    let is_head = head.method == Method::HEAD;
    let mut upload = None;
    let asks = head.upgrade.is_some();
    let body = if head.framing == Framing::Empty && !asks {
        drop(recv);
        Incoming::empty()
    } else {
        let length = match head.framing {
            // What follows may be a tunnel's, but not before a backend has agreed to one.
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let source = Rc::new(Upload {
            from: RefCell::new(Some(recv)),
            stream: Rc::clone(&stream),
            owed: Cell::default(),
            expects: Cell::new(head.expects_continue),
            whole: Cell::default(),
            trailers: RefCell::default(),
        });
        upload = Some(Rc::clone(&source));
        Incoming::new(source, length)
    };
    let answer = answer(&connection, Request { head: Rc::new(head), body }, &conn, &mut respond).await;
    let sent = match answer {
        Some(response) if let Tunnel::Open { idle, is_websocket } = conn.tunnel() => {
            let times = stream.tunnel.get_or_init(|| Rc::new(Lasting::new(idle, connection.watch.clock())));
            let response = response.map(|body| Parting::new(body, &conn, times, is_websocket));
            tunnel::run(&connection, &stream, response, &mut respond).await
        }
        Some(response) => send(&connection, &stream, response, is_head, &mut respond).await,
        None => Sent::Gone,
    };
    // Whoever still holds the body gets no more of it, and the client hears at once that the rest is not wanted. To read on for a
    // while, as over HTTP/1, is worse for clients that do not expect this: curl 7.88 fails with it, but with room for more it
    // sends on until there is none, does not read any more, since it has its answer, and so hangs for ever.
    if let Some(upload) = upload {
        upload.from.take();
    }
    match sent {
        Sent::Whole => connection.lower.meter.borrow_mut().answered(),
        Sent::Gone => {}
        Sent::Reset(reason) => respond.send_reset(reason),
    }
}

/// Its head, or what stands for one that was refused; then the cell says why.
fn read_head<S: Service>(
    connection: &Connection<S>,
    conn: &Conn,
    parts: &http::request::Parts,
    is_whole: bool,
) -> RequestHead {
    let mut scratch = connection.common.memory.scratch();
    let read = head::read(parts, is_whole, &connection.common.service.limits(), &mut scratch);
    connection.common.memory.give_back(scratch);
    match read {
        Ok(head) => {
            conn.begin(&head);
            head
        }
        Err(refused) => {
            conn.refuse(refused.0);
            refused.1
        }
    }
}

/// The service's answer. `None`: the client has gone before it came.
async fn answer<S: Service>(
    connection: &Connection<S>,
    request: Request<Incoming>,
    conn: &Rc<Conn>,
    respond: &mut SendResponse<Bytes>,
) -> Option<Response<S::Body>> {
    let mut call = pin!(connection.common.service.call(request, Rc::clone(conn)));
    let response = poll_fn(|cx| {
        conn.set_waker(cx.waker());
        // Of an answer that will have to wait only the head is read, or little more.
        allow(conn, if connection.lower.flow.is_crowded() { 0 } else { usize::MAX });
        let polled = call.as_mut().poll(cx);
        for interim in conn.take_interim_heads() {
            // It fails if the stream is gone, which is noticed below.
            let _ = respond.send_informational(head::response(interim, None, true));
        }
        match polled {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        }
    })
    .await;
    conn.set_answered();
    response
}

/// Sends an answer.
async fn send<S: Service>(
    connection: &Connection<S>,
    stream: &Stream,
    response: Response<S::Body>,
    is_head: bool,
    respond: &mut SendResponse<Bytes>,
) -> Sent {
    let Response { head, mut body } = response;
    let no_body = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = if let Coding::Length(length) = Coding::of(&body, false) { Some(length) } else { None };
    // The answer to a HEAD says of a body what a GET would hear. A 204 has no length (RFC 9110, 8.6).
    let keep = no_body && head.status != StatusCode::NO_CONTENT;
    let said = keep && head.fields.has(head::LENGTH);
    let say = if no_body { length.filter(|length| keep && !said && *length > 0) } else { length };
    let is_end = no_body || length == Some(0);
    let Ok(mut to) = respond.send_response(head::response(head, say, keep), is_end) else { return Sent::Gone };
    if is_end {
        return Sent::Whole;
    }
    let mut sending = Sending::new(length, connection);
    poll_fn(|cx| sending.poll(cx, connection, stream, &mut body, &mut to)).await
}

/// A body on its way to the client.
pub(super) struct Sending {
    /// Has not found room yet.
    piece: Bytes,
    /// Nothing comes behind it.
    is_last: bool,
    /// What the head said is still to come.
    left: Option<u64>,
    part: Part,
    lower: Rc<Lower>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.part.holds(&self.lower.flow, 0);
    }
}

impl Sending {
    /// `length`: as the head said.
    pub(super) fn new<S>(length: Option<u64>, connection: &Connection<S>) -> Self {
        let lower = Rc::clone(&connection.lower);
        Self { piece: Bytes::new(), is_last: false, left: length, part: Part::new(), lower }
    }

    pub(super) fn poll<S, B: Body<Data = Bytes, Error = BoxError> + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        connection: &Connection<S>,
        stream: &Stream,
        body: &mut B,
        to: &mut SendStream<Bytes>,
    ) -> Poll<Sent> {
        loop {
            if stream.stalled.get() {
                return Poll::Ready(Sent::Reset(Reason::CANCEL));
            }
            if self.piece.is_empty() && !self.is_last {
                allow(&stream.conn, self.room(to));
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending => {
                        // Room that nothing is there for is other streams'.
                        to.reserve_capacity(0);
                        return to.poll_reset(cx).map(|_| Sent::Gone);
                    }
                    Poll::Ready(None) => self.is_last = true,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(broken(stream, &error)),
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            self.piece = data;
                            self.is_last = body.is_end_stream();
                        }
                        Err(frame) => {
                            let trailers = frame.into_trailers().unwrap_or_default();
                            let sent = self.left.is_none_or(|left| left == 0) && to.send_trailers(trailers).is_ok();
                            return Poll::Ready(if sent { Sent::Whole } else { Sent::Gone });
                        }
                    },
                }
                let length = self.piece.len() as u64;
                self.left = match self.left.map(|left| left.checked_sub(length)) {
                    Some(None) => return Poll::Ready(broken(stream, &"the body is longer than its length".into())),
                    Some(left) => left,
                    None => None,
                };
                if self.is_last && self.left.is_some_and(|left| left > 0) {
                    return Poll::Ready(broken(stream, &"the body is shorter than its length".into()));
                }
                if self.piece.is_empty() && !self.is_last {
                    continue;
                }
            }
            let mut now = Bytes::new();
            if !self.piece.is_empty() {
                let Poll::Ready(room) = self.poll_room(cx, stream, to) else {
                    self.part.holds(&self.lower.flow, self.piece.len());
                    return Poll::Pending;
                };
                let Some(room) = room else { return Poll::Ready(Sent::Gone) };
                now = self.piece.split_to(room.min(self.piece.len()));
                stream.writing.went(now.len());
                self.lower.flow.give(&now);
                self.part.holds(&self.lower.flow, 0);
            }
            let is_end = self.is_last && self.piece.is_empty();
            if to.send_data(now, is_end).is_err() {
                return Poll::Ready(Sent::Gone);
            }
            if is_end {
                return Poll::Ready(Sent::Whole);
            }
            connection.lower.meter.borrow_mut().sent();
        }
    }

    /// How much of the body there would be room for.
    fn room(&self, to: &mut SendStream<Bytes>) -> usize {
        let most = self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(SEND_BUFFER).min(SEND_BUFFER);
        if most <= LITTLE || !self.lower.flow.has_room() {
            return 0;
        }
        to.reserve_capacity(most);
        to.capacity()
    }

    /// Bytes of the piece that may be sent now. `None`: the stream is gone.
    fn poll_room(&mut self, cx: &mut Context<'_>, stream: &Stream, to: &mut SendStream<Bytes>) -> Poll<Option<usize>> {
        to.reserve_capacity(self.piece.len());
        let room = loop {
            match to.capacity() {
                0 => {}
                room => break room,
            }
            match to.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                Poll::Pending => {
                    stream.writing.waits();
                    return Poll::Pending;
                }
            }
        };
        match self.part.poll_turn(cx, &self.lower.flow) {
            Poll::Ready(()) => Poll::Ready(Some(room)),
            Poll::Pending => to.poll_reset(cx).map(|_| None),
        }
    }
}

/// Tells whoever reads the answer how much of it there is room for.
fn allow(conn: &Conn, bytes: usize) {
    if let Some(ahead) = conn.ahead() {
        ahead.allow(bytes);
    }
}

/// A body that ends early must not look whole.
fn broken(stream: &Stream, error: &BoxError) -> Sent {
    tracing::debug!(client = stream.conn.peer_text(), %error, "an answer ended early");
    Sent::Reset(Reason::INTERNAL_ERROR)
}

impl Upload {
    /// Tells the client that what was handed on has been used.
    fn acknowledge(&self, from: &mut RecvStream) {
        let owed = self.owed.take();
        if owed > 0 {
            // It fails only for more than was received.
            let _ = from.flow_control().release_capacity(owed);
        }
    }
}

impl Source for Upload {
    fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let conn = &self.stream.conn;
        let mut place = self.from.borrow_mut();
        let Some(from) = &mut *place else {
            let ended = if self.whole.get() { None } else { Some(Err(io::ErrorKind::UnexpectedEof.into())) };
            return Poll::Ready(ended);
        };
        // A tunnel's fault is how it ends, which whoever drives it sees to.
        if conn.fault().is_some() && self.stream.tunnel.get().is_none() {
            return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into())));
        }
        if self.expects.take() {
            conn.interim(&ResponseHead::new(StatusCode::CONTINUE));
        }
        self.acknowledge(from);
        loop {
            let polled = from.poll_data(cx);
            if polled.is_pending() {
                self.stream.reading.waits();
            }
            let (data, is_end) = match ready!(polled) {
                Some(Ok(data)) => (data, from.is_end_stream()),
                Some(Err(error)) => {
                    if error.is_library() {
                        conn.set_fault(Fault::bad("a body that breaks the rules of HTTP/2"));
                    }
                    *place = None;
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                None => {
                    match ready!(from.poll_trailers(cx)) {
                        Ok(trailers) => *self.trailers.borrow_mut() = trailers,
                        Err(error) => {
                            *place = None;
                            return Poll::Ready(Some(Err(io::Error::other(error))));
                        }
                    }
                    (Bytes::new(), true)
                }
            };
            self.stream.reading.went(data.len());
            self.owed.set(data.len());
            if is_end {
                self.acknowledge(from);
                self.whole.set(true);
                conn.body_ended();
                *place = None;
                return Poll::Ready((!data.is_empty()).then_some(Ok(data)));
            }
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    fn take_trailers(&self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn is_end(&self) -> bool {
        self.whole.get() && self.trailers.borrow().is_none()
    }
}
