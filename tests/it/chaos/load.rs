//! The load: requests at fixed times, whatever became of those before (an open loop), each with an id from which its
//! body and the right answer follow. Of every four one is a POST; of every two one has a connection of its own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::backends::upload_of;
use super::wire::{Wire, body_of, field, framing};

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The right answer, and who gave it.
    Good(usize),
    /// Another status than 200.
    Status(u16),
    /// A part of the right answer.
    Cut,
    /// The connection ended without an answer.
    Closed,
    /// No answer in time.
    Late,
    /// Not the right answer, nor the beginning of it.
    Wrong,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub id: u32,
    pub is_post: bool,
    /// When it was due, since the load began.
    pub at: Duration,
    /// From then to its end.
    pub took: Duration,
    pub outcome: Outcome,
}

impl Sample {
    pub fn is_good(&self) -> bool {
        matches!(self.outcome, Outcome::Good(_))
    }
}

/// Times from the first to the second with such a gap between two.
pub fn every(gap: Duration, from: Duration, to: Duration) -> Vec<Duration> {
    (0..).map(|n| from + gap * n).take_while(|at| *at < to).collect()
}

/// Sends a request to this address at each of these times after `start`, and gives them all. Runs in the namespace of
/// its thread. And how late the latest was sent: as late as that, this machine lets anybody do anything.
pub fn run(target: SocketAddr, start: std::time::Instant, times: &[Duration]) -> (Vec<Sample>, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let idle = Arc::new(Mutex::new(VecDeque::new()));
        let mut requests = JoinSet::new();
        let mut lag = Duration::ZERO;
        for (id, &at) in (0..).zip(times) {
            let due = Instant::from_std(start) + at;
            sleep_until(due).await;
            lag = lag.max(due.elapsed());
            let idle = Arc::clone(&idle);
            requests.spawn(async move {
                let is_post = id % 4 == 3;
                let outcome = timeout(PATIENCE, ask(target, &idle, id, is_post)).await.unwrap_or(Outcome::Late);
                Sample { id, is_post, at, took: due.elapsed(), outcome }
            });
        }
        (requests.join_all().await, lag)
    })
}

async fn ask(target: SocketAddr, idle: &Mutex<VecDeque<Wire>>, id: u32, is_post: bool) -> Outcome {
    // Half of the GETs and half of the POSTs.
    let own = (id / 4 + id).is_multiple_of(2);
    let kept = || {
        let mut idle = idle.lock().unwrap();
        while let Some(wire) = idle.pop_front() {
            if wire.is_quiet() {
                return Some(wire);
            }
        }
        None
    };
    let mut wire = match Some(own).filter(|own| !own).and_then(|_| kept()) {
        Some(wire) => wire,
        None => match TcpStream::connect(target).await.and_then(Wire::new) {
            Ok(wire) => wire,
            Err(_) => return Outcome::Closed,
        },
    };
    let (outcome, good_for_more) = exchange(&mut wire, id, is_post).await;
    if good_for_more && !own {
        idle.lock().unwrap().push_back(wire);
    }
    outcome
}

/// One request on one connection, and whether there may be another on it.
async fn exchange(wire: &mut Wire, id: u32, is_post: bool) -> (Outcome, bool) {
    let upload = if is_post { upload_of(id) } else { Vec::new() };
    let (method, length) =
        if is_post { ("POST", format!("Content-Length: {}\r\n", upload.len())) } else { ("GET", String::new()) };
    let head = format!("{method} /v1/predict/BTC?id={id} HTTP/1.1\r\nHost: chaos\r\n{length}\r\n");
    if wire.send(&[head.as_bytes(), &upload].concat()).await.is_err() {
        return (Outcome::Closed, false);
    }
    let Ok(Some(head)) = wire.head().await else { return (Outcome::Closed, false) };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    let whole = wire.body(framing(&head), &mut body).await.is_ok();
    let right = body_of(id);
    let outcome = match field(&head, "x-backend").and_then(|number| number.parse().ok()) {
        _ if status != 200 => Outcome::Status(status),
        Some(number) if whole && body == right => Outcome::Good(number),
        Some(_) if !whole && right.starts_with(&body) => Outcome::Cut,
        _ => Outcome::Wrong,
    };
    let goes_on = field(&head, "connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
    (outcome, whole && goes_on)
}
