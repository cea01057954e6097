//! What the answers of one connection hold between them on their way to the client.
//!
//! The library takes what a stream gives it, as far as the client's windows go, and those may be as large as the client
//! likes while it reads nothing. So the streams of a connection share a purse of [`MOST`] bytes, which is full again when
//! all that was given has gone out; whoever comes meanwhile waits for its turn. It keeps large answers in the processor's
//! caches, too: what has been read from a backend goes out before the next is read.
//!
//! What waits and is not small makes the connection crowded: then answers that begin are read little by little
//! ([`Ahead`](crate::message::ahead::Ahead)).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::message::ahead::LITTLE;

/// Bytes of answers that are with the library, or below it, at a time; the last piece may go beyond.
const MOST: usize = 256 * 1024;

/// Streams that are told at a time that there is room again.
const TURNS: usize = 4;

/// A piece that is not smaller is not copied on its way.
pub(super) const LARGE: usize = 4 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Flow {
    given: Cell<usize>,
    /// Of what was given: the large pieces.
    pieces: RefCell<Vec<Bytes>>,
    turns: RefCell<VecDeque<Rc<Turn>>>,
    /// Streams with a piece that waits and is not small.
    stuck: Cell<u32>,
}

/// A stream that waits until there is room.
#[derive(Default)]
struct Turn {
    waits: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One stream's part of it.
pub(super) struct Part {
    turn: Option<Rc<Turn>>,
    stuck: Cell<bool>,
}

impl Flow {
    pub(super) fn has_room(&self) -> bool {
        self.given.get() < MOST
    }

    /// Whether all that was given has gone out.
    pub(super) fn is_empty(&self) -> bool {
        self.given.get() == 0
    }

    /// Whether answers that begin are to be read little by little.
    pub(super) fn is_crowded(&self) -> bool {
        self.stuck.get() > 0 || !self.has_room()
    }

    /// A piece goes to the library.
    pub(super) fn give(&self, piece: &Bytes) {
        self.given.set(self.given.get() + piece.len());
        if piece.len() >= LARGE {
            self.pieces.borrow_mut().push(piece.clone());
        }
    }

    /// All that was given has gone out.
    pub(super) fn gone(&self) {
        self.given.set(0);
        self.pieces.borrow_mut().clear();
    }

    /// The piece that these bytes are a part of, so that they need not be copied to be kept.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<Bytes> {
        let at = bytes.as_ptr().addr();
        self.pieces.borrow().iter().find_map(|piece| {
            let from = at.checked_sub(piece.as_ptr().addr())?;
            let to = from.checked_add(bytes.len()).filter(|to| *to <= piece.len())?;
            Some(piece.slice(from..to))
        })
    }

    /// If there is room, tells some of those that wait. Whether any did.
    pub(super) fn next(&self) -> bool {
        if !self.has_room() {
            return false;
        }
        let mut turns = self.turns.borrow_mut();
        let now = turns.len().min(TURNS);
        for turn in turns.drain(..now) {
            turn.waits.set(false);
            if let Some(waker) = turn.waker.take() {
                waker.wake();
            }
        }
        now > 0
    }
}

impl Part {
    pub(super) fn new() -> Self {
        Self { turn: None, stuck: Cell::default() }
    }

    /// Waits until there is room.
    pub(super) fn poll_turn(&mut self, cx: &Context<'_>, flow: &Flow) -> Poll<()> {
        if flow.has_room() {
            return Poll::Ready(());
        }
        let turn = self.turn.get_or_insert_default();
        *turn.waker.borrow_mut() = Some(cx.waker().clone());
        if !turn.waits.replace(true) {
            flow.turns.borrow_mut().push_back(Rc::clone(turn));
        }
        Poll::Pending
    }

    /// So many bytes of a piece wait.
    pub(super) fn holds(&self, flow: &Flow, bytes: usize) {
        let is_stuck = bytes > LITTLE;
        if self.stuck.replace(is_stuck) != is_stuck {
            let stuck = flow.stuck.get();
            flow.stuck.set(if is_stuck { stuck + 1 } else { stuck.saturating_sub(1) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_beyond_waits_until_the_rest_has_gone() {
        let (flow, mut parts) = (Flow::default(), [const { Part { turn: None, stuck: Cell::new(false) } }; 6]);
        let cx = Context::from_waker(Waker::noop());
        flow.give(&Bytes::from(vec![0; MOST]));
        assert!(flow.is_crowded() && !flow.next());
        assert!(parts.iter_mut().all(|part| part.poll_turn(&cx, &flow).is_pending()));
        assert!(parts[0].poll_turn(&cx, &flow).is_pending());
        assert_eq!(flow.turns.borrow().len(), 6, "each once");
        flow.gone();
        assert!(flow.next() && flow.next() && !flow.next());
        assert!(parts[5].poll_turn(&cx, &flow).is_ready());
    }

    #[test]
    fn a_connection_is_crowded_while_a_large_piece_waits() {
        let (flow, part) = (Flow::default(), Part::new());
        for (bytes, crowded) in [(LITTLE, false), (LITTLE + 1, true), (70_000, true), (0, false)] {
            part.holds(&flow, bytes);
            assert_eq!(flow.is_crowded(), crowded, "{bytes}");
        }
    }

    #[test]
    fn a_part_of_a_piece_is_found_and_nothing_else() {
        let flow = Flow::default();
        let (one, two) = (Bytes::from(vec![1; LARGE]), Bytes::from(vec![2; LARGE]));
        flow.give(&one);
        flow.give(&two.slice(..LARGE / 2));
        assert_eq!(flow.find(&one[7..100]).unwrap(), one[7..100]);
        assert_eq!(flow.find(&one).unwrap().as_ptr(), one.as_ptr());
        assert!(flow.find(&two[..9]).is_none(), "small pieces are not kept");
        assert!(flow.find(&[1; 9]).is_none());
        flow.gone();
        assert!(flow.find(&one).is_none());
    }
}
