//! Bodies of requests: replayed, bounded, given up, tunnelled.

use super::*;
use http_body_util::{BodyExt, StreamBody};

type Pieces = Vec<Result<Frame<Bytes>, &'static str>>;

fn source(pieces: Pieces) -> impl Body<Data = Bytes, Error = &'static str> + Unpin {
    StreamBody::new(futures_util::stream::iter(pieces))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

async fn read<B: Body<Data = Bytes, Error = BodyFault>>(body: B) -> Result<String, BodyFault> {
    let bytes = body.collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn body(pieces: Pieces, max: u64, keep: u64) -> RequestBody<impl Body<Data = Bytes> + Unpin> {
    let body = RequestBody::new(source(pieces), max, false, &ReplayBudget::new(100), Instant::now());
    body.keep(keep, false);
    body
}

#[tokio::test]
async fn a_second_try_sends_what_the_first_had_read_and_the_rest() {
    let body = body(vec![data("one "), data("two "), data("three")], 100, 64);
    let mut first = body.attempt();
    assert!(first.frame().await.unwrap().is_ok());
    assert!(body.is_replayable());
    let second = body.attempt();
    assert_eq!(first.frame().await.unwrap().unwrap_err(), BodyFault::Over);
    assert_eq!(read(second).await.unwrap(), "one two three");
    assert_eq!(read(body.attempt()).await.unwrap(), "one two three");
    assert_eq!(body.received(), 13);
    assert!(body.done().is_some());
}

#[tokio::test]
async fn trailers_are_sent_with_every_try_but_for_what_routes() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    trailers.insert("host", "other".parse().unwrap());
    let body = body(vec![data("one"), Ok(Frame::trailers(trailers))], 100, 64);
    for _ in 0..2 {
        let mut attempt = body.attempt();
        assert_eq!(attempt.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        assert!(!attempt.is_end_stream());
        let trailers = attempt.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!((trailers.len(), trailers["x-sum"].as_bytes()), (1, &b"7"[..]));
        assert!(attempt.is_end_stream() && attempt.frame().await.is_none());
    }
    assert!(body.done().is_some());
}

#[tokio::test]
async fn two_tries_beside_each_other_both_send_it_whole() {
    let body = body(vec![data("one "), data("two")], 100, 64);
    assert_eq!(read(body.attempt()).await.unwrap(), "one two");
    let (mut first, second) = (body.attempt(), body.beside());
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
    assert_eq!(second.size_hint().exact(), None);
    assert_eq!(read(second).await.unwrap(), "one two");
    assert_eq!(read(first).await.unwrap(), "two");
    assert_eq!(body.received(), 7);
}

#[tokio::test]
async fn past_its_bound_a_body_streams_on_but_can_t_be_replayed() {
    let body = body(vec![data("0123456789"), data("0123456789")], 100, 15);
    assert_eq!(read(body.attempt()).await.unwrap().len(), 20);
    assert!(!body.is_replayable());
    assert!(!body.hit_budget());
}

/// A try that is given up may still read, and then there is more than can be kept: what is left is not the body.
#[tokio::test]
async fn the_rest_of_a_body_does_not_pass_for_the_whole() {
    let body = body(vec![data("0123456789"), data("0123456789"), data("the end")], 100, 15);
    let mut first = body.attempt();
    first.frame().await.unwrap().unwrap();
    assert!(body.is_replayable());
    first.frame().await.unwrap().unwrap();
    assert_eq!(read(body.attempt()).await, Err(BodyFault::Over));
}

#[tokio::test]
async fn the_budget_of_a_worker_is_given_back() {
    let budget = ReplayBudget::new(15);
    let one = RequestBody::new(source(vec![data("0123456789")]), 100, false, &budget, Instant::now());
    one.keep(64, false);
    let two = RequestBody::new(source(vec![data("0123456789")]), 100, false, &budget, Instant::now());
    two.keep(64, false);
    read(one.attempt()).await.unwrap();
    read(two.attempt()).await.unwrap();
    assert!(one.is_replayable() && !two.is_replayable() && two.hit_budget());
    drop(one);
    assert_eq!(budget.0.get(), 15);
}

#[tokio::test]
async fn what_was_kept_until_a_backend_saw_the_request_is_let_go_of_then() {
    let budget = ReplayBudget::new(30);
    for (until_seen, expected) in [(false, (true, 15)), (true, (false, 30))] {
        let pieces = vec![data("0123456789"), data("01234"), data("last")];
        let body = RequestBody::new(source(pieces), 100, false, &budget, Instant::now());
        body.keep(64, until_seen);
        let mut attempt = body.attempt();
        attempt.frame().await.unwrap().unwrap();
        assert!(body.is_replayable() && budget.0.get() == 20);
        attempt.frame().await.unwrap().unwrap();
        body.seen();
        assert_eq!((body.is_replayable(), budget.0.get()), expected);
        // The try that goes on loses nothing, and nothing more is kept for another.
        assert_eq!(read(attempt).await.unwrap(), "last");
        assert_eq!((body.received(), body.is_replayable()), (19, !until_seen));
        drop(body);
        assert_eq!(budget.0.get(), 30);
    }
}

#[tokio::test]
async fn a_later_try_has_all_of_the_body_whoever_has_seen_it() {
    let body = body(vec![data("one "), data("two "), data("three")], 100, 64);
    body.keep(64, true);
    assert_eq!(read(body.attempt()).await.unwrap(), "one two three");
    let mut second = body.attempt();
    assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
    body.seen();
    assert_eq!(read(second).await.unwrap(), "two three");
}

#[tokio::test]
async fn too_large_and_broken_bodies_are_told_apart() {
    let large = body(vec![data("0123456789")], 9, 64);
    assert_eq!(read(large.attempt()).await.unwrap_err(), BodyFault::TooLarge);
    let broken = body(vec![data("01"), Err("reset")], 9, 64);
    assert_eq!(read(broken.attempt()).await.unwrap_err(), BodyFault::Client);
    assert!(!broken.is_replayable());
}

#[tokio::test(start_paused = true)]
async fn a_held_body_flows_when_released_or_after_a_second() {
    let budget = ReplayBudget::new(0);
    let body = RequestBody::new(source(vec![data("x")]), 9, true, &budget, Instant::now());
    let mut attempt = body.attempt();
    assert!(futures_util::poll!(attempt.frame()).is_pending());
    body.release();
    assert!(futures_util::poll!(attempt.frame()).is_ready());

    let body = RequestBody::new(source(vec![data("x")]), 9, true, &budget, Instant::now());
    let began = Instant::now();
    assert_eq!(read(body.attempt()).await.unwrap(), "x");
    assert_eq!(began.elapsed().as_secs(), 1);

    let body = RequestBody::new(source(vec![data("x")]), 9, true, &budget, Instant::now());
    let attempt = body.attempt();
    body.abandon_if_held();
    assert_eq!(read(attempt).await.unwrap_err(), BodyFault::Over);
}
