//! Which messages are let through, in which order, and what is answered.

use super::*;

const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_stream_of_messages_reads_the_same_wherever_it_is_cut() {
    let stream = format!(
        "\r\nPOST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
         POST /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n\
         GET http://x/3?q HTTP/1.1\r\nHost: x\r\n\r\n{LAST}"
    );
    let whole = ask(&stream).await;
    for part in ["POST /1 HTTP/1.1 host=x", "[hello]", "[hello!]", "GET http://x/3?q", "GET /last", "connection: close"]
    {
        assert!(whole.contains(part), "{part} in {whole}");
    }
    assert_eq!(whole.matches("HTTP/1.1 200 OK").count(), 4);
    for cut in 1..stream.len() {
        let cut_up = with(async |pipe: &mut Pipe| {
            let (first, second) = stream.as_bytes().split_at(cut);
            pipe.send(first).await;
            sleep(Duration::from_millis(1)).await;
            pipe.send(second).await;
            pipe.rest().await
        })
        .await;
        assert_eq!(cut_up, whole, "cut at {cut}");
    }
    // And through a pipe so narrow that every read and every write is short.
    for room in [1, 2, 7, 64] {
        let narrow = with_limits(room, Limits::default(), async |pipe: &mut Pipe| {
            let (mut read, mut write) = tokio::io::split(&mut pipe.client);
            let mut out = vec![];
            let (sent, got) = tokio::join!(write.write_all(stream.as_bytes()), read.read_to_end(&mut out));
            sent.unwrap();
            got.unwrap();
            String::from_utf8(out).unwrap()
        })
        .await;
        assert_eq!(narrow, whole, "room for {room}");
    }
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_order_a_bad_one_included() {
    let answers = ask("GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: a b\r\n\r\nGET /c HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let place = |text: &str| answers.find(text).unwrap_or_else(|| panic!("{text} in {answers}"));
    assert!(place("GET /slow") < place("GET /a ") && place("GET /a ") < place("HTTP/1.1 400"));
    assert!(place("HTTP/1.1 400") < place("\"reason\":\"bad_request\""));
    assert!(answers.to_ascii_lowercase().contains("connection: close"));
    assert!(!answers.contains("GET /c"));
}

#[tokio::test(start_paused = true)]
async fn a_bad_head_reaches_no_service_and_gets_its_status() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9000));
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(17_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(100));
    for (bytes, status, reason) in [
        ("GET / HTTP/1.1\r\n\r\n", "400", "bad_request"),
        ("GET / HTTP/1.1\nHost: x\n\n", "400", "bad_request"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400", "bad_request"),
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "400", "bad_request"),
        ("\u{16}\u{3}\u{1}", "400", "bad_request"),
        (&long, "414", "target_too_long"),
        (&large, "431", "headers_too_large"),
        (&many, "431", "headers_too_large"),
    ] {
        with(async |pipe: &mut Pipe| {
            pipe.send(bytes).await;
            let answer = pipe.rest().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:?} -> {answer}");
            assert!(answer.contains(&format!("\"reason\":\"{reason}\"")), "{answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
            assert_eq!(pipe.service.served.get(), 0);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_bad_head_request_has_no_body() {
    let answer = ask("HEAD /a HTTP/1.1\r\nHost: a b\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_bad_body_is_answered_and_nothing_after_it_is_read() {
    for body in
        ["5\r\nhelloX", "zz\r\n", "5\nhello", "5;a\nb\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\nA : b\r\n\r\n"]
    {
        let head = "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = ask(format!("{head}{body}{GET}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?} -> {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_says_close_and_the_rest_of_the_body_is_drained() {
    with(async |pipe: &mut Pipe| {
        pipe.send("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nbegin").await;
        let answer = pipe.until("early").await;
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        pipe.send(vec![b'x'; 50_000]).await;
        assert_eq!(pipe.rest().await, "");
        assert_eq!(pipe.service.cancelled.get(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_to_a_body_that_is_here_keeps_the_connection() {
    let answers = ask(format!("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nbegin{LAST}")).await;
    assert!(answers.contains("early") && answers.contains("GET /last"), "{answers}");
}

#[tokio::test(start_paused = true)]
async fn an_expected_100_comes_when_the_body_is_asked_for() {
    with(async |pipe: &mut Pipe| {
        pipe.send("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
        assert_eq!(pipe.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        pipe.send("ok").await;
        assert!(pipe.until("[ok]").await.starts_with("HTTP/1.1 200 OK"));
        pipe.send("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
        let answer = pipe.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close\r\n"), "{answer}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_responses_go_before_the_answer_even_through_a_narrow_pipe() {
    for room in [1, 5, 40, 4096] {
        with_limits(room, Limits::default(), async |pipe: &mut Pipe| {
            pipe.send("POST /hints HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nok").await;
            let answer = pipe.until("[ok]").await;
            assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
            assert!(answer.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"));
            pipe.send("GET /hints HTTP/1.0\r\nHost: x\r\n\r\n").await;
            assert!(!pipe.rest().await.contains("103"));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_cancels_its_request() {
    with(async |pipe: &mut Pipe| {
        pipe.send("GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!((pipe.service.served.get(), pipe.service.cancelled.get()), (1, 0));
        pipe.client.shutdown().await.unwrap();
        assert_eq!(pipe.rest().await, "");
        assert_eq!(pipe.service.cancelled.get(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_in_a_body_gets_no_answer_about_it() {
    with(async |pipe: &mut Pipe| {
        pipe.send("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").await;
        pipe.client.shutdown().await.unwrap();
        assert_eq!(pipe.rest().await, "");
        assert_eq!(pipe.service.served.get(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_fails_does_not_end_as_if_it_were_whole() {
    let answer = ask("GET /broken HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(!answer.ends_with("0\r\n\r\n") && !answer.contains("HTTP/1.1 5"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn http_1_0_closes_unless_asked() {
    let answer = ask("GET /a HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.contains("GET /a HTTP/1.0"), "{answer}");
    let answers = ask("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n").await;
    assert!(answers.contains("connection: keep-alive") && answers.contains("GET /b"), "{answers}");
}

#[tokio::test(start_paused = true)]
async fn limits_that_change_hold_from_the_next_head_on() {
    with(async |pipe: &mut Pipe| {
        pipe.send(GET).await;
        pipe.until("[]").await;
        pipe.service.limits.set(Limits { max_target_bytes: 1, ..Limits::default() });
        pipe.send(GET).await;
        assert!(pipe.rest().await.starts_with("HTTP/1.1 414 "));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn as_many_fields_as_the_limits_allow() {
    let limits = Limits { max_headers: 300, max_header_bytes: 128 * 1024, ..Limits::default() };
    let fields: String = (0..298).map(|i| format!("a{i}: {}\r\n", "b".repeat(300))).collect();
    with_limits(4096, limits, async |pipe: &mut Pipe| {
        let request = format!("GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n");
        pipe.send(request).await;
        assert!(pipe.rest().await.contains(" a297=bbb"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_holds_no_room_for_what_it_is_not_doing() {
    let (_client, server) = duplex(64);
    let watch = Watch::new(Conn::new(None, listener()), Rc::default(), &Limits::default());
    let metrics = Metrics::new(1);
    let connection = serve(server, None, watch, Common::new(Echo::new(Limits::default())), &metrics);
    // The future of a connection lives as long as it does; what a request or the end needs is allocated then.
    assert!(size_of_val(&connection) <= 512, "{} bytes", size_of_val(&connection));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_over_is_the_next_connections() {
    let service = Echo::new(Limits::default());
    let (common, metrics) = (Common::new(Rc::clone(&service)), Metrics::new(1));
    let waiting = common.turns.of_kind::<DuplexStream>();
    let connect = || {
        let (client, server) = duplex(4096);
        let watch = Watch::new(Conn::new(None, listener()), Rc::default(), &Limits::default());
        (client, Rc::clone(&watch), serve(server, None, watch, Rc::clone(&common), &metrics))
    };
    let say = async |client: &mut DuplexStream, path: &str| {
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    };
    let hear = async |client: &mut DuplexStream| {
        let mut answer = [0; 1024];
        let read = client.read(&mut answer).await.unwrap();
        assert!(answer.get(..read).unwrap().starts_with(b"HTTP/1.1 200 "));
    };
    let ((mut a, _, serve_a), (mut b, _, serve_b), (mut c, of_c, serve_c)) = (connect(), connect(), connect());
    let clients = async {
        for client in [&mut a, &mut b] {
            say(client, "/").await;
            hear(client).await;
            tokio::task::yield_now().await;
            assert_eq!(waiting.len(), 1, "one turn is enough for one connection after the other");
        }
        // Both at once take two, which are there for whoever comes next.
        say(&mut a, "/slow").await;
        say(&mut b, "/slow").await;
        hear(&mut a).await;
        hear(&mut b).await;
        tokio::task::yield_now().await;
        assert_eq!(waiting.len(), 2);
        // What is cut off is given up, and its turn with it.
        say(&mut c, "/never").await;
        while service.served.get() < 5 {
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting.len(), 1);
        of_c.kill();
        drop((a, b));
    };
    tokio::join!(clients, serve_a, serve_b, serve_c);
    assert_eq!((waiting.len(), service.cancelled.get()), (1, 1));
}
