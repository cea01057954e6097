//! One check of one backend over HTTP/2: a GET as over HTTP/1.1, or the health protocol of gRPC.
//!
//! That protocol is one call, `grpc.health.v1.Health/Check`, with the name of a service and a number for an answer
//! (grpc/doc/health-checking.md). Its two messages have one field each, so they are written and read by hand.
//!
//! The connection is driven by the check that uses it; between two checks nobody looks at it.

use std::future::poll_fn;
use std::io;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use h2::client::{Builder, Connection, SendRequest};
use http::{HeaderMap, Method, Request};
use tokio::time::{Instant, timeout_at};

use super::drain;
use super::exchange::{Answer, Failed, Failure, Link, connect, host_of};
use crate::backend::{Cause, Check};
use crate::message::grpc;
use crate::model::{Announcement, HealthCheck, StatusRange};
use crate::upstream::Stream;

/// Bytes of a body that are read. That of a call is smaller than any bound.
const MAX_BODY: usize = drain::MAX_BODY;
/// Bytes of a head.
const MAX_HEAD: u32 = 16 * 1024;
/// SERVING, of `grpc.health.v1.HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

/// A connection that is kept between checks.
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    connection: Box<Connection<Stream, Bytes>>,
}

/// What came back.
struct Reply {
    status: u16,
    said: Option<Announcement>,
    body: Vec<u8>,
    /// Of a call, wherever it stood.
    grpc_status: Option<u32>,
}

/// Asks once.
pub(super) async fn ask(check: &Check, kept: Option<Link>) -> Answer {
    let HealthCheck { timeout, http, .. } = &check.settings;
    let deadline = Instant::now() + *timeout;
    let (reply, link) = match timeout_at(deadline, answer(check, kept)).await {
        Err(_) => return Answer::failed(Cause::Timeout),
        Ok(Err(Failed { failure, why })) => return Answer { result: Err(failure), link: None, said: None, why },
        Ok(Ok(answered)) => answered,
    };
    let expect = http.as_ref().map_or(StatusRange { low: 200, high: 200 }, |http| http.expect);
    let verdict = match (expect.contains(reply.status), &check.settings.grpc) {
        (false, _) if drain::is_said(&reply.body) => Err(Cause::Draining),
        (false, _) => Err(Cause::Status(reply.status)),
        (true, Some(_)) => call_verdict(reply.grpc_status, &reply.body),
        (true, None) => Ok(()),
    };
    match verdict {
        _ if reply.said == Some(Announcement::Drain) => Answer::failed(Cause::Draining),
        Ok(()) => Answer { result: Ok(()), link: Some(Link::Http2(link)), said: reply.said, why: None },
        Err(cause) => Answer { said: reply.said, ..Answer::failed(cause) },
    }
}

/// Connects unless a kept connection serves, and asks.
async fn answer(check: &Check, kept: Option<Link>) -> Result<(Reply, Http2), Failed> {
    if let Some(Link::Http2(mut link)) = kept
        // What is wrong with a kept one says nothing.
        && let Ok(reply) = link.exchange(check).await
    {
        return Ok((reply, link));
    }
    let stream = connect(check).await?;
    let shaken = Builder::new().enable_push(false).max_header_list_size(MAX_HEAD).handshake(stream).await;
    let (sender, connection) = shaken.map_err(|error| Failure::Backend(cause(&error)))?;
    let mut link = Http2 { sender, connection: Box::new(connection) };
    let reply = link.exchange(check).await.map_err(|error| Failure::Backend(cause(&error)))?;
    Ok((reply, link))
}

/// Why there is no answer.
fn cause(error: &h2::Error) -> Cause {
    let is_garbage = error.is_library() || error.get_io().is_some_and(|io| io.kind() == io::ErrorKind::InvalidData);
    if is_garbage { Cause::Garbage } else { Cause::Reset }
}

impl Http2 {
    async fn exchange(&mut self, check: &Check) -> Result<Reply, h2::Error> {
        let Self { sender, connection } = self;
        let talk = pin!(talk(sender.clone(), check));
        tokio::select! {
            biased;
            reply = talk => reply,
            ended = poll_fn(|cx| std::pin::Pin::new(&mut **connection).poll(cx)) => {
                Err(ended.err().unwrap_or_else(|| h2::Reason::NO_ERROR.into()))
            }
        }
    }
}

async fn talk(sender: SendRequest<Bytes>, check: &Check) -> Result<Reply, h2::Error> {
    let mut sender = sender.ready().await?;
    let (request, body) = request(check).ok_or(h2::Reason::INTERNAL_ERROR)?;
    let (response, mut stream) = sender.send_request(request, body.is_none())?;
    if let Some(body) = body {
        // A few bytes: less than any window that a server may begin with but none at all.
        stream.send_data(body, true)?;
    }
    let (parts, mut recv) = response.await?.into_parts();
    let mut body = Vec::new();
    while body.len() < MAX_BODY
        && let Some(data) = recv.data().await
    {
        let data = data?;
        recv.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let is_whole = recv.is_end_stream() || body.len() < MAX_BODY;
    let trailers = if is_whole { recv.trailers().await? } else { None };
    let number = |fields: &HeaderMap| fields.get(grpc::STATUS).and_then(|value| grpc::number(value.as_bytes()));
    let grpc_status = number(&parts.headers).or_else(|| trailers.as_ref().and_then(number));
    let said = parts.headers.get_all(Announcement::FIELD).iter().next_back();
    let said = said.and_then(|value| Announcement::from_value(value.as_bytes()));
    Ok(Reply { status: parts.status.as_u16(), said, body, grpc_status })
}

/// What is sent.
fn request(check: &Check) -> Option<(Request<()>, Option<Bytes>)> {
    let HealthCheck { http, grpc, .. } = &check.settings;
    let host = host_of(check);
    let base =
        |path: &str| Request::builder().uri(format!("http://{host}{path}")).header("user-agent", "shardgate-health");
    if let Some(service) = grpc {
        let call = base("/grpc.health.v1.Health/Check").method(Method::POST);
        let call = call.header("content-type", "application/grpc").header("te", "trailers").body(()).ok()?;
        return Some((call, Some(message(service))));
    }
    let path = http.as_ref().map_or("/", |http| &http.path);
    Some((base(path).header("accept", "*/*").body(()).ok()?, None))
}

/// `HealthCheckRequest { string service = 1; }`, with the five bytes that stand before each message.
fn message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    // The configuration allows fewer than 128 bytes, so a length is one byte.
    if let Ok(length) = u8::try_from(service.len())
        && length > 0
    {
        message.extend_from_slice(&[0x0a, length]);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.extend_from_slice(&[0, 0, 0, 0, message.len() as u8]);
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// What a call says of the backend.
fn call_verdict(status: Option<u32>, body: &[u8]) -> Result<(), Cause> {
    match status {
        Some(0) => match serving(body) {
            Some(SERVING) => Ok(()),
            Some(_) => Err(Cause::NotServing),
            None => Err(Cause::Garbage),
        },
        Some(code) => Err(Cause::Grpc(u16::try_from(code).unwrap_or(u16::MAX))),
        None => Err(Cause::Garbage),
    }
}

/// `HealthCheckResponse { ServingStatus status = 1; }`: the last such field counts, and none is 0; others are skipped.
fn serving(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let (is_compressed, length) = head.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if *is_compressed != 0 || usize::try_from(length) != Ok(message.len()) {
        return None;
    }
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = varint(&mut rest)?;
                status = if key >> 3 == 1 { value } else { status };
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_of_the_health_protocol() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let of = |message: &[u8]| call_verdict(Some(0), &[&[0, 0, 0, 0, message.len() as u8][..], message].concat());
        assert_eq!(of(&[8, 1]), Ok(()));
        assert_eq!(of(&[0x12, 2, 9, 9, 8, 1, 0x1d, 1, 2, 3, 4]), Ok(()), "what else there is is skipped");
        for not_serving in [&[][..], &[8, 0], &[8, 2], &[8, 3], &[8, 1, 8, 2], &[0x88, 0x80, 0, 7]] {
            assert_eq!(of(not_serving), Err(Cause::NotServing), "{not_serving:?}");
        }
        for garbage in [&[8][..], &[8, 0x80], &[0x12, 9, 1], &[0x0c], &[0xff; 11]] {
            assert_eq!(of(garbage), Err(Cause::Garbage), "{garbage:?}");
        }
        assert_eq!(call_verdict(Some(0), &[1, 0, 0, 0, 2, 8, 1]), Err(Cause::Garbage), "compressed");
        assert_eq!(call_verdict(Some(12), &[]), Err(Cause::Grpc(12)));
        assert_eq!(call_verdict(None, &[0, 0, 0, 0, 2, 8, 1]), Err(Cause::Garbage));
    }

    proptest! {
        /// Whatever a backend sends, there is an end to it.
        #[test]
        fn nothing_breaks_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = serving(&bytes);
        }
    }
}
