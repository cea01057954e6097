//! The strict rules for messages: no bytes make them panic, they do not depend on how bytes arrive, and a head that they
//! accept is read the same by another parser.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate::message::RequestHead;
use shardgate::message::framing::{Chunks, Head, HeadLimits, Scan};

const LIMITS: HeadLimits = HeadLimits { bytes: 16 * 1024, fields: 100, target: 8 * 1024 };

fuzz_target!(|data: &[u8]| {
    // The first byte says how large the pieces are in which the rest arrives.
    let Some((step, bytes)) = data.split_first() else { return };
    let step = usize::from(*step).max(1);

    let whole = Scan::default().feed(bytes, &LIMITS);
    let pieces = in_pieces(bytes, step);
    assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok(), "the head depends on how it arrived");
    if let Ok(Some(head)) = whole {
        as_another_parser_reads_it(bytes, &head);
    }

    let all_at_once = chunks(bytes, bytes.len().max(1));
    assert_eq!(all_at_once, chunks(bytes, step), "the body depends on how it arrived");
});

fn in_pieces(bytes: &[u8], step: usize) -> Result<Option<Head>, shardgate::message::framing::Fault> {
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
    assert!(read.fields.iter().eq(theirs), "another parser reads other fields");
}

/// The data of a chunked body, and whether it ended; `None` when it is refused.
fn chunks(bytes: &[u8], step: usize) -> Option<(Vec<u8>, bool)> {
    let mut state = Chunks::default();
    let mut data = Vec::new();
    for piece in bytes.chunks(step) {
        let mut piece = piece.to_vec();
        let decoded = state.decode(&mut piece).ok()?;
        assert!(decoded.data <= decoded.used && (decoded.used == piece.len() || state.is_end()));
        data.extend_from_slice(&piece[..decoded.data]);
    }
    Some((data, state.is_end()))
}
