//! The response on its way to the client: a backend's or our own, counted as it goes.
//!
//! A backend that sends nothing for `timeouts.idle` and takes nothing of what is left of the request, or ends its body
//! early, makes the client's connection end without a proper end of the message: that is the only way left to say that the
//! body is not whole.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::attempt::Serving;
use super::ticket::Ticket;
use super::tunnel::Tunnel;
use crate::message::body::BodyFault;
use crate::message::fields::Fields;
use crate::message::tunnel::Duplex;
use crate::message::{grpc, load_report, respond, trailers};
use crate::model::Reason;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What goes to the client.
pub struct ResponseBody<U> {
    inner: Inner<U>,
    ticket: Box<Ticket>,
}

enum Inner<U> {
    Own(Option<Bytes>),
    Backend(Box<Relay<U>>),
    Tunnel(Box<Tunnel<U>>),
    Over,
}

/// A backend's body, and what to hold on to until it has ended.
pub(crate) struct Relay<U> {
    pub(crate) body: U,
    pub(crate) serving: Serving,
    pub(crate) idle: Duration,
    /// Of a call: when its client stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// Since when the backend is being waited for; a client that reads slowly does not count against it.
    pub(crate) waiting: Option<Instant>,
    pub(crate) timer: Option<Pin<Box<Sleep>>>,
}

impl<U> ResponseBody<U>
where
    U: Duplex + Unpin,
    U::Error: Into<BoxError>,
{
    /// An answer of our own. Nothing can go wrong with it any more but the client's leaving.
    pub(crate) fn own(body: Bytes, mut ticket: Box<Ticket>) -> Self {
        // For HEAD the body is never asked for; what counts is that there is an answer.
        ticket.complete = true;
        Self { inner: Inner::Own((!body.is_empty()).then_some(body)), ticket }
    }

    /// A backend's answer.
    pub(crate) fn backend(relay: Box<Relay<U>>, ticket: Box<Ticket>) -> Self {
        if ticket.status == Some(StatusCode::SWITCHING_PROTOCOLS) {
            return Self { inner: Inner::Tunnel(Box::new(Tunnel::new(*relay))), ticket };
        }
        let mut body = Self { inner: Inner::Backend(relay), ticket };
        if let Inner::Backend(relay) = &body.inner
            && relay.body.is_end_stream()
        {
            body.end(None);
        }
        body
    }

    /// The trailers of a backend's body, which are its end: what the client gets of them.
    fn trailers(&mut self, mut trailers: HeaderMap) -> HeaderMap {
        trailers::strip(&mut trailers);
        if let Inner::Backend(relay) = &mut self.inner {
            if let Some(call) = &mut self.ticket.call {
                call.status =
                    trailers.get(grpc::STATUS).and_then(|value| grpc::number(value.as_bytes())).or(call.status);
                if call.status == Some(grpc::UNAVAILABLE) {
                    relay.serving.unavailable();
                }
            }
            // A report on this call: for servers of gRPC that is the place for it.
            let mut fields = Fields::default();
            for name in load_report::NAMES {
                trailers.get_all(name).iter().for_each(|value| fields.push(name.as_bytes(), value.as_bytes()));
                trailers.remove(name);
            }
            relay.serving.hear(&mut fields);
        }
        self.end(None);
        trailers
    }

    /// The client of a call does not wait any longer. Of HTTP/1 the end must not look like a good one.
    fn out_of_time(&mut self) -> Result<Frame<Bytes>, BoxError> {
        self.inner = Inner::Over;
        self.ticket.reason = Some(Reason::UpstreamTimeout);
        if let Some(call) = &mut self.ticket.call {
            call.end(Reason::UpstreamTimeout);
        }
        match self.ticket.head.version {
            Version::HTTP_2 => Ok(Frame::trailers(respond::call_ended(Reason::UpstreamTimeout))),
            _ => Err("the client's time for the call is over".into()),
        }
    }

    /// The end of a backend's body; `Some`: it is not whole.
    fn end(&mut self, cut: Option<Reason>) {
        if let Inner::Backend(mut relay) = std::mem::replace(&mut self.inner, Inner::Over) {
            match cut {
                None => {
                    relay.serving.complete();
                    self.ticket.complete = true;
                }
                Some(reason) => {
                    relay.serving.truncated();
                    self.ticket.reason = Some(reason);
                }
            }
        }
    }
}

impl<U> Body for ResponseBody<U>
where
    U: Duplex + Unpin,
    U::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let relay = match &mut this.inner {
            Inner::Over => return Poll::Ready(None),
            Inner::Own(body) => {
                let data = body.take();
                this.ticket.bytes_out += data.as_ref().map_or(0, |data| data.len() as u64);
                return Poll::Ready(data.map(|data| Ok(Frame::data(data))));
            }
            Inner::Tunnel(tunnel) => return tunnel.poll_frame(cx, &mut this.ticket),
            Inner::Backend(relay) => relay,
        };
        if relay.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Poll::Ready(Some(this.out_of_time()));
        }
        loop {
            match Pin::new(&mut relay.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let data = match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => {
                            let Ok(trailers) = frame.into_trailers() else { continue };
                            return Poll::Ready(Some(Ok(Frame::trailers(this.trailers(trailers)))));
                        }
                    };
                    this.ticket.bytes_out += data.len() as u64;
                    relay.waiting = None;
                    if relay.body.is_end_stream() {
                        this.end(None);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(None) => {
                    this.end(None);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    let error = error.into();
                    // With the request's body ends the exchange, and then it is not the backend who ended it.
                    let fault = this.ticket.upload.as_ref().and_then(|upload| upload.fault());
                    match fault.filter(|fault| *fault != BodyFault::Over) {
                        Some(fault) => {
                            this.ticket.reason = Some(this.ticket.client_fault(fault));
                            this.inner = Inner::Over;
                        }
                        None => {
                            tracing::warn!(backend = relay.serving.label(), %error, "a response body ended early");
                            this.end(Some(Reason::UpstreamTruncated));
                        }
                    }
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => break,
            }
        }
        // What is left of the request may be on its way: then it is the exchange that must not stand still.
        let upload = this.ticket.upload.as_ref().map(|upload| upload.progress());
        let since = *relay.waiting.get_or_insert_with(Instant::now);
        let due = upload.map_or(since, |(progress, _)| since.max(progress)) + relay.idle;
        let is_last = relay.deadline.is_some_and(|deadline| deadline <= due);
        let due = relay.deadline.map_or(due, |deadline| deadline.min(due));
        let timer = relay.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            // The timer is left alone while data flows, so it may speak of an earlier wait.
            if due > Instant::now() {
                timer.as_mut().reset(due);
                continue;
            }
            if is_last {
                return Poll::Ready(Some(this.out_of_time()));
            }
            if upload.is_some_and(|(_, is_clients_turn)| is_clients_turn) {
                this.ticket.reason = Some(Reason::BodyTimeout);
                this.inner = Inner::Over;
                return Poll::Ready(Some(Err("the request's body stalled".into())));
            }
            tracing::warn!(backend = relay.serving.label(), idle = ?relay.idle, "a response body stalled");
            this.end(Some(Reason::UpstreamStalled));
            return Poll::Ready(Some(Err("the backend's body stalled".into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Own(body) => body.is_none(),
            Inner::Backend(relay) => relay.body.is_end_stream(),
            Inner::Tunnel(_) => false,
            Inner::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Own(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Inner::Backend(relay) => relay.body.size_hint(),
            Inner::Tunnel(_) => SizeHint::default(),
            Inner::Over => SizeHint::with_exact(0),
        }
    }
}

impl<U> Duplex for ResponseBody<U>
where
    U: Duplex + Unpin,
    U::Error: Into<BoxError>,
{
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.inner {
            Inner::Tunnel(tunnel) => tunnel.poll_up(cx, &mut self.ticket),
            Inner::Own(_) | Inner::Backend(_) | Inner::Over => Poll::Ready(Ok(())),
        }
    }
}
