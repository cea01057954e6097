//! What is known of one request, kept until its last byte has gone out; then counted and logged, once.
//!
//! The ticket travels: `handle` fills it, the response body carries it on. Whoever drops it ends the request, so a
//! client that disappears at any moment is counted and logged like every other.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::slots::{KeySlot, ServerSlot};
use crate::message::body::BodyFault;
use crate::message::conn::Conn;
use crate::message::respond;
use crate::model::Reason;
use crate::telemetry::{AccessLog, AccessRecord, InFlight};

/// What has become of a request's body: bytes received so far, and what went wrong.
pub(crate) type Upload = Box<dyn Fn() -> (u64, Option<BodyFault>)>;

/// One request, from its head to the end of its response.
pub(crate) struct Ticket {
    pub(crate) conn: Rc<Conn>,
    pub(crate) log: Rc<AccessLog>,
    pub(crate) time: SystemTime,
    pub(crate) started: Instant,
    pub(crate) request_id: HeaderValue,
    pub(crate) method: Method,
    pub(crate) host: Option<HeaderValue>,
    /// The client's address when it is not the peer's.
    pub(crate) client: Option<Box<str>>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) key: Option<Rc<KeySlot>>,
    pub(crate) in_flight: Option<InFlight>,
    /// That answered, else that was tried last.
    pub(crate) backend: Option<Rc<ServerSlot>>,
    pub(crate) attempts: u32,
    pub(crate) connect: Option<Duration>,
    /// From the start of the last try to its response head.
    pub(crate) upstream: Option<Duration>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) reason: Option<Reason>,
    pub(crate) bytes_in: u64,
    /// If the answer came before the request's body had ended.
    pub(crate) upload: Option<Upload>,
    pub(crate) bytes_out: u64,
    /// The response has gone out whole.
    pub(crate) complete: bool,
}

impl Ticket {
    /// The id as text; ids are made or checked to be visible ASCII.
    pub(crate) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or("")
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
            (self.bytes_in, _) = upload();
        }
        // An answer that did not go out whole, and no fault of the backend's is known: the client has left.
        if !self.complete && self.reason.is_none() {
            self.reason = Some(self.conn.fault().unwrap_or(Reason::ClientClosed));
        }
        let status = match (self.status, self.reason) {
            (Some(status), _) => status,
            (None, Some(reason)) => respond::status(reason),
            (None, None) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let total = self.started.elapsed();
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.finished(status.as_u16(), self.reason, total, self.bytes_in, self.bytes_out);
        }
        let peer = self.conn.peer.is_some().then(|| self.conn.peer_text());
        self.log.line(&AccessRecord {
            time: self.time,
            client: self.client.as_deref().or(peer).unwrap_or(""),
            listener: &self.conn.listener.name,
            method: self.method.as_str().as_bytes(),
            target: &self.conn.target(),
            host: self.host.as_ref().map_or(b"", HeaderValue::as_bytes),
            route: self.route.as_deref().unwrap_or(""),
            status: status.as_u16(),
            reason: self.reason,
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

/// Ours, from a trusted proxy if it is fit for a log, else new: 128 random bits in hex.
pub(crate) fn request_id(trusted: bool, given: Option<&HeaderValue>, random: u128) -> HeaderValue {
    let fit = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    if let Some(given) = given.filter(|_| trusted).filter(fit) {
        return given.clone();
    }
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (i, byte) in text.iter_mut().enumerate() {
        *byte = HEX[(random >> (4 * i)) as usize & 15];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_s_id_is_kept() {
        let given = HeaderValue::from_static("abc-1");
        let long = HeaderValue::from_str(&"x".repeat(129)).unwrap();
        let odd = HeaderValue::from_static("a b");
        assert_eq!(request_id(true, Some(&given), 1), given);
        for (trusted, value) in [(false, Some(&given)), (true, Some(&long)), (true, Some(&odd)), (true, None)] {
            assert_eq!(request_id(trusted, value, 0x2a).to_str().unwrap(), format!("a2{}", "0".repeat(30)));
        }
    }
}
