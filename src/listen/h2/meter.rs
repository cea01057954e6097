//! Counts the frames that come on a connection of HTTP/2, below whatever parses them.
//!
//! A frame of a few bytes can cost a server much: an answer to a PING, a stream that is opened and reset (CVE-2023-44487),
//! a stream that the client has the server reset (CVE-2025-8671), a header block of endless CONTINUATION frames, empty
//! DATA, PRIORITY and WINDOW_UPDATE frames by the million (CVE-2019-9511 to 9518). What is common to them is that they come
//! in numbers that no exchange calls for. So a connection has a purse of frames beside those that carry requests and
//! bodies: it fills with time, with each answer and with each DATA frame sent, and when it is empty the connection ends.
//! Resets have a purse of their own, a small one.
//!
//! Only the nine bytes of each frame's header are looked at (RFC 9113, 4.1), and nothing is kept of the rest.

/// Frames, beside those that carry something, that a connection may send at once, and in each quarter of a second more.
const FRAMES: u32 = 2000;
const FRAMES_PER_TICK: u32 = 250;

/// Frames that an answer, or a DATA frame of one, may call for: updates of both windows, pings to measure the way.
const FRAMES_PER_DATA: u32 = 4;
const MOST_FRAMES: u32 = 10_000;

/// The same for RST_STREAM. A browser that leaves a page resets what is under way; that many answers it has had before.
const RESETS: u32 = 64;
const RESETS_PER_TICK: u32 = 1;
const MOST_RESETS: u32 = 256;

/// A frame's header.
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// More frames came than are of any use.
    Flood,
    /// The first frame was none of SETTINGS (RFC 9113, 3.4).
    NotSettings,
    /// A frame of one size only had another. The library would call it by another name (RFC 9113, 4.2).
    Size,
}

/// The frames of one connection. See the module.
#[derive(Debug)]
pub(super) struct Meter {
    /// Of the header of the next frame.
    header: [u8; HEADER],
    have: usize,
    /// Bytes of a payload that are still to come.
    left: usize,
    begun: bool,
    /// Between the first byte of a header block and its last. How many there have been.
    in_block: bool,
    ends_block: bool,
    blocks: u32,
    frames: u32,
    resets: u32,
    verdict: Option<Verdict>,
}

impl Meter {
    /// A connection that begins with so many bytes which are no frame.
    pub(super) fn new(preface: usize) -> Self {
        Self {
            header: [0; HEADER],
            have: 0,
            left: preface,
            begun: false,
            in_block: false,
            ends_block: false,
            blocks: 0,
            frames: FRAMES,
            resets: RESETS,
            verdict: None,
        }
    }

    /// These bytes have come. How many of them the library may see: none from the frame on that ends the connection.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        while !bytes.is_empty() {
            let seen = all - bytes.len();
            if self.left > 0 {
                let (_, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= bytes.len() - rest.len();
                bytes = rest;
            } else {
                let (now, rest) = bytes.split_at((HEADER - self.have).min(bytes.len()));
                if let Some(place) = self.header.get_mut(self.have..self.have + now.len()) {
                    place.copy_from_slice(now);
                }
                self.have += now.len();
                bytes = rest;
                if self.have == HEADER {
                    self.have = 0;
                    self.frame();
                    if self.verdict.is_some() {
                        return seen;
                    }
                }
            }
            if self.left == 0 && self.have == 0 && self.ends_block {
                self.in_block = false;
                self.ends_block = false;
            }
        }
        all
    }

    /// A header is complete.
    fn frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let is_sized = match kind {
            PRIORITY => self.left == 5,
            RST_STREAM | WINDOW_UPDATE => self.left == 4,
            SETTINGS => self.left.is_multiple_of(6) && (flags & ACK == 0 || self.left == 0),
            PING => self.left == 8,
            _ => true,
        };
        if !is_sized {
            self.verdict = Some(Verdict::Size);
        }
        if !std::mem::replace(&mut self.begun, true) && (kind != SETTINGS || flags & ACK != 0) {
            self.verdict = Some(Verdict::NotSettings);
        }
        if matches!(kind, HEADERS | CONTINUATION) {
            if !std::mem::replace(&mut self.in_block, true) {
                self.blocks = self.blocks.wrapping_add(1);
            }
            self.ends_block = flags & END_HEADERS != 0;
        }
        let carries = match kind {
            DATA => self.left > 0 || flags & END_STREAM != 0,
            HEADERS => true,
            _ => false,
        };
        if !carries {
            self.frames = self.frames.saturating_sub(1);
        }
        if kind == RST_STREAM {
            self.resets = self.resets.saturating_sub(1);
        }
        if self.frames == 0 || self.resets == 0 {
            self.verdict.get_or_insert(Verdict::Flood);
        }
    }

    /// A tick has passed.
    pub(super) fn tick(&mut self) {
        self.frames = (self.frames + FRAMES_PER_TICK).min(MOST_FRAMES.min(self.frames.max(FRAMES)));
        self.resets = (self.resets + RESETS_PER_TICK).min(self.resets.max(RESETS));
    }

    /// A request has been answered whole.
    pub(super) fn answered(&mut self) {
        self.resets = (self.resets + 1).min(MOST_RESETS);
        self.sent();
    }

    /// A DATA frame goes out.
    pub(super) fn sent(&mut self) {
        self.frames = (self.frames + FRAMES_PER_DATA).min(MOST_FRAMES);
    }

    /// Why the connection has to end, if it has.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// The number of the header block that has begun and not ended.
    pub(super) fn block(&self) -> Option<u32> {
        self.in_block.then_some(self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = payload.to_be_bytes();
        let mut out = vec![length[5], length[6], length[7], kind, flags, 0, 0, 0, 1];
        out.resize(HEADER + payload, 0);
        out
    }

    fn begun() -> Meter {
        let mut meter = Meter::new(24);
        meter.read(&[b'x'; 24]);
        meter.read(&frame(SETTINGS, 0, 6));
        assert_eq!(meter.verdict(), None);
        meter
    }

    #[test]
    fn frames_are_found_however_they_come() {
        let bytes = [frame(SETTINGS, 0, 12), frame(HEADERS, END_HEADERS, 300), frame(DATA, 0, 70_000)].concat();
        let bytes = [vec![b'x'; 24], bytes, frame(6, 0, 8)].concat();
        for piece in [1, 2, 7, 9, 1000, 100_000] {
            let mut meter = Meter::new(24);
            bytes.chunks(piece).for_each(|piece| assert_eq!(meter.read(piece), piece.len()));
            assert_eq!((meter.frames, meter.left, meter.have, meter.block()), (FRAMES - 2, 0, 0, None), "{piece}");
        }
    }

    #[test]
    fn each_kind_of_flood_ends_the_connection() {
        for (what, kind, size) in [
            ("empty data", DATA, 0),
            ("priority", PRIORITY, 5),
            ("settings", SETTINGS, 6),
            ("ping", PING, 8),
            ("unknown", 0x42, 0),
        ] {
            let mut meter = begun();
            let one = frame(kind, 0, size);
            let count = (1..).find(|_| {
                meter.read(&one);
                meter.verdict().is_some()
            });
            assert_eq!(count, Some(FRAMES - 1), "{what}");
        }
        let mut meter = begun();
        for _ in 0..RESETS {
            assert_eq!(meter.verdict(), None);
            meter.read(&frame(RST_STREAM, 0, 4));
        }
        assert_eq!(meter.verdict(), Some(Verdict::Flood));
    }

    #[test]
    fn what_carries_something_is_no_flood_and_pays_for_the_rest() {
        let mut meter = begun();
        for _ in 0..100_000 {
            meter.read(&frame(HEADERS, END_HEADERS | END_STREAM, 20));
            meter.read(&frame(DATA, END_STREAM, 0));
            meter.read(&frame(8, 0, 4));
            meter.read(&frame(8, 0, 4));
            meter.sent();
            meter.answered();
            meter.read(&frame(RST_STREAM, 0, 4));
        }
        assert_eq!(meter.verdict(), None);
        assert!(meter.frames <= MOST_FRAMES && meter.resets <= MOST_RESETS);
    }

    #[test]
    fn time_fills_the_purse_to_its_brim() {
        let mut meter = begun();
        (0..1000).for_each(|_| assert_eq!(meter.read(&frame(PING, 0, 8)), 17));
        (0..100).for_each(|_| meter.tick());
        assert_eq!((meter.frames, meter.resets), (FRAMES, RESETS));
        // What answers have earned stays.
        (0..1000).for_each(|_| meter.answered());
        meter.tick();
        assert_eq!((meter.frames, meter.resets), (FRAMES + 4000, MOST_RESETS));
    }

    #[test]
    fn the_first_frame_is_settings() {
        for (kind, flags, size) in [(PING, 0, 8), (HEADERS, 5, 8), (SETTINGS, ACK, 0), (DATA, 0, 8)] {
            let mut meter = Meter::new(0);
            assert_eq!(meter.read(&frame(kind, flags, size)), 0);
            assert_eq!(meter.verdict(), Some(Verdict::NotSettings), "{kind}");
        }
    }

    #[test]
    fn frames_of_a_wrong_size_are_withheld() {
        for (kind, flags, size) in
            [(PRIORITY, 0, 4), (RST_STREAM, 0, 5), (SETTINGS, 0, 7), (SETTINGS, ACK, 6), (PING, 0, 9)]
        {
            let mut meter = begun();
            let bytes = [frame(PING, 0, 8), frame(kind, flags, size)].concat();
            assert_eq!((meter.read(&bytes), meter.verdict()), (17, Some(Verdict::Size)), "{kind}");
        }
    }

    #[test]
    fn a_header_block_lasts_until_its_last_byte() {
        let mut meter = begun();
        assert_eq!(meter.block(), None);
        meter.read(&frame(HEADERS, 0, 10));
        assert_eq!(meter.block(), Some(1));
        meter.read(&frame(CONTINUATION, 0, 10));
        assert_eq!(meter.block(), Some(1));
        let last = frame(CONTINUATION, END_HEADERS, 10);
        meter.read(&last[..15]);
        assert_eq!(meter.block(), Some(1));
        meter.read(&last[15..]);
        assert_eq!(meter.block(), None);
        meter.read(&frame(HEADERS, END_HEADERS, 0));
        assert_eq!(meter.block(), None);
        meter.read(&frame(HEADERS, 0, 0));
        assert_eq!(meter.block(), Some(3));
    }
}
