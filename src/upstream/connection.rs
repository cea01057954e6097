//! One connection to a backend, and what all connections of a worker share.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Stream;
use super::alarm::Alarms;
use super::h2::Links;
use super::pool::{Pool, To};
use crate::backend::{self, Backend};
use crate::message::ahead::Ahead;
use crate::message::buffer::{Buffer, Memory};

/// What the connections of one worker share.
#[derive(Default)]
pub(super) struct Worker {
    pub(super) pool: Pool<Connection>,
    pub(super) links: Links,
    pub(super) alarms: Alarms,
    pub(super) memory: Memory,
}

/// A connection. Dropping it closes it.
pub(super) struct Connection {
    pub(super) stream: Stream,
    /// What has been read and not handed out.
    pub(super) buffer: Buffer,
    /// How much is read at a time, in the exchange that it serves.
    pub(super) ahead: Option<Rc<Ahead>>,
    place: backend::Connection,
}

impl To for Connection {
    fn backend(&self) -> &Arc<Backend> {
        self.place.backend()
    }
}

impl Connection {
    pub(super) fn new(stream: Stream, place: backend::Connection) -> Self {
        Self { stream, buffer: Buffer::default(), ahead: None, place }
    }

    /// Whether an idle connection may be used.
    pub(super) fn usable(&mut self) -> bool {
        self.stream.is_quiet()
    }

    /// Reads once.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<io::Result<usize>> {
        match &self.ahead {
            None => self.buffer.poll_fill(cx, &mut self.stream, &worker.memory),
            Some(ahead) => self.buffer.poll_fill_some(cx, &mut self.stream, &worker.memory, ahead.most()),
        }
    }

    /// A piece has been taken. If others are read beside it, it may be long until the next one is asked for.
    pub(super) fn taken(&mut self, worker: &Worker) {
        if self.ahead.is_some() {
            self.buffer.rest(&worker.memory);
        }
    }
}
