//! What is to be sent, gathered: small things copied one behind the other, large ones kept as they are between them.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes};
use smallvec::SmallVec;

/// Parts that are sent at once at most.
const PARTS: usize = 32;

/// So many bytes that have been sent are forgotten, at least half of what is there.
const FORGET: usize = 16 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Gather {
    copied: Vec<u8>,
    /// How much of that has been sent.
    sent: usize,
    /// Large pieces, each with the place in `copied` that it stands before.
    kept: VecDeque<(usize, Bytes)>,
    /// Bytes of these.
    large: usize,
}

impl Gather {
    /// Bytes that are still to be sent.
    pub(super) fn len(&self) -> usize {
        self.copied.len() - self.sent + self.large
    }

    pub(super) fn copy(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }

    pub(super) fn keep(&mut self, piece: Bytes) {
        self.large += piece.len();
        self.kept.push_back((self.copied.len(), piece));
    }

    /// The first parts of it.
    pub(super) fn parts(&self) -> SmallVec<[IoSlice<'_>; PARTS]> {
        let mut parts = SmallVec::new();
        let mut from = self.sent;
        for (at, piece) in self.kept.iter().take(PARTS / 2) {
            if let Some(copied @ [_, ..]) = self.copied.get(from..*at) {
                parts.push(IoSlice::new(copied));
            }
            parts.push(IoSlice::new(piece));
            from = *at;
        }
        if self.kept.len() < PARTS / 2
            && let Some(copied @ [_, ..]) = self.copied.get(from..)
        {
            parts.push(IoSlice::new(copied));
        }
        parts
    }

    /// So many bytes have been sent.
    pub(super) fn advance(&mut self, mut bytes: usize) {
        while let Some((at, piece)) = self.kept.front_mut() {
            let copied = bytes.min(*at - self.sent);
            self.sent += copied;
            bytes -= copied;
            let kept = bytes.min(piece.len());
            piece.advance(kept);
            self.large -= kept;
            bytes -= kept;
            if self.sent < *at || !piece.is_empty() {
                return self.forget_sent();
            }
            self.kept.pop_front();
        }
        self.sent = (self.sent + bytes).min(self.copied.len());
        self.forget_sent();
    }

    /// A client that never takes all of it must not have what it has taken kept. Moving the rest to the front costs no more
    /// than copying it did.
    fn forget_sent(&mut self) {
        let is_all = self.sent == self.copied.len();
        if is_all || (self.sent >= FORGET && self.sent > self.copied.len() / 2) {
            self.copied.drain(..self.sent);
            self.kept.iter_mut().for_each(|(at, _)| *at -= self.sent);
            self.sent = 0;
        }
    }

    /// Gives memory back. To be called when it is empty.
    pub(super) fn shrink(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_goes_in_order_however_much_is_taken_at_a_time() {
        for step in [1, 2, 3, 7, 1000] {
            let mut gather = Gather::default();
            gather.keep(Bytes::from_static(b"0"));
            for n in 1..40u8 {
                gather.copy(&[n, n]);
                gather.keep(Bytes::copy_from_slice(&[n; 3]));
                gather.keep(Bytes::copy_from_slice(&[n; 2]));
            }
            gather.copy(b"the end");
            let all: Vec<u8> = [vec![b'0'], (1..40).flat_map(|n| [n; 7]).collect(), b"the end".to_vec()].concat();
            let mut got = Vec::new();
            while gather.len() > 0 {
                let parts: Vec<u8> = gather.parts().iter().flat_map(|part| part.to_vec()).collect();
                assert!(!parts.is_empty());
                let now = step.min(parts.len());
                got.extend_from_slice(&parts[..now]);
                gather.advance(now);
                assert_eq!(gather.len(), all.len() - got.len());
            }
            assert_eq!(got, all, "{step}");
            assert!(gather.parts().is_empty() && gather.copied.is_empty());
        }
    }

    #[test]
    fn what_has_been_sent_is_forgotten_though_some_is_always_left() {
        for large in [0, 500] {
            let mut gather = Gather::default();
            let (mut put, mut got) = (Vec::new(), Vec::new());
            let mut fill = |gather: &mut Gather, n: u32| {
                let piece = [n as u8; 1000];
                gather.copy(&piece[large..]);
                put.extend_from_slice(&piece);
                if large > 0 {
                    gather.keep(Bytes::copy_from_slice(&piece[..large]));
                }
            };
            (0..30).for_each(|n| fill(&mut gather, n));
            for n in 30..2000 {
                fill(&mut gather, n);
                let parts: Vec<u8> = gather.parts().iter().flat_map(|part| part.to_vec()).take(1000).collect();
                gather.advance(parts.len());
                got.extend_from_slice(&parts);
                assert!(gather.copied.len() <= 2 * 31_000 + FORGET, "{} bytes", gather.copied.len());
            }
            assert!(put.starts_with(&got) && got.len() == 1_970_000);
        }
    }
}
