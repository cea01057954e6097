//! What has happened, for whoever wants to follow it: `/api/v1/events`.
//!
//! Bounded on all sides: a ring keeps the newest events for readers that come back, and a channel of fixed size hands
//! new ones out. A reader that falls behind by more than the channel holds learns how many it missed; it holds up
//! nobody, least of all the control plane, which never waits here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::broadcast::{self, Receiver, Sender};

/// Events that a reader may be behind, and that are kept for readers that come back.
pub(super) const KEPT: usize = 1024;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which: the start of the process and a number that goes up by one with each.
    pub id: String,
    /// What kind, in a word.
    pub name: &'static str,
    /// The rest, as JSON in one line.
    pub data: String,
    number: u64,
}

/// All of them. One for the process.
#[derive(Debug)]
pub struct Events {
    /// When the process started: numbers of another one mean nothing.
    epoch: i64,
    ring: Mutex<Ring>,
    sender: Sender<Arc<Event>>,
}

#[derive(Debug, Default)]
struct Ring {
    /// In ascending order, without gaps.
    events: VecDeque<Arc<Event>>,
    emitted: u64,
}

/// What a new reader gets.
#[derive(Debug)]
pub struct Subscription {
    /// What it has missed for good. `None`: nothing; without a number: nobody knows how many.
    pub missed: Option<Option<u64>>,
    /// What it has missed and is still there.
    pub past: VecDeque<Arc<Event>>,
    /// What comes.
    pub future: Receiver<Arc<Event>>,
}

impl Events {
    /// None yet. `start`: of the process.
    pub fn new(start: Timestamp) -> Self {
        Self { epoch: start.as_millisecond(), ring: Mutex::default(), sender: broadcast::channel(KEPT).0 }
    }

    /// Something has happened now: what is said of it, besides the time.
    pub fn emit(&self, name: &'static str, about: &[(&str, Value)]) {
        let mut data = Map::new();
        data.insert("time".into(), Timestamp::now().to_string().into());
        data.extend(about.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let mut ring = self.lock();
        ring.emitted += 1;
        let number = ring.emitted;
        let id = format!("{}-{number}", self.epoch);
        let event = Arc::new(Event { id, name, data: Value::Object(data).to_string(), number });
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::clone(&event));
        // Under the lock, so that a new reader gets each event once. Without readers it goes nowhere.
        let _ = self.sender.send(event);
    }

    /// From now on; or, for a reader that was here before, from behind the event that it saw last.
    pub fn subscribe(&self, last: Option<&str>) -> Subscription {
        let ring = self.lock();
        let future = self.sender.subscribe();
        let Some(last) = last else { return Subscription { missed: None, past: VecDeque::new(), future } };
        let number = last.split_once('-').filter(|(epoch, _)| epoch.parse() == Ok(self.epoch));
        let number = number.and_then(|(_, number)| number.parse::<u64>().ok()).filter(|n| *n <= ring.emitted);
        let oldest = ring.events.front().map_or(ring.emitted + 1, |event| event.number);
        let missed = match number {
            None => Some(None),
            Some(number) => (number + 1 < oldest).then(|| Some(oldest - number - 1)),
        };
        let newer = ring.events.iter().filter(|event| number.is_none_or(|number| event.number > number));
        Subscription { missed, past: newer.cloned().collect(), future }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(n: usize) -> Events {
        let events = Events::new(Timestamp::UNIX_EPOCH);
        (0..n).for_each(|i| events.emit("test", &[("n", i.into())]));
        events
    }

    #[test]
    fn who_comes_back_gets_what_is_left() {
        let table = [
            (3, None, None, 0),
            (3, Some("0-3"), None, 0),
            (3, Some("0-1"), None, 2),
            (0, Some("0-0"), None, 0),
            (KEPT + 10, Some("0-10"), None, KEPT),
            (KEPT + 10, Some("0-4"), Some(Some(6)), KEPT),
            (3, Some("7-1"), Some(None), 3),
            (3, Some("0-9"), Some(None), 3),
            (3, Some("x"), Some(None), 3),
        ];
        for (n, last, missed, past) in table {
            let subscription = events(n).subscribe(last);
            assert_eq!((subscription.missed, subscription.past.len()), (missed, past), "{n} {last:?}");
        }
    }

    #[test]
    fn an_event_is_handed_out_once_and_a_slow_reader_loses_the_oldest() {
        let events = events(1);
        let mut reader = events.subscribe(None).future;
        events.emit("test", &[("backend", "10.0.0.1:80".into())]);
        let event = reader.try_recv().expect("it is there");
        assert_eq!((&*event.id, event.name), ("0-2", "test"));
        let data: Value = serde_json::from_str(&event.data).expect("JSON");
        assert!(data["time"].is_string() && data["backend"] == "10.0.0.1:80");
        (0..KEPT + 3).for_each(|_| events.emit("test", &[]));
        assert_eq!(reader.try_recv(), Err(broadcast::error::TryRecvError::Lagged(3)));
        assert_eq!(reader.try_recv().map(|event| event.id.clone()), Ok("0-6".to_owned()));
    }
}
