//! The small cell that everything about one client connection shares: the gate before hyper, the service, the bodies.
//!
//! hyper's HTTP/1 server hands a service a request and takes a response, and nothing more. What else must pass between
//! the socket and the service goes through here: that the request is a stand-in for one that was refused, that the body
//! being read turned out bad, interim responses, drain. One connection lives on one thread, so all of it is `Cell`s
//! behind an `Rc`. One request at a time: the gate lets the next head through only when the answer before it has gone
//! out, so "the request" below is never in doubt.

use std::cell::{Cell, Ref, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, StatusCode};

use super::forwarded;
use super::framing::{Fault, Framing};
use crate::model::{Listener, Reason};

/// What the parts of one client connection share. See the module.
pub struct Conn {
    /// Who connected, as the kernel says; an IPv4-mapped address is unmapped. `None`: over a Unix socket.
    pub peer: Option<IpAddr>,
    /// Where; as it was configured when the connection was accepted.
    pub listener: Arc<Listener>,
    /// Whether the peer is a proxy whose word about the client is taken; see [`forwarded::is_trusted`].
    pub is_trusted: bool,
    /// When the connection was accepted.
    pub started: Instant,
    peer_text: Box<str>,
    peer_field: HeaderValue,

    // The request that is being served. Written by the gate when it lets a head through.
    target: RefCell<Vec<u8>>,
    framing: Cell<Framing>,
    expects_continue: Cell<bool>,
    http_10: Cell<bool>,
    verdict: Cell<Option<Fault>>,

    // Its body. `fault` is written by the gate or the tick and ends the body with an error.
    fault: Cell<Option<Fault>>,
    body_done: Cell<bool>,

    // Its answer. `answered` is set when the service returned one, `finished` when the body of it has been dropped.
    answered: Cell<bool>,
    finished: Cell<bool>,
    interim: RefCell<Vec<u8>>,

    // The connection. `waker` is its task's.
    draining: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Conn {
    /// A connection that has been accepted and has sent nothing yet.
    pub fn new(peer: Option<IpAddr>, listener: Arc<Listener>, started: Instant) -> Rc<Self> {
        let peer = peer.map(|ip| ip.to_canonical());
        let peer_text: Box<str> = peer.map_or_else(|| "unix:".into(), |ip| ip.to_string().into());
        let unknown = HeaderValue::from_static("unknown");
        Rc::new(Self {
            peer,
            is_trusted: forwarded::is_trusted(peer, &listener.trusted_proxies),
            listener,
            started,
            peer_field: peer.and_then(|_| HeaderValue::from_str(&peer_text).ok()).unwrap_or(unknown),
            peer_text,
            target: RefCell::default(),
            framing: Cell::default(),
            expects_continue: Cell::default(),
            http_10: Cell::default(),
            verdict: Cell::default(),
            fault: Cell::default(),
            body_done: Cell::new(true),
            answered: Cell::default(),
            finished: Cell::default(),
            interim: RefCell::default(),
            draining: Cell::default(),
            waker: Cell::default(),
        })
    }

    /// The peer's address as text, without a port; over a Unix socket `unknown`, the word of RFC 7239, section 6.2.
    /// Formatted once per connection.
    pub fn peer_text(&self) -> &str {
        &self.peer_text
    }

    /// The same as backends are told it: `unknown` over a Unix socket (RFC 7239, 6.2).
    pub fn peer_field(&self) -> &HeaderValue {
        &self.peer_field
    }

    /// Set while the request being served is a stand-in of ours (`GET /`, or `HEAD /`) for one that was refused before
    /// it came this far: answer with this and nothing else. The connection closes after it.
    pub fn verdict(&self) -> Option<Reason> {
        self.verdict.get().map(|fault| fault.reason)
    }

    /// Set once the body that was being read has failed for the client's fault: it was malformed or too slow. The
    /// body's stream ends with an error then. Without a fault, such an error means that the client is gone.
    pub fn fault(&self) -> Option<Reason> {
        self.fault.get().map(|fault| fault.reason)
    }

    /// The verdict or the fault with all that is known of it, for the log and the metrics.
    pub fn complaint(&self) -> Option<Fault> {
        self.verdict.get().or(self.fault.get())
    }

    /// The request target as the client sent it; of a refused request as far as it was good, else empty. Not to be held
    /// across an await.
    pub fn target(&self) -> Ref<'_, [u8]> {
        Ref::map(self.target.borrow(), Vec::as_slice)
    }

    /// How the request's body ends, by the gate's reading.
    pub fn framing(&self) -> Framing {
        self.framing.get()
    }

    /// Whether the client waits for 100 (Continue) before it sends the body. hyper sends one when the body is first
    /// polled and no answer has begun.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue.get()
    }

    /// Whether bytes of the request's body are still to come from the client.
    pub fn body_pending(&self) -> bool {
        !self.body_done.get()
    }

    /// Sends an interim response (103 and the like; 100 is hyper's) ahead of the final one. Does nothing once the final
    /// one has begun, nor for a client of HTTP/1.0, which knows none (RFC 9110, 15.2).
    pub fn interim(&self, status: StatusCode, headers: &HeaderMap) {
        if !status.is_informational() || self.answered.get() || self.http_10.get() || self.verdict.get().is_some() {
            return;
        }
        let mut out = self.interim.borrow_mut();
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        drop(out);
        self.wake();
    }

    /// Whether the connection ends after the answer being made.
    pub fn draining(&self) -> bool {
        self.draining.get()
    }
}

/// For the gate and the server, which make what the service reads.
impl Conn {
    /// A good head is let through.
    pub(crate) fn begin(&self, target: &[u8], framing: Framing, expects_continue: bool, http_10: bool) {
        self.start(target);
        self.framing.set(framing);
        self.expects_continue.set(expects_continue);
        self.http_10.set(http_10);
        self.body_done.set(framing == Framing::Empty);
    }

    /// A stand-in for a refused head is let through.
    pub(crate) fn refuse(&self, fault: Fault, target: &[u8]) {
        self.start(target);
        self.framing.set(Framing::Empty);
        self.expects_continue.set(false);
        self.body_done.set(true);
        self.verdict.set(Some(fault));
    }

    fn start(&self, target: &[u8]) {
        let mut kept = self.target.borrow_mut();
        kept.clear();
        // One long target must not cost the connection its memory for life.
        kept.shrink_to(256);
        kept.extend_from_slice(target);
        self.fault.set(None);
        self.answered.set(false);
        self.finished.set(false);
    }

    pub(crate) fn body_ended(&self) {
        self.body_done.set(true);
    }

    /// The body that is being read fails, at the gate's next turn.
    pub(crate) fn set_fault(&self, fault: Fault) {
        if self.fault.get().is_none() {
            self.fault.set(Some(fault));
        }
    }

    /// The service has returned its response.
    pub(crate) fn set_answered(&self) {
        self.answered.set(true);
    }

    pub(crate) fn answered(&self) -> bool {
        self.answered.get()
    }

    /// The response's body has ended or was given up.
    pub(crate) fn set_finished(&self) {
        self.finished.set(true);
    }

    pub(crate) fn finished(&self) -> bool {
        self.finished.get()
    }

    /// Interim responses that are not on their way yet.
    pub(crate) fn interims(&self) -> &RefCell<Vec<u8>> {
        &self.interim
    }

    pub(crate) fn set_draining(&self) {
        self.draining.set(true);
    }

    /// Has the connection's task run.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    /// The connection's task is this one.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let current = self.waker.take();
        let kept = current.filter(|old| old.will_wake(waker)).unwrap_or_else(|| waker.clone());
        self.waker.set(Some(kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Bind;

    fn conn(peer: Option<&str>) -> Rc<Conn> {
        let bind = Bind::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = Listener { name: "x".into(), bind, trusted_proxies: vec![] };
        Conn::new(peer.map(|ip| ip.parse().unwrap()), Arc::new(listener), Instant::now())
    }

    #[test]
    fn a_mapped_address_is_unmapped() {
        assert_eq!(conn(Some("::ffff:10.0.0.1")).peer_text(), "10.0.0.1");
        assert_eq!(conn(Some("::1")).peer_text(), "::1");
        assert_eq!(conn(None).peer_text(), "unix:");
        assert_eq!(
            (conn(Some("::1")).peer_field(), conn(None).peer_field()),
            (&"::1".parse().unwrap(), &"unknown".parse().unwrap())
        );
    }

    #[test]
    fn interim_responses_stop_with_the_answer() {
        let conn = conn(None);
        conn.begin(b"/", Framing::Empty, false, false);
        let mut fields = HeaderMap::new();
        fields.insert("link", "</a>; rel=preload".parse().unwrap());
        conn.interim(StatusCode::EARLY_HINTS, &fields);
        let expected = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n";
        assert_eq!(conn.interims().borrow().as_slice(), expected);
        conn.set_answered();
        conn.interim(StatusCode::EARLY_HINTS, &fields);
        assert_eq!(conn.interims().borrow().len(), expected.len());
        conn.interims().borrow_mut().clear();
        conn.begin(b"/", Framing::Empty, false, true);
        conn.interim(StatusCode::EARLY_HINTS, &fields);
        assert!(conn.interims().borrow().is_empty());
    }
}
