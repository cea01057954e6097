//! Time-outs and drain, in paused time.

use std::io;
use std::task::ready;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::message::socket::Arriving;

const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

/// Seconds until the connection ended, and what came.
async fn ends(pipe: &mut Pipe) -> (f32, String) {
    let began = Instant::now();
    let rest = pipe.rest().await;
    (began.elapsed().as_secs_f32(), rest)
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_without_a_word() {
    with(async |pipe: &mut Pipe| {
        let (took, rest) = ends(pipe).await;
        assert!((10.0..10.6).contains(&took) && rest.is_empty(), "{took} {rest}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_gets_408() {
    with(async |pipe: &mut Pipe| {
        pipe.send("GET /a HTTP/1.1\r\nHo").await;
        let (took, rest) = ends(pipe).await;
        assert!((10.0..10.6).contains(&took), "{took}");
        assert!(rest.starts_with("HTTP/1.1 408 ") && rest.contains("request_timeout"), "{rest}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_later_head_begins_with_its_first_byte() {
    with(async |pipe: &mut Pipe| {
        pipe.send(GET).await;
        pipe.until("[]").await;
        sleep(Duration::from_secs(60)).await;
        pipe.send("H").await;
        let (took, rest) = ends(pipe).await;
        assert!((10.0..10.6).contains(&took), "{took}");
        assert!(rest.starts_with("HTTP/1.1 408 "), "{rest}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_trickle_of_bytes_does_not_stretch_the_time_of_a_head() {
    with(async |pipe: &mut Pipe| {
        let began = Instant::now();
        for byte in format!("GET /{}", "a".repeat(100)).bytes() {
            if pipe.client.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        assert!(pipe.rest().await.starts_with("HTTP/1.1 408 "));
        assert!(began.elapsed() < Duration::from_secs(60));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    with(async |pipe: &mut Pipe| {
        pipe.send(GET).await;
        pipe.until("[]").await;
        let (took, rest) = ends(pipe).await;
        assert!((75.0..75.6).contains(&took) && rest.is_empty(), "{took} {rest}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_its_time() {
    with(async |pipe: &mut Pipe| {
        pipe.send("GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(timeout(Duration::from_secs(1000), pipe.client.read_u8()).await.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_too_slowly_gets_408() {
    for head in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        with(async |pipe: &mut Pipe| {
            pipe.send(format!("POST /a HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n3\r\n")).await;
            let (took, rest) = ends(pipe).await;
            assert!((10.0..10.8).contains(&took), "{took}");
            assert!(rest.starts_with("HTTP/1.1 408 ") && rest.contains("connection: close\r\n"), "{rest}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_fast_enough_may_take_long() {
    with(async |pipe: &mut Pipe| {
        pipe.send("POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 30000\r\n\r\n").await;
        for _ in 0..100 {
            pipe.send([b'x'; 300]).await;
            sleep(Duration::from_secs(1)).await;
        }
        assert!(pipe.rest().await.starts_with("HTTP/1.1 200 "));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut_off_and_one_that_is_slow_is_not() {
    with_limits(8192, Limits::default(), async |pipe: &mut Pipe| {
        pipe.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
        sleep(Duration::from_secs(25)).await;
        let (_, rest) = ends(pipe).await;
        assert!(rest.len() < 100_000, "{}", rest.len());
        let metrics = pipe.metrics.encode();
        assert!(metrics.contains("shardgate_limit_hits_total{limit=\"min_body_rate\"} 1"), "{metrics}");
        assert_eq!(pipe.service.fault(), Some(Reason::SlowReader));
    })
    .await;
    with_limits(8192, Limits::default(), async |pipe: &mut Pipe| {
        pipe.send("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let (mut all, mut part) = (0, [0; 4096]);
        loop {
            let n = pipe.client.read(&mut part).await.unwrap();
            all += n;
            if n == 0 {
                break;
            }
            sleep(Duration::from_secs(3)).await;
        }
        assert!(all > 1 << 20, "{all}");
        assert!(!pipe.metrics.encode().contains("limit=\"min_body_rate\""));
        assert_eq!(pipe.service.fault(), None);
    })
    .await;
}

/// Takes what is written before it can go on, as TLS does.
pub(super) struct Greedy {
    below: DuplexStream,
    held: Vec<u8>,
    passed: usize,
}

impl Greedy {
    pub(super) fn new(below: DuplexStream) -> Self {
        Self { below, held: Vec::new(), passed: 0 }
    }
}

impl Arriving for Greedy {}

impl Wire for Greedy {
    fn undelivered(&self) -> usize {
        self.passed % 10_007
    }

    fn abort(&self) {}
}

impl AsyncRead for Greedy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_read(cx, out)
    }
}

impl AsyncWrite for Greedy {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.held.is_empty() {
            let n = ready!(Pin::new(&mut this.below).poll_write(cx, &this.held))?;
            this.held.drain(..n);
            this.passed += n;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_encrypted_and_not_taken_is_seen_as_well() {
    let wire = Greedy::new;
    let post = format!("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n{}", "y".repeat(30_000));
    with_wire(8192, Limits::default(), wire, async |pipe: &mut Pipe| {
        pipe.send(&post).await;
        sleep(Duration::from_secs(25)).await;
        assert_eq!(pipe.service.fault(), Some(Reason::SlowReader));
        let (_, rest) = ends(pipe).await;
        assert!(rest.len() < 30_000, "{}", rest.len());
    })
    .await;
    with_wire(8192, Limits::default(), wire, async |pipe: &mut Pipe| {
        pipe.send(&post).await;
        let (mut all, mut part) = (0, [0; 1024]);
        while all < 30_000 {
            all += pipe.client.read(&mut part).await.unwrap();
            sleep(Duration::from_secs(3)).await;
        }
        assert_eq!(pipe.service.fault(), None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_has_taken_it_all_is_not_waited_for() {
    with_wire(8192, Limits::default(), Greedy::new, async |pipe: &mut Pipe| {
        pipe.send("GET /burst HTTP/1.1\r\nHost: x\r\n\r\n").await;
        sleep(Duration::from_secs(4)).await;
        let taken = timeout(Duration::from_secs(600), pipe.rest()).await;
        assert!(taken.is_err(), "it is the answer that pauses");
        assert_eq!(pipe.service.fault(), None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_a_client_that_takes_nothing_is_cut_off_when_it_could_be_idle_no_longer() {
    let limits = Limits { min_body_rate: 0, idle_timeout: Duration::from_secs(40), ..Limits::default() };
    with_limits(8192, limits, async |pipe: &mut Pipe| {
        pipe.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
        sleep(Duration::from_secs(35)).await;
        assert_eq!(pipe.service.fault(), None);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(pipe.service.fault(), Some(Reason::SlowReader));
        assert!(ends(pipe).await.1.len() < 100_000);
        let metrics = pipe.metrics.encode();
        assert!(metrics.contains("shardgate_limit_hits_total{limit=\"idle_timeout\"} 1"), "{metrics}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_pauses_is_not_the_client_s_fault() {
    with(async |pipe: &mut Pipe| {
        pipe.send("GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n").await;
        pipe.until("begun\r\n").await;
        assert!(timeout(Duration::from_secs(600), pipe.client.read_u8()).await.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn draining_closes_idle_connections_and_lets_requests_finish() {
    let drain = |pipe: &Pipe, close: u64| pipe.watch.drain(Duration::from_secs(close), Duration::from_secs(30));
    with(async |pipe: &mut Pipe| {
        drain(pipe, 5);
        let (took, rest) = ends(pipe).await;
        assert!((5.0..5.6).contains(&took) && rest.is_empty(), "{took} {rest}");
    })
    .await;
    with(async |pipe: &mut Pipe| {
        drain(pipe, 5);
        pipe.send(GET).await;
        let (took, rest) = ends(pipe).await;
        assert!(took < 1.0 && rest.contains("connection: close\r\n") && rest.ends_with("[]"), "{took} {rest}");
    })
    .await;
    with(async |pipe: &mut Pipe| {
        pipe.send("GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await;
        drain(pipe, 5);
        let (took, rest) = ends(pipe).await;
        assert!((30.0..30.6).contains(&took) && rest.is_empty(), "{took} {rest}");
        assert_eq!(pipe.service.cancelled.get(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_half_here_is_served_while_draining() {
    with(async |pipe: &mut Pipe| {
        pipe.send("GET /a HT").await;
        sleep(Duration::from_millis(1)).await;
        pipe.watch.drain(Duration::ZERO, Duration::from_secs(30));
        sleep(Duration::from_secs(2)).await;
        pipe.send("TP/1.1\r\nHost: x\r\n\r\n").await;
        let (_, rest) = ends(pipe).await;
        assert!(rest.contains("connection: close\r\n") && rest.ends_with("[]"), "{rest}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_connection_ends_at_once() {
    with(async |pipe: &mut Pipe| {
        pipe.send("GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n").await;
        pipe.until("begun\r\n").await;
        pipe.watch.kill();
        let (took, rest) = ends(pipe).await;
        assert!(took < 0.1 && rest.is_empty(), "{took} {rest}");
    })
    .await;
    assert_eq!(Clock::default().now(), 0);
}
