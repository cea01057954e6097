//! Times of HTTP/2, on a clock of our own: who is waited for, and for how long.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    out.extend_from_slice(payload);
    out
}

/// SETTINGS with this initial window.
fn settings(window: u32) -> Vec<u8> {
    frame(4, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat())
}

fn head(flags: u8, stream: u8, method: &str, path: &str) -> Vec<u8> {
    let mut block = vec![];
    for (name, value) in [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, flags | 4, stream, &block)
}

fn get(stream: u8, path: &str) -> Vec<u8> {
    head(1, stream, "GET", path)
}

impl Pipe {
    /// The kind, the stream and the payload of the next frame.
    async fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.client.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        self.client.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[8], payload))
    }

    /// The next frame of this kind, and when it came. `None`: the connection has ended.
    async fn frame_of(&mut self, kind: u8) -> Option<(u8, Vec<u8>)> {
        loop {
            match self.frame().await? {
                (found, stream, payload) if found == kind => return Some((stream, payload)),
                _ => {}
            }
        }
    }
}

fn limits() -> Limits {
    Limits { header_timeout: Duration::from_secs(5), idle_timeout: Duration::from_secs(30), ..Limits::default() }
}

/// So long after `since`, by a tick or two more.
fn took(since: Instant, seconds: u64) {
    let took = since.elapsed();
    let least = Duration::from_secs(seconds);
    assert!((least..least + 4 * TICK).contains(&took), "{took:?} instead of {least:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_window_stays_shut_is_reset_and_another_is_served() {
    with_limits(64 * 1024, limits(), async |pipe| {
        pipe.send([PREFACE, &settings(100), &get(1, "/large"), &get(3, "/slow")].concat()).await;
        let began = Instant::now();
        assert_eq!(pipe.frame_of(RST_STREAM).await, Some((1, vec![0, 0, 0, 8])));
        took(began, 10);
        assert_eq!(pipe.service.served.get(), 2);
        // The other one was answered meanwhile, so that nothing is open any more.
        let idle = Instant::now();
        let (_, last) = pipe.frame_of(GOAWAY).await.unwrap();
        assert_eq!(last[4..], [0; 4]);
        took(idle, 30);
        assert_eq!(pipe.frame_of(GOAWAY).await, None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_the_idle_timeout_is_for_streams_as_well() {
    let limits = Limits { min_body_rate: 0, ..limits() };
    with_limits(64 * 1024, limits, async |pipe| {
        pipe.send([PREFACE, &settings(0), &get(1, "/large")].concat()).await;
        let began = Instant::now();
        assert!(pipe.frame_of(RST_STREAM).await.is_some());
        took(began, 30);
        assert_eq!(pipe.service.fault(), Some(Reason::SlowReader));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_answered_and_the_connection_stays() {
    with_limits(64 * 1024, limits(), async |pipe| {
        pipe.send([PREFACE, &settings(65_535), &head(0, 1, "POST", "/a")].concat()).await;
        let began = Instant::now();
        // 408 is not among the statuses of HPACK's table: literal, of name 8.
        let (stream, answer) = pipe.frame_of(HEADERS).await.unwrap();
        assert_eq!((stream, answer[0]), (1, 0x48));
        took(began, 10);
        assert_eq!(pipe.frame_of(RST_STREAM).await, Some((1, vec![0; 4])));
        pipe.send(get(3, "/a")).await;
        assert_eq!(pipe.frame_of(HEADERS).await.map(|(stream, answer)| (stream, answer[0])), Some((3, 0x88)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_not_read_ends_the_connection() {
    let cancelled = with_limits(1000, limits(), async |pipe| {
        pipe.send([PREFACE, &settings(1 << 20), &get(1, "/large")].concat()).await;
        sleep(Duration::from_secs(9)).await;
        assert!(!pipe.watch.conn.draining());
        sleep(Duration::from_secs(3)).await;
        assert_eq!(pipe.service.fault(), Some(Reason::SlowReader));
        assert!(pipe.metrics.encode().contains("shardgate_limit_hits_total{limit=\"min_body_rate\"} 1"));
        // What was on its way, and no end of the answer.
        let mut rest = vec![];
        let _ = pipe.client.read_to_end(&mut rest).await;
        rest.len()
    })
    .await;
    assert!(cancelled <= 3000, "{cancelled}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_not_whole_ends_the_connection_even_while_streams_are_open() {
    with_limits(64 * 1024, limits(), async |pipe| {
        pipe.send([PREFACE, &settings(65_535), &get(1, "/never")].concat()).await;
        sleep(Duration::from_secs(7)).await;
        let began = Instant::now();
        let whole = get(3, "/a");
        pipe.send(&whole[..whole.len() - 1]).await;
        let (_, last) = pipe.frame_of(GOAWAY).await.unwrap();
        assert_eq!(last[4..], [0, 0, 0, 11]);
        took(began, 5);
        assert_eq!(pipe.service.served.get(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_is_drained_gets_a_goodbye_and_is_cut_off_in_the_end() {
    with_limits(64 * 1024, limits(), async |pipe| {
        pipe.send([PREFACE, &settings(65_535), &get(1, "/never")].concat()).await;
        sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        pipe.watch.drain(Duration::from_secs(2), Duration::from_secs(9));
        assert!(pipe.frame_of(GOAWAY).await.is_some());
        took(began, 2);
        while pipe.frame().await.is_some() {}
        took(began, 9);
        assert_eq!(pipe.service.cancelled.get(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_preface_that_is_not_whole_is_waited_for_and_no_longer() {
    with_limits(64 * 1024, limits(), async |pipe| {
        pipe.send(&PREFACE[..10]).await;
        let began = Instant::now();
        assert_eq!(pipe.rest().await, "");
        took(began, 5);
    })
    .await;
}

/// What the library has been given is not what the client has.
#[tokio::test(start_paused = true)]
async fn the_end_of_an_answer_is_waited_for_while_draining() {
    with_limits(1000, limits(), async |pipe| {
        let window = frame(8, 0, 0, &(1u32 << 21).to_be_bytes());
        pipe.send([PREFACE, &settings(1 << 21), &window, &get(1, "/large")].concat()).await;
        pipe.watch.drain(Duration::ZERO, Duration::from_secs(600));
        let mut bytes = 0;
        while let Some((kind, _, payload)) = pipe.frame().await {
            bytes += if kind == 0 { payload.len() } else { 0 };
            sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(bytes, 1 << 20);
    })
    .await;
}

/// Over TLS: what it holds is seen, while it holds it.
#[tokio::test(start_paused = true)]
async fn who_has_taken_it_all_is_not_waited_for_and_who_takes_nothing_is() {
    let window = frame(8, 0, 0, &(1u32 << 20).to_be_bytes());
    let ask = [PREFACE, &settings(1 << 20), &window, &get(1, "/burst")].concat();
    with_wire(8192, limits(), timing::Greedy::new, async |pipe| {
        pipe.send(&ask).await;
        sleep(Duration::from_secs(4)).await;
        let taken = timeout(Duration::from_secs(600), async { while pipe.frame().await.is_some() {} }).await;
        assert!(taken.is_err(), "it is the answer that pauses");
        assert_eq!(pipe.service.fault(), None);
    })
    .await;
    with_wire(8192, limits(), timing::Greedy::new, async |pipe| {
        pipe.send(&ask).await;
        sleep(Duration::from_secs(25)).await;
        assert_eq!(pipe.service.fault(), Some(Reason::SlowReader));
    })
    .await;
}
