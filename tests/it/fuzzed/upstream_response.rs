//! A backend's response: no bytes make the codec's rules panic, what they say does not depend on how bytes arrive, and
//! a head that they accept is read the same by another parser.

use http::Version;
use shardgate::message::framing::response::{BodyEnd, Head, Scan};
use shardgate::message::framing::{Chunks, Fault};

const MAX: usize = 16 * 1024;
const FIELDS: usize = 100;

/// A head, where it ended, and what is of the body, if its coding is good; whether the body is whole.
type Read = (Head, usize, Option<(Vec<u8>, bool)>);

/// The first byte says how large the pieces are in which the rest arrives, and whether the request was a HEAD.
pub fn check(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return };
    let (step, to_head) = (usize::from(first >> 1).max(1), first & 1 == 1);
    let whole = read(bytes, bytes.len().max(1), to_head);
    let pieces = read(bytes, step, to_head);
    match (&whole, &pieces) {
        (Ok(Some((a, end_a, body_a))), Ok(Some((b, end_b, body_b)))) => {
            assert_eq!((a.head.status, a.head.version, a.end), (b.head.status, b.head.version, b.end));
            assert!(a.head.fields.iter().eq(b.head.fields.iter()));
            assert_eq!((end_a, body_a), (end_b, body_b), "the message depends on how it arrived");
            as_another_parser_reads_it(bytes, a, *end_a);
        }
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        _ => panic!("the head depends on how it arrived: {whole:?} {pieces:?}"),
    }
}

fn read(bytes: &[u8], step: usize, to_head: bool) -> Result<Option<Read>, Fault> {
    let mut scan = Scan::new(to_head, FIELDS);
    let mut seen = 0;
    let (head, end) = loop {
        seen = bytes.len().min(seen + step);
        match scan.feed(&bytes[..seen], MAX)? {
            Some(found) => break found,
            None if seen < bytes.len() => {}
            None => return Ok(None),
        }
    };
    let rest = &bytes[end..];
    let body = match head.end {
        BodyEnd::Empty => Some((Vec::new(), true)),
        BodyEnd::Length(n) => Some((rest[..rest.len().min(n as usize)].to_vec(), rest.len() as u64 >= n)),
        BodyEnd::Close => Some((rest.to_vec(), true)),
        BodyEnd::Chunked => chunks(rest, step),
    };
    Ok(Some((head, end, body)))
}

fn chunks(bytes: &[u8], step: usize) -> Option<(Vec<u8>, bool)> {
    let mut chunks = Chunks::default();
    let mut data = Vec::new();
    for piece in bytes.chunks(step) {
        let mut piece = piece.to_vec();
        let decoded = chunks.decode(&mut piece).ok()?;
        assert!(decoded.data <= decoded.used && (decoded.used == piece.len() || chunks.is_end()));
        data.extend_from_slice(&piece[..decoded.data]);
    }
    Some((data, chunks.is_end()))
}

fn as_another_parser_reads_it(bytes: &[u8], head: &Head, end: usize) {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    assert_eq!(response.parse(bytes), Ok(httparse::Status::Complete(end)), "another parser ends the head elsewhere");
    assert_eq!(response.code, Some(head.head.status.as_u16()));
    assert_eq!(response.version, Some(u8::from(head.head.version == Version::HTTP_11)));
    let theirs = response.headers.iter().map(|field| (field.name.as_bytes(), field.value));
    assert!(head.head.fields.iter().eq(theirs), "another parser reads other fields");
}
