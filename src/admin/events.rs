//! `GET /api/v1/events`: what happens, as server-sent events (WHATWG HTML, 9.2).
//!
//! A reader costs a connection and its place in the channel. One that is slow is told how many events it has missed; one
//! that comes back with `Last-Event-ID` gets what happened meanwhile, as far as that is kept.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use http::{HeaderMap, StatusCode};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use crate::control::{Event, Handle, Subscription};

/// Readers at a time.
pub(super) const MAX_READERS: usize = 16;

/// A comment at least so often: that the line is open, and for proxies on the way.
const ALIVE: Duration = Duration::from_secs(10);

struct Reader {
    missed: Option<Option<u64>>,
    past: VecDeque<Arc<Event>>,
    future: Receiver<Arc<Event>>,
    _place: OwnedSemaphorePermit,
}

/// Begins to follow.
pub(super) fn follow(
    handle: &Handle,
    headers: &HeaderMap,
    readers: Arc<Semaphore>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>> + use<>>, Problem> {
    let Ok(place) = readers.try_acquire_owned() else {
        let detail = format!("{MAX_READERS} readers follow events already");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail));
    };
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    let Subscription { missed, past, future } = handle.board().events().subscribe(last);
    let reader = Reader { missed, past, future, _place: place };
    let stream = unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE)))
}

impl Reader {
    async fn next(&mut self) -> Option<sse::Event> {
        if let Some(missed) = self.missed.take() {
            return Some(tell_missed(missed));
        }
        if let Some(event) = self.past.pop_front() {
            return Some(tell(&event));
        }
        match self.future.recv().await {
            Ok(event) => Some(tell(&event)),
            Err(RecvError::Lagged(missed)) => Some(tell_missed(Some(missed))),
            Err(RecvError::Closed) => None,
        }
    }
}

fn tell(event: &Event) -> sse::Event {
    sse::Event::default().id(&event.id).event(event.name).data(&event.data)
}

/// Without an id, so that a reader that comes back asks from behind the last one it has seen.
fn tell_missed(missed: Option<u64>) -> sse::Event {
    let number = missed.map_or_else(|| "null".to_owned(), |missed| missed.to_string());
    sse::Event::default().event("missed").data(format!("{{\"missed\":{number}}}"))
}
