//! An exchange over HTTP/2: RFC 9113, with prior knowledge (3.3).
//!
//! The seam is the same as for HTTP/1.1, and so is what holds: a request may be sent again only if it is certain that the
//! backend has not begun it. That is what the backend says itself (REFUSED_STREAM, or GOAWAY with a lower stream, 8.7), or
//! what the account of the socket says: not a byte has left since.
//!
//! A library speaks the protocol (h2); it needs a task for each connection, and none for an exchange. What it does not know
//! is added here: how many connections, which of them, deadlines, whether a peer is alive.

mod body;
mod head;
pub(super) mod link;
#[cfg(test)]
mod tests;
mod tunnel;
mod upload;
mod wire;

pub(super) use body::Streaming;
pub(super) use link::Links;
pub(super) use tunnel::Tunnel;

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::response;
use http_body::Body;
use tokio::time::Instant;

use self::body::Upload;
use self::link::Place;
use self::upload::{Failed, Sending};
use super::client::{MAX_INTERIM, due};
use super::connection::Worker;
use super::{BoxError, Error, ErrorKind, Outgoing, Reply, ResponseBody, Terms};
use crate::backend::Backend;
use crate::message::{Response, ResponseHead};

/// Sends one request and waits for the response head. See [`Client::exchange`](super::Client::exchange).
pub(super) async fn exchange<B>(
    worker: &Rc<Worker>,
    backend: &Arc<Backend>,
    terms: &Terms<'_>,
    request: Outgoing<B>,
) -> Result<Reply<B>, Error>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let Outgoing { head: lines, is_head: to_head, says_length, is_apart, body, mut upgrade } = request;
    let length = body.size_hint().exact().filter(|length| says_length || *length > 0);
    let (place, connect) = Links::place(worker, backend, terms).await?;
    // For a server that has not said that it knows the word this would be a CONNECT to itself (RFC 8441, 3).
    if upgrade.is_some() && !place.takes_tunnels() {
        return Err(Error { connect, ..Error::new(ErrorKind::NoTunnel, false) });
    }
    let protocol = upgrade.as_ref().map(|upgrade| &*upgrade.protocol);
    let request = head::request(&lines, length, backend.tls.is_some(), protocol)
        .ok_or_else(|| Error::new(ErrorKind::Protocol, false).because("a request that HTTP/2 can't express"))?;
    worker.memory.give_back(lines);
    let mut talk = Talk { worker, terms, mark: place.written(), upload: None, asking: None, interims: 0 };
    let result = match talk.send(&place, request, body, protocol.is_some()) {
        Ok(response) => {
            let began = if connect.is_some() { Instant::now() } else { terms.began };
            talk.head(&place, response, began).await
        }
        Err(error) => Err(talk.judge(&place, error)),
    };
    let (parts, recv) = result.map_err(|error| {
        if error.kind == ErrorKind::Timeout {
            place.had_no_answer();
        }
        Error { connect, ..error }
    })?;
    let at = Instant::now();
    if let (Some(mut to), Some(upgrade)) = (talk.asking.take(), upgrade.take()) {
        if parts.status.is_success() {
            let agreed = tunnel::agreed(&parts, recv, to, *upgrade, place);
            let agreed = agreed.map_err(|fault| Error { connect, ..Error::from(fault) })?;
            return Ok(Reply { response: agreed.map(ResponseBody::stream), connect, at });
        }
        // It fails if the stream is over, as it should be.
        let _ = to.send_data(Bytes::new(), true);
    }
    // Of an answer that is none nothing goes on, the upload neither.
    let (head, length) = head::response(&parts).map_err(|fault| Error { connect, ..fault.into() })?;
    let upload = match talk.upload.take() {
        None => Upload::Done,
        Some(sending) if is_apart => Upload::detach(sending),
        Some(sending) => Upload::Here(sending),
    };
    match answer(head, length, recv, upload, to_head, place) {
        Ok(response) => Ok(Reply { response, connect, at }),
        Err(error) => Err(Error { connect, ..error }),
    }
}

/// The response, if its body is not known to break off.
fn answer<B>(
    head: ResponseHead,
    length: Option<u64>,
    recv: RecvStream,
    upload: Upload<B>,
    to_head: bool,
    place: Place,
) -> Result<Response<ResponseBody<B>>, Error>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let is_bodyless = head::is_bodyless(head.status, to_head);
    if is_bodyless && recv.is_end_stream() && matches!(upload, Upload::Done) {
        return Ok(Response { head, body: ResponseBody::empty() });
    }
    let length = if is_bodyless { Some(0) } else { length };
    let mut body = Streaming::new(recv, upload, length, place);
    let looked = body.look_ahead(&mut Context::from_waker(Waker::noop()));
    if let Err(error) = looked {
        return Err(Error::new(ErrorKind::Truncated, true).because(error));
    }
    Ok(Response { head, body: ResponseBody::shared(body) })
}

/// The head of a response, and the way to its body.
type Head = (response::Parts, RecvStream);

/// One request on one connection.
struct Talk<'a, B> {
    worker: &'a Worker,
    terms: &'a Terms<'a>,
    /// What the socket had taken before.
    mark: u64,
    /// `None`: the request has been sent whole.
    upload: Option<Sending<B>>,
    /// The way up, of a request for a tunnel.
    asking: Option<SendStream<Bytes>>,
    interims: usize,
}

impl<B> Talk<'_, B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Opens a stream.
    fn send(
        &mut self,
        place: &Place,
        request: http::Request<()>,
        body: B,
        asks: bool,
    ) -> Result<ResponseFuture, h2::Error> {
        if asks {
            let (response, stream) = place.sender().send_request(request, false)?;
            self.asking = Some(stream);
            return Ok(response);
        }
        let is_empty = body.is_end_stream();
        let (response, stream) = place.sender().send_request(request, is_empty)?;
        if !is_empty {
            self.upload = Some(Sending::new(stream, body));
        }
        Ok(response)
    }

    /// Waits for the response head, passing interim responses on and keeping to the terms.
    async fn head(&mut self, place: &Place, mut response: ResponseFuture, began: Instant) -> Result<Head, Error> {
        let mut now = Some(began);
        let worker = self.worker;
        let mut alarm = worker.alarms.alarm();
        poll_fn(|cx| {
            if let Poll::Ready(result) = self.poll_head(cx, place, &mut response) {
                return Poll::Ready(result);
            }
            let (at, kind) = due(self.terms, began, cx.waker());
            let now = now.take().unwrap_or_else(Instant::now);
            alarm.poll(cx, at, now).map(|()| Err(self.gave(place, Error::new(kind, false))))
        })
        .await
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        place: &Place,
        response: &mut ResponseFuture,
    ) -> Poll<Result<Head, Error>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(sent) = upload.poll_send(cx)
        {
            if let Err(Failed::Body(error)) = sent {
                upload.abort();
                return Poll::Ready(Err(self.gave(place, Error::new(ErrorKind::Body, false).because(error))));
            }
            // A backend that reads no further may have answered.
            self.upload = None;
        }
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            match head::response(&interim.into_parts().0) {
                Ok((head, _)) => {
                    self.interims += 1;
                    if self.interims <= MAX_INTERIM {
                        (self.terms.interim)(head);
                    }
                }
                Err(fault) => return Poll::Ready(Err(self.gave(place, fault.into()))),
            }
        }
        match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => {
                let (parts, recv) = response.into_parts();
                Poll::Ready(Ok((parts, recv)))
            }
            Err(error) => Poll::Ready(Err(self.judge(place, error))),
        }
    }

    /// What an error of the library means for the request.
    fn judge(&self, place: &Place, error: h2::Error) -> Error {
        // The backend's word that it has not begun with this one (RFC 9113, 8.7). The library ends a stream with a GOAWAY
        // only if its number is above the last one that the backend has taken.
        let is_refused = error.is_remote() && error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let is_left_out = error.is_remote() && error.is_go_away();
        let was_closing = is_left_out || error.is_io();
        let is_theirs = error.is_remote() || error.is_io();
        let kind = if is_theirs { ErrorKind::Reset } else { ErrorKind::Protocol };
        let gave = self.gave(place, Error::new(kind, false).because(error));
        let wrote = gave.wrote && !is_refused && !is_left_out;
        Error { wrote, is_stale: was_closing && !wrote, ..gave }
    }

    /// Whether the backend may have seen the request is what the socket knows.
    fn gave(&self, place: &Place, error: Error) -> Error {
        Error { wrote: place.written() > self.mark, ..error }
    }
}
