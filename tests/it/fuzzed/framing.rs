//! The strict rules for request heads: no bytes make them panic, they do not depend on how bytes arrive, and a head that
//! they accept is read the same by another parser.

use shardgate::message::RequestHead;
use shardgate::message::fields::Known;
use shardgate::message::framing::{Fault, Head, HeadLimits, Scan};

const LIMITS: HeadLimits = HeadLimits { bytes: 16 * 1024, fields: 100, target: 8 * 1024 };

/// The first byte says how large the pieces are in which the rest arrives.
pub fn check(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let step = usize::from(*step).max(1);
    let whole = Scan::default().feed(bytes, &LIMITS);
    let pieces = in_pieces(bytes, step);
    assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok(), "the head depends on how it arrived");
    if let Ok(Some(head)) = whole {
        as_another_parser_reads_it(bytes, &head);
    }
}

fn in_pieces(bytes: &[u8], step: usize) -> Result<Option<Head>, Fault> {
    let mut scan = Scan::default();
    let mut end = 0;
    loop {
        end = bytes.len().min(end + step);
        match scan.feed(&bytes[..end], &LIMITS)? {
            None if end < bytes.len() => {}
            result => return Ok(result),
        }
    }
}

fn as_another_parser_reads_it(bytes: &[u8], head: &Head) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(&bytes[head.start..]);
    assert_eq!(parsed, Ok(httparse::Status::Complete(head.end - head.start)), "another parser ends the head elsewhere");
    assert_eq!(request.path.map(str::as_bytes), Some(&bytes[head.target.clone()]));
    let minor = u8::from(head.version == http::Version::HTTP_11);
    assert_eq!(request.version, Some(minor));
    let read = RequestHead::read(bytes, head.clone()).expect("a head of these bytes");
    let theirs = request.headers.iter().map(|field| (field.name.as_bytes(), field.value));
    let theirs = theirs.filter(|(name, _)| !Known::is_mimicked_by(name));
    assert!(read.fields.iter().eq(theirs), "another parser reads other fields");
}
