//! What is known of one request, kept until its last byte has gone out; then counted and logged, once.
//!
//! The ticket travels: `handle` fills it, the response body carries it on. Whoever drops it ends the request, so a
//! client that disappears at any moment is counted and logged like every other.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use tokio::time::Instant;

use super::attempt::Took;
use super::grpc::Call;
use super::slots::{KeySlot, ServerSlot};
use crate::hint::cold_path;
use crate::message::body::{BodyFault, Told};
use crate::message::conn::Conn;
use crate::message::{RequestHead, respond};
use crate::model::Reason;
use crate::telemetry::{AccessLog, AccessRecord, InFlight};

/// One request, from its head to the end of its response.
pub(crate) struct Ticket {
    pub(crate) conn: Rc<Conn>,
    pub(crate) log: Rc<AccessLog>,
    pub(crate) time: SystemTime,
    pub(crate) started: Instant,
    pub(crate) request_id: RequestId,
    pub(crate) head: Rc<RequestHead>,
    /// If it is a call of gRPC.
    pub(crate) call: Option<Box<Call>>,
    /// The client's address when it is not the peer's.
    pub(crate) client: Option<Box<str>>,
    pub(crate) route: Option<Rc<str>>,
    pub(crate) key: Option<Rc<KeySlot>>,
    pub(crate) in_flight: Option<InFlight>,
    /// That answered, else that was tried last.
    pub(crate) backend: Option<Rc<ServerSlot>>,
    pub(crate) attempts: u32,
    /// Since when a try has been under way.
    pub(crate) trying: Option<Instant>,
    pub(crate) connect: Option<Duration>,
    /// From the start of the last try to its response head.
    pub(crate) upstream: Option<Duration>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) reason: Option<Reason>,
    pub(crate) bytes_in: u64,
    /// Of the request's body, until its end is known.
    pub(crate) upload: Option<Rc<dyn Told>>,
    pub(crate) bytes_out: u64,
    /// The response has gone out whole.
    pub(crate) complete: bool,
}

impl Ticket {
    /// The id as text; ids are made or checked to be visible ASCII.
    pub(crate) fn request_id(&self) -> &str {
        str::from_utf8(self.request_id.as_bytes()).unwrap_or_default()
    }

    /// A try begins. It may be ended before anything else is known of it, by its client's leaving or its deadline.
    pub(crate) fn begins(&mut self, server: &Rc<ServerSlot>, now: Instant) {
        self.backend = Some(Rc::clone(server));
        self.trying = Some(now);
    }

    /// Of a call: when its client stops waiting.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.call.as_ref().and_then(|call| call.deadline)
    }

    /// A try is over.
    pub(crate) fn tried(&mut self, took: Took) {
        self.trying = None;
        self.attempts += 1;
        self.backend = Some(took.server);
        self.upstream = Some(took.upstream);
        self.connect = took.connect;
    }

    /// There was none, for want of a connection.
    pub(crate) fn not_tried(&mut self) {
        self.trying = None;
        if self.attempts == 0 {
            self.backend = None;
        }
    }

    /// The reason when the request's body is what ended the exchange.
    pub(crate) fn client_fault(&self, fault: BodyFault) -> Reason {
        match fault {
            BodyFault::TooLarge => Reason::RequestTooLarge,
            BodyFault::Client | BodyFault::Over => self.conn.fault().unwrap_or(Reason::ClientClosed),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            cold_path();
            self.bytes_in = upload.received();
        }
        if let Some(began) = self.trying {
            cold_path();
            self.attempts += 1;
            self.upstream = Some(began.elapsed());
        }
        // An answer that did not go out whole, and no fault of the backend's is known: the client has left.
        if !self.complete && self.reason.is_none() {
            cold_path();
            self.reason = Some(self.conn.fault().unwrap_or(Reason::ClientClosed));
        }
        let status = match (self.status, self.reason) {
            (Some(status), _) => status,
            (None, Some(reason)) => respond::status(reason),
            (None, None) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let total = self.started.elapsed();
        if let Some(in_flight) = self.in_flight.take() {
            // What we say to a call has the status 200; what it would have been otherwise says more.
            let is_ours = self.call.as_ref().is_some_and(|call| call.is_ours);
            let counted = match self.reason.filter(|_| is_ours) {
                Some(reason) => respond::status(reason),
                None => status,
            };
            in_flight.finished(counted.as_u16(), self.reason, total, self.bytes_in, self.bytes_out);
        }
        if !self.log.enabled() {
            return;
        }
        let secure = self.conn.secure();
        let peer = self.conn.peer.is_some().then(|| self.conn.peer_text());
        self.log.line(&AccessRecord {
            time: self.time,
            client: self.client.as_deref().or(peer).unwrap_or(""),
            listener: &self.conn.listener.name,
            tls_version: secure.map_or("", |secure| secure.version.as_str()),
            sni: secure.and_then(|secure| secure.sni.as_deref()).unwrap_or(""),
            method: self.head.method.as_str().as_bytes(),
            target: self.head.target(),
            host: self.head.authority(),
            route: self.route.as_deref().unwrap_or(""),
            status: status.as_u16(),
            reason: self.reason,
            grpc_status: self.call.as_ref().and_then(|call| call.status),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            asset: self.key.as_ref().map_or("", |key| &key.asset),
            region: self.key.as_ref().map_or("", |key| &key.region),
            backend: self.backend.as_ref().map_or("", |backend| &backend.label),
            attempts: self.attempts,
            duration: total,
            upstream: self.upstream,
            connect: self.connect,
            request_id: self.request_id.as_bytes(),
        });
    }
}

/// What a request is called in logs, at backends and by the client: 128 random bits in hex, or a trusted proxy's word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RequestId {
    Ours([u8; 32]),
    Given(Box<str>),
}

impl RequestId {
    /// `given`: what a trusted proxy says; kept if it is fit for a log.
    pub(crate) fn new(given: Option<&[u8]>, random: u128) -> Self {
        let fit = |bytes: &&[u8]| (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
        if let Some(given) = given.filter(fit).and_then(|given| str::from_utf8(given).ok()) {
            return Self::Given(given.into());
        }
        let mut text = [0; 32];
        let (quarters, _) = text.as_chunks_mut::<8>();
        for (quarter, random) in quarters.iter_mut().zip([random, random >> 32, random >> 64, random >> 96]) {
            *quarter = hex(random as u32).to_le_bytes();
        }
        Self::Ours(text)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ours(text) => text,
            Self::Given(text) => text.as_bytes(),
        }
    }
}

/// The digits of a number, the last one first, all eight at once: each half byte moves into a byte of its own, and those
/// above nine go on to the letters.
fn hex(number: u32) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let mut digits = u64::from(number);
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & (0x0f * ONES);
    // Adding six carries into the upper half of a byte from ten on.
    let letters = ((digits + 0x06 * ONES) >> 4) & ONES;
    digits + u64::from(b'0') * ONES + u64::from(b'a' - b'9' - 1) * letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_is_written() {
        assert_eq!(&hex(0x7654_3210).to_le_bytes(), b"01234567");
        assert_eq!(&hex(0xfedc_ba98).to_le_bytes(), b"89abcdef");
    }

    #[test]
    fn what_is_fit_for_a_log_is_kept() {
        let id = |given: Option<&str>| RequestId::new(given.map(str::as_bytes), 0x2a);
        assert_eq!(id(Some("abc-1")).as_bytes(), b"abc-1");
        for given in [Some("x".repeat(129)), Some("a b".into()), Some(String::new()), None] {
            assert_eq!(id(given.as_deref()).as_bytes(), format!("a2{}", "0".repeat(30)).as_bytes());
        }
    }
}
