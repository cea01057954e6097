//! The chunked coding: what it says does not depend on where the bytes are split, what it accepts is read the same by a
//! decoder that was written differently, and what was taken off can be put on again.

use shardgate::message::framing::Chunks;

/// The data, whether the body is complete, and how many bytes were of it. `None`: refused.
type Read = Option<(Vec<u8>, bool, usize)>;

/// The first byte says how many of those behind it are sizes of pieces, which take turns; the rest is the body.
pub fn check(bytes: &[u8]) {
    let Some((count, rest)) = bytes.split_first() else { return };
    let Some((sizes, body)) = rest.split_at_checked(usize::from(count % 8)) else { return };
    let whole = decode(body, &[]);
    assert_eq!(decode(body, &[0]), whole, "the body depends on how it arrived: byte by byte");
    assert_eq!(decode(body, sizes), whole, "the body depends on how it arrived: {sizes:?}");
    let Some((data, true, used)) = whole else { return };
    assert_eq!(otherwise(&body[..used]), Some(data.clone()), "another decoder reads another body");
    assert_eq!(otherwise(&body[..used - 1]), None, "the body ended earlier");
    let again = [format!("{:x}\r\n", data.len()).as_bytes(), &data, b"\r\n0\r\n\r\n"].concat();
    let again = if data.is_empty() { b"0\r\n\r\n".to_vec() } else { again };
    assert_eq!(decode(&again, sizes), Some((data, true, again.len())));
}

/// In pieces of these sizes in turn, each one larger than its number; whole without any.
fn decode(mut bytes: &[u8], sizes: &[u8]) -> Read {
    let (mut chunks, mut data, mut used) = (Chunks::default(), Vec::new(), 0);
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() && !chunks.is_end() {
        let size = sizes.next().map_or(bytes.len(), |size| usize::from(*size) + 1);
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        let mut piece = piece.to_vec();
        let decoded = chunks.decode(&mut piece).ok()?;
        assert!(decoded.data <= decoded.used && (decoded.used == piece.len() || chunks.is_end()));
        data.extend_from_slice(&piece[..decoded.data]);
        used += decoded.used;
        bytes = rest;
    }
    Some((data, chunks.is_end(), used))
}

/// By lines and slices, knowing nothing of states. `None`: this is not a body and nothing but it.
fn otherwise(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let line = line(&mut bytes)?;
        let digits = line.split(|b| b";\t ".contains(b)).next()?;
        let size = usize::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            while !self::line(&mut bytes)?.is_empty() {}
            return bytes.is_empty().then_some(data);
        }
        let (chunk, rest) = bytes.split_at_checked(size)?;
        data.extend_from_slice(chunk);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
}

fn line<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, rest) = bytes.split_at(end);
    *bytes = &rest[2..];
    Some(line)
}
