//! The small cell that everything about one client connection shares: its stream, the service, the bodies.
//!
//! A service is handed a request and gives a response, and nothing more. What else must pass between the socket and the
//! service goes through here: that the request was refused, that the body being read turned out bad, interim responses,
//! drain. One connection lives on one thread, so all of it is `Cell`s behind an `Rc`. One request at a time: over HTTP/1 the
//! next head is read when the answer before it has gone out, and each stream of HTTP/2 has a cell of its own, so "the
//! request" below is never in doubt.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use http::Version;
use tokio::time::Instant;

use super::ahead::Ahead;
use super::fields::Fields;
use super::forwarded;
use super::framing::Fault;
use super::head::{RequestHead, ResponseHead};
use super::hop::HOP_BY_HOP;
use super::proxy_protocol;
use super::secure::Secure;
use super::tunnel::Tunnel;
use crate::model::{Listener, ProxyProtocol, Reason};

/// Between whom a connection is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends {
    /// Who connected, as the kernel says or the header of a trusted proxy. `None`: over a Unix socket.
    pub source: Option<SocketAddr>,
    /// Where, by the same word. `None`: over a Unix socket.
    pub destination: Option<SocketAddr>,
    /// A proxy has connected for somebody and does not say for whom: `source` is that proxy, but what comes is not its
    /// word.
    pub is_anonymous: bool,
}

impl Ends {
    /// Who connected, without a port; an IPv4-mapped address is unmapped.
    pub fn peer(&self) -> Option<IpAddr> {
        self.source.map(|source| source.ip().to_canonical())
    }
}

/// What the parts of one client connection share. See the module.
pub struct Conn {
    /// Who connected: the address of `ends`; an IPv4-mapped one is unmapped. `None`: over a Unix socket.
    pub peer: Option<IpAddr>,
    /// Where; as it was configured when the connection was accepted.
    pub listener: Arc<Listener>,
    /// Whether the peer is a proxy whose word about the client is taken; see [`forwarded::is_trusted`].
    pub is_trusted: bool,
    /// Both ends, with their ports.
    pub ends: Ends,
    peer_text: Rc<str>,
    /// Written when its handshake is over.
    secure: OnceCell<Rc<Secure>>,

    // The request that is being served. Written when its head has been read.
    http_10: Cell<bool>,
    verdict: Cell<Option<Fault>>,

    // Its body. `fault` is written by whoever reads it or the tick, and ends the body with an error.
    fault: Cell<Option<Fault>>,
    body_done: Cell<bool>,

    /// When it must be over, if that is said: the request, its answer and all.
    end: Cell<Option<Instant>>,
    tunnel: Cell<Tunnel>,

    // Its answer. `answered` is set when the service returned one.
    answered: Cell<bool>,
    interim: RefCell<Vec<u8>>,
    /// The same of a stream of HTTP/2, where they are not text.
    interim_heads: Option<RefCell<Vec<ResponseHead>>>,
    /// Of a stream, too: how much of the answer there is room for.
    ahead: Option<Rc<Ahead>>,

    // The connection. `waker` is its task's.
    draining: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Conn {
    /// A connection that has been accepted and has sent nothing yet.
    pub fn new(peer: Option<IpAddr>, listener: Arc<Listener>) -> Rc<Self> {
        let source = peer.map(|ip| SocketAddr::new(ip, 0));
        Self::between(Ends { source, ..Ends::default() }, listener)
    }

    /// The same, with all that is known of its ends.
    pub fn between(ends: Ends, listener: Arc<Listener>) -> Rc<Self> {
        let peer = ends.peer();
        let peer_text: Rc<str> = peer.map_or_else(|| "unix:".into(), |ip| ip.to_string().into());
        let is_trusted = !ends.is_anonymous && forwarded::is_trusted(peer, &listener.trusted_proxies);
        Rc::new(Self::made(ends, listener, is_trusted, peer_text, None))
    }

    fn made(
        ends: Ends,
        listener: Arc<Listener>,
        is_trusted: bool,
        peer_text: Rc<str>,
        interim_heads: Option<RefCell<Vec<ResponseHead>>>,
    ) -> Self {
        Self {
            peer: ends.peer(),
            is_trusted,
            ends,
            listener,
            peer_text,
            secure: OnceCell::new(),
            http_10: Cell::default(),
            verdict: Cell::default(),
            fault: Cell::default(),
            body_done: Cell::new(true),
            end: Cell::default(),
            tunnel: Cell::default(),
            answered: Cell::default(),
            interim: RefCell::default(),
            ahead: interim_heads.is_some().then(Rc::default),
            interim_heads,
            draining: Cell::default(),
            waker: Cell::default(),
        }
    }

    /// The peer's address as text, without a port; `unix:` over a Unix socket. Formatted once per connection.
    pub fn peer_text(&self) -> &str {
        &self.peer_text
    }

    /// The same as backends are told it: `unknown` over a Unix socket (RFC 7239, 6.2).
    pub fn peer_field(&self) -> &str {
        if self.peer.is_some() { &self.peer_text } else { "unknown" }
    }

    /// Who a request comes from: the peer, or behind trusted proxies whoever they say.
    pub fn client(&self, fields: &Fields) -> Option<IpAddr> {
        if self.is_trusted { forwarded::client(self.peer, &self.listener.trusted_proxies, fields) } else { self.peer }
    }

    /// What a connection to a backend begins with that is made for a request with these fields.
    pub fn announcement(&self, version: ProxyProtocol, fields: &Fields) -> Vec<u8> {
        let client = self.client(fields);
        // Only of the peer itself the port is known.
        let source = if client == self.peer { self.ends.source } else { client.map(|ip| SocketAddr::new(ip, 0)) };
        proxy_protocol::write(version, source.filter(|_| !self.ends.is_anonymous), self.ends.destination)
    }

    /// What its handshake found out; `None`: in clear.
    pub fn secure(&self) -> Option<&Secure> {
        self.secure.get().map(|secure| &**secure)
    }

    /// What clients write before the host.
    pub fn scheme(&self) -> &'static str {
        if self.secure.get().is_some() { "https" } else { "http" }
    }

    /// Set while the request being served is a stand-in of ours for one that was refused before it came this far: answer
    /// with this and nothing else. The connection closes after it.
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

    /// How much of the answer may be read at a time; `None`: as much as comes.
    pub fn ahead(&self) -> Option<&Rc<Ahead>> {
        self.ahead.as_ref()
    }

    /// Whether bytes of the request's body are still to come from the client.
    pub fn body_pending(&self) -> bool {
        !self.body_done.get()
    }

    /// The exchange must be over by then; what is left of it is cut off.
    pub fn must_end(&self, at: Instant) {
        self.end.set(Some(at));
    }

    /// Whether a tunnel was asked of a backend for the request, and whether it agreed.
    pub fn tunnel(&self) -> Tunnel {
        self.tunnel.get()
    }

    /// The request has got so far. A tunnel has no end but its own.
    pub fn set_tunnel(&self, tunnel: Tunnel) {
        self.tunnel.set(tunnel);
        if tunnel != Tunnel::Asked {
            self.end.set(None);
        }
    }

    /// Sends an interim response ahead of the final one. Does nothing once the final one has begun, nor for a client of
    /// HTTP/1.0, which knows none (RFC 9110, 15.2).
    pub fn interim(&self, head: &ResponseHead) {
        let unknown = self.http_10.get() || self.verdict.get().is_some();
        if !head.status.is_informational() || self.answered.get() || unknown {
            return;
        }
        if let Some(heads) = &self.interim_heads {
            heads.borrow_mut().push(head.clone());
            return self.wake();
        }
        let mut out = self.interim.borrow_mut();
        head.write(&mut out, Version::HTTP_11, HOP_BY_HOP);
        out.extend_from_slice(b"\r\n");
        drop(out);
        self.wake();
    }

    /// Whether the connection ends after the answer being made.
    pub fn draining(&self) -> bool {
        self.draining.get()
    }
}

/// For the stream and the server, which make what the service reads.
impl Conn {
    /// The cell of one stream of this connection, which carries many requests at a time (HTTP/2). Its task is the one
    /// that serves the stream.
    pub(crate) fn stream(&self) -> Rc<Self> {
        let (listener, peer_text) = (Arc::clone(&self.listener), Rc::clone(&self.peer_text));
        let mut stream = Self::made(self.ends, listener, self.is_trusted, peer_text, Some(RefCell::default()));
        stream.secure = self.secure.clone();
        Rc::new(stream)
    }

    /// Interim responses of a stream that are not on their way yet.
    pub(crate) fn take_interim_heads(&self) -> Vec<ResponseHead> {
        // Taking nothing allocates nothing.
        self.interim_heads.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// The handshake is over. Once.
    pub(crate) fn set_secure(&self, secure: Rc<Secure>) {
        let _ = self.secure.set(secure);
    }

    /// A good head has been read.
    pub(crate) fn begin(&self, head: &RequestHead) {
        self.http_10.set(head.version == Version::HTTP_10);
        self.body_done.set(head.framing == super::framing::Framing::Empty);
        self.fault.set(None);
        self.end.set(None);
        self.tunnel.set(Tunnel::No);
        self.answered.set(false);
    }

    /// A head has been refused.
    pub(crate) fn refuse(&self, fault: Fault) {
        self.body_done.set(true);
        self.fault.set(None);
        self.end.set(None);
        self.tunnel.set(Tunnel::No);
        self.answered.set(false);
        self.verdict.set(Some(fault));
    }

    pub(crate) fn end(&self) -> Option<Instant> {
        self.end.get()
    }

    pub(crate) fn body_ended(&self) {
        self.body_done.set(true);
    }

    /// The body that is being read fails, when it is read next.
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
        let listener = Listener::new("x", bind);
        Conn::new(peer.map(|ip| ip.parse().unwrap()), Arc::new(listener))
    }

    #[test]
    fn a_mapped_address_is_unmapped() {
        assert_eq!(conn(Some("::ffff:10.0.0.1")).peer_text(), "10.0.0.1");
        assert_eq!(conn(Some("::1")).peer_text(), "::1");
        assert_eq!(conn(None).peer_text(), "unix:");
        assert_eq!((conn(Some("::1")).peer_field(), conn(None).peer_field()), ("::1", "unknown"));
    }

    #[test]
    fn interim_responses_stop_with_the_answer() {
        let conn = conn(None);
        let mut request = RequestHead::new(http::Method::GET, "/", []);
        conn.begin(&request);
        let mut hints = ResponseHead::new(http::StatusCode::EARLY_HINTS);
        hints.fields.push(b"link", b"</a>; rel=preload");
        conn.interim(&hints);
        let expected = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n";
        assert_eq!(conn.interims().borrow().as_slice(), expected);
        conn.set_answered();
        conn.interim(&hints);
        assert_eq!(conn.interims().borrow().len(), expected.len());
        conn.interims().borrow_mut().clear();
        request.version = Version::HTTP_10;
        conn.begin(&request);
        conn.interim(&hints);
        assert!(conn.interims().borrow().is_empty());
    }
}
