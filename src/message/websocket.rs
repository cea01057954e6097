//! Just enough of the WebSocket protocol (RFC 6455) to say good-bye in it, where frames end and a Close frame, and to stand
//! for one side in its handshake.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// The field of a request with the client's key.
pub const KEY: &str = "sec-websocket-key";

/// The field of the answer to it.
pub const ACCEPT: &str = "sec-websocket-accept";

/// A Close frame of a server's: 1001, going away.
pub const GOING_AWAY: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

/// The longest header of a frame: two bytes, a length of eight, a mask of four.
const LONGEST: usize = 14;

/// Follows the frames of one direction by their headers (RFC 6455, 5.2). What is in them, and whether it is valid, is the
/// affair of the two sides.
#[derive(Debug, Default)]
pub struct Frames {
    /// Of the header that is not whole yet.
    header: [u8; LONGEST],
    have: usize,
    /// Of the payload.
    left: u64,
}

/// What a server that speaks the protocol answers to this key (RFC 6455, 4.2.2).
pub fn accept(key: &[u8]) -> String {
    let salted = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    data_encoding::BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &salted).as_ref())
}

impl Frames {
    /// Bytes go by.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = self.step(bytes);
            bytes = bytes.get(n..).unwrap_or_default();
        }
    }

    /// How many of these bytes go by until the end of the frame that they begin or go on with; at least one of any.
    pub fn step(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.left == 0
            && let Some(byte) = bytes.get(used)
        {
            used += 1;
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            if let Some(payload) = self.payload() {
                self.have = 0;
                self.left = payload;
                if payload == 0 {
                    return used;
                }
            }
        }
        let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - used);
        self.left -= here as u64;
        used + here
    }

    /// Whether no frame is under way.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// The payload's length, if the header is whole.
    fn payload(&self) -> Option<u64> {
        let [_, second, long @ ..] = &self.header;
        let (length_bytes, short) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let is_whole = self.have >= 2 + length_bytes + mask;
        is_whole.then(|| long.iter().take(length_bytes).fold(short, |length, byte| length << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, mask: bool) -> Vec<u8> {
        let bit = if mask { 0x80 } else { 0 };
        let mut out = match length {
            0..126 => vec![0x82, bit | length as u8],
            126..65_536 => [&[0x82, bit | 126][..], &(length as u16).to_be_bytes()].concat(),
            _ => [&[0x82, bit | 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        if mask {
            out.extend([1, 2, 3, 4]);
        }
        out.resize(out.len() + length, 0xff);
        out
    }

    #[test]
    fn ends_are_found_however_the_bytes_come() {
        let lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000, 0, 0, 5];
        for mask in [false, true] {
            let frames: Vec<_> = lengths.map(|length| frame(length, mask)).to_vec();
            let all = frames.concat();
            for piece in [1, 2, 3, 7, 1000, all.len()] {
                let (mut at, mut ends, mut track) = (0, vec![], Frames::default());
                for mut bytes in all.chunks(piece) {
                    while !bytes.is_empty() {
                        let n = track.step(bytes);
                        assert!(n > 0);
                        at += n;
                        bytes = &bytes[n..];
                        if track.is_between() {
                            ends.push(at);
                        }
                    }
                }
                let expected = frames.iter().scan(0, |end, frame| {
                    *end += frame.len();
                    Some(*end)
                });
                assert_eq!(ends, expected.collect::<Vec<_>>(), "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_key_is_answered_as_in_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn any_length_is_taken() {
        let mut track = Frames::default();
        track.pass(&[0x81, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2]);
        assert!(!track.is_between());
        assert_eq!(track.left, u64::MAX - 2);
        let mut track = Frames::default();
        track.pass(GOING_AWAY);
        assert!(track.is_between());
    }
}
