//! A call of gRPC on its way: until when it may take, how it ended, and what that says of the backend.
//!
//! The client says how long it waits (`grpc-timeout`). That is a hard end of all of it, tries, queue and both bodies; the
//! backend is told what is left of it. So a call that nobody waits for any more holds no place.

use tokio::time::Instant;

use crate::message::fields::Fields;
use crate::message::{RequestHead, grpc, respond};
use crate::model::Reason;

/// What is kept of one call.
pub(crate) struct Call {
    /// When the client stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// How it ended, if that is known: it is what the client was told.
    pub(crate) status: Option<u32>,
    /// It was us who ended it.
    pub(crate) is_ours: bool,
}

impl Call {
    /// `None`: the request is not a call. Without a `grpc-timeout`, or with one that can't be read, there is no deadline.
    pub(crate) fn of(head: &RequestHead, started: Instant) -> Option<Self> {
        grpc::is_call(head).then(|| Self {
            deadline: grpc::timeout(&head.fields).and_then(|timeout| started.checked_add(timeout)),
            status: None,
            is_ours: false,
        })
    }

    /// It is we who end it.
    pub(crate) fn end(&mut self, reason: Reason) {
        self.status = Some(respond::grpc_status(reason));
        self.is_ours = true;
    }
}

/// Whether a call was ended at once by a backend that says that it can't serve now. Of all codes it is the only one that
/// is the server's own trouble beyond doubt: 13 (INTERNAL) and 2 (UNKNOWN) come from the application, 4 from its clock.
pub(crate) fn is_unavailable(head: &Fields) -> bool {
    grpc::status(head) == Some(grpc::UNAVAILABLE)
}
