//! Listeners and client connections: TCP and Unix sockets, keep-alive and pipelining, bodies both ways, expectations and
//! interim responses, limits and time-outs.

use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::support::proxy::run;
use crate::support::{After, Client, DEADLINE, Origin, Proxy, poll};

const ROUTES: &str = r#"
[[routes]]
path = "/v1/{asset}"
[regions.a]
[defaults]
health = false
"#;

fn config(origin: &Origin, limits: &str) -> String {
    listeners(origin, "[[listeners]]\nname = \"main\"\nbind = \"127.0.0.1:0\"", limits)
}

fn listeners(origin: &Origin, listeners: &str, limits: &str) -> String {
    format!("{listeners}\n{ROUTES}\n[limits]\n{limits}\n[pools.BTC.a]\nprimaries = [\"{}\"]\n", origin.addr())
}

#[test]
fn several_listeners_of_every_kind() {
    let origin = Origin::start("one");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let several = format!(
        "[[listeners]]\nname = \"four\"\nbind = \"127.0.0.1:0\"\n[[listeners]]\nname = \"both\"\nbind = \"[::]:0\"\n\
         [[listeners]]\nname = \"file\"\nbind = \"unix:{}\"",
        path.display()
    );
    let mut proxy = Proxy::start(&listeners(&origin, &several, ""));
    let both = proxy.addr("both").port();
    assert_eq!(Client::connect(proxy.addr("four")).get("/v1/BTC").status, 200);
    assert_eq!(Client::connect(([127, 0, 0, 1], both).into()).get("/v1/BTC").status, 200);
    assert_eq!(Client::connect((std::net::Ipv6Addr::LOCALHOST, both).into()).get("/v1/BTC").status, 200);
    assert_eq!(Client::connect_unix(&path).get("/v1/BTC").status, 200);
    let from = |i: usize| origin.requests()[i].header("x-forwarded-for").map(str::to_owned);
    assert_eq!(from(1).as_deref(), Some("127.0.0.1"), "an IPv4-mapped address is unmapped");
    assert_eq!(from(2).as_deref(), Some("::1"));
    assert_eq!(from(3).as_deref(), Some("unknown"), "a Unix socket's peer has no address");
    assert!(proxy.access_where(|line| line["listener"] == "file")["client"].is_null());
    assert!(proxy.metric("shardgate_client_connections_total", &[("listener", "file")]) >= 1.0);
    proxy.signal(Signal::TERM);
    assert!(proxy.wait_exit(DEADLINE).success());
    assert!(!path.exists());
}

#[test]
fn an_address_that_is_taken_is_exit_code_3_and_names_its_holder() {
    let origin = Origin::start("one");
    let first = Proxy::start(&config(&origin, ""));
    let taken = first.address();
    let file = tempfile::NamedTempFile::new().unwrap();
    let listener = format!("[[listeners]]\nbind = \"{taken}\"\n[admin]\nbind = \"127.0.0.1:0\"");
    std::fs::write(file.path(), listeners(&origin, &listener, "")).unwrap();
    let (code, _, stderr) = run(&["run", "-c", file.path().to_str().unwrap()]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains(&taken.to_string()), "{stderr}");
    assert!(stderr.contains(&format!("process {}", first.pid())), "{stderr}");
}

#[test]
fn a_connection_is_kept_and_pipelined_requests_are_answered_in_order() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/v1/BTC").status, 200);
    }
    let all: Vec<u8> =
        (0..20).flat_map(|i| client.format("POST", "/v1/BTC", &[], format!("body {i}").as_bytes())).collect();
    client.send(all);
    for _ in 0..20 {
        assert_eq!(client.response().status, 200);
    }
    let bodies: Vec<_> = origin.requests().split_off(3).into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, (0..20).map(|i| format!("body {i}").into_bytes()).collect::<Vec<_>>());
    assert_eq!(proxy.metric("shardgate_client_connections_total", &[]), 1.0);
    assert_eq!(client.request("GET", "/v1/BTC", &[("Connection", "close")], b"").header("connection"), Some("close"));
    client.expect_closed();
}

#[test]
fn http_1_0_is_served() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut client = proxy.client();
    client.send("GET /v1/BTC HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.response().status, 200);
    client.send("GET /v1/BTC HTTP/1.0\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.status, answer.version.as_str()), (200, "HTTP/1.0"));
    client.expect_closed();
}

#[test]
fn bodies_stream_both_ways_without_waiting_for_their_end() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    // The backend gives back each piece as it comes.
    origin.on_custom("/v1/BTC", |_, exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let mut got = String::new();
        while !got.ends_with("0\r\n\r\n") {
            let piece = exchange.piece()?;
            if piece.is_empty() {
                return Ok(After::Close);
            }
            got.push_str(&String::from_utf8_lossy(&piece));
            exchange.send(format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(&piece)))?;
        }
        exchange.send("0\r\n\r\n")?;
        Ok(After::Close)
    });
    let mut client = proxy.client();
    client.send("POST /v1/BTC HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    assert_eq!(client.head_only().0, 200);
    let mut seen = String::new();
    poll("the first piece to come back", || {
        seen.push_str(&String::from_utf8_lossy(&client.take(1)));
        seen.contains("one").then_some(())
    });
    client.send("3\r\ntwo\r\n0\r\n\r\n");
    poll("the second piece to come back", || {
        seen.push_str(&String::from_utf8_lossy(&client.take(1)));
        seen.contains("two").then_some(())
    });
}

#[test]
fn large_bodies_arrive_whole() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    origin.on_custom("/v1/BTC", |_, exchange| {
        let body = exchange.body()?;
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()))?;
        exchange.send(body)?;
        Ok(After::Keep)
    });
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let answer = proxy.client().post("/v1/BTC", &body);
    assert!(answer.status == 200 && answer.body == body);
}

#[test]
fn answers_without_a_body_keep_the_connection() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut client = proxy.client();
    assert_eq!(client.request("HEAD", "/v1/BTC", &[], b"").status, 200);
    for status in ["204 No Content", "304 Not Modified"] {
        origin.on_custom("/v1/BTC", move |_, exchange| {
            exchange.send(format!("HTTP/1.1 {status}\r\n\r\n"))?;
            Ok(After::Keep)
        });
        assert_eq!(client.get("/v1/BTC").status.to_string(), status[..3]);
    }
    assert_eq!(client.get("/nowhere").status, 404);
}

#[test]
fn a_client_is_told_to_continue_once_a_backend_is_there() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut client = proxy.client();
    client.send("POST /v1/BTC HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.take(25), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("ok");
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.requests().pop().map(|request| request.body), Some(b"ok".to_vec()));
    // A refusal comes instead of the 100, and the connection ends: the body may or may not follow.
    client.send("POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.status, answer.interim.len(), answer.header("connection")), (404, 0, Some("close")));
    client.expect_closed();
}

#[test]
fn a_client_that_leaves_cancels_the_exchange() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let (told, ended) = mpsc::sync_channel(1);
    origin.on_custom("/v1/BTC", move |_, exchange| {
        told.send("begun").ok();
        exchange.wait_end();
        told.send("ended").ok();
        Ok(After::Close)
    });
    let mut client = proxy.client();
    client.send("GET /v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(ended.recv_timeout(DEADLINE), Ok("begun"));
    drop(client);
    assert_eq!(ended.recv_timeout(DEADLINE), Ok("ended"));
    assert_eq!(proxy.access_where(|line| line["reason"] == "client_closed")["status"], 499);
}

#[test]
fn connections_over_the_limits_get_503() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "max_connections = 2"));
    let mut held = [proxy.client(), proxy.client()];
    held.iter_mut().for_each(|client| assert_eq!(client.get("/v1/BTC").status, 200));
    let mut third = proxy.client();
    let answer = third.response();
    assert_eq!((answer.status, answer.reason()), (503, "overloaded".into()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    third.expect_closed();
    assert_eq!(proxy.metric("shardgate_limit_hits_total", &[("limit", "max_connections")]), 1.0);
    drop(held);
    poll("a place to come free", || {
        let mut client = proxy.client();
        client.send("GET /v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n");
        (client.response().status == 200).then_some(())
    });
}

#[test]
fn a_listener_may_have_a_limit_of_its_own() {
    let origin = Origin::start("one");
    let two = "[[listeners]]\nname = \"a\"\nbind = \"127.0.0.1:0\"\nmax_connections = 2\n\
               [[listeners]]\nname = \"b\"\nbind = \"127.0.0.1:0\"";
    let proxy = Proxy::start(&listeners(&origin, two, ""));
    let mut held = [Client::connect(proxy.addr("a")), Client::connect(proxy.addr("a"))];
    held.iter_mut().for_each(|client| assert_eq!(client.get("/v1/BTC").status, 200));
    assert_eq!(Client::connect(proxy.addr("a")).response().status, 503);
    assert_eq!(proxy.metric("shardgate_limit_hits_total", &[("limit", "listener_max_connections")]), 1.0);
    let other = Client::connect(proxy.addr("b")).get("/v1/BTC").status;
    assert_eq!(other, 200, "the other listener has none");
    drop(held);
    poll("a place to come free", || {
        let mut client = Client::connect(proxy.addr("a"));
        client.send("GET /v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n");
        (client.response().status == 200).then_some(())
    });
}

#[test]
fn one_client_may_hold_so_many_connections_over_all_workers() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "max_connections_per_client = 3"));
    let mut held: Vec<_> = (0..3).map(|_| proxy.client()).collect();
    held.iter_mut().for_each(|client| assert_eq!(client.get("/v1/BTC").status, 200));
    assert_eq!(proxy.client().response().status, 503);
    assert_eq!(proxy.metric("shardgate_limit_hits_total", &[("limit", "max_connections_per_client")]), 1.0);
}

#[test]
fn slow_heads_and_idle_connections_end() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "header_timeout = \"500ms\"\nidle_timeout = \"700ms\""));
    let mut silent = proxy.client();
    silent.expect_closed();
    let mut slow = proxy.client();
    slow.send("GET /v1/BTC HTTP/1.1\r\nHos");
    let answer = slow.response();
    assert_eq!((answer.status, answer.reason()), (408, "request_timeout".into()));
    assert_eq!(proxy.metric("shardgate_limit_hits_total", &[("limit", "header_timeout")]), 1.0);
    slow.expect_closed();
    let mut idle = proxy.client();
    assert_eq!(idle.get("/v1/BTC").status, 200);
    idle.expect_closed();
}

/// Has the daemon run with at most so many descriptors.
fn with_descriptors(limit: u32) -> impl FnOnce(&mut std::process::Command) {
    move |command| {
        // The shell lowers the limit, soft and hard, for the daemon that takes its place.
        let daemon = command.get_program().to_owned();
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut limited = std::process::Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]).arg(daemon).args(arguments);
        *command = limited;
    }
}

#[test]
fn clients_can_t_take_the_descriptors_that_backends_need() {
    let origin = Origin::start("one");
    let proxy = Proxy::start_with(&config(&origin, "[server]\nworkers = 1"), with_descriptors(256));
    let mut clients: Vec<_> = (0..110).map(|_| proxy.client()).collect();
    let statuses: Vec<_> = clients.iter_mut().map(|client| client.get("/v1/BTC").status).collect();
    let count = |status| statuses.iter().filter(|&&found| found == status).count();
    assert_eq!((count(200), count(503)), (96, 14), "{statuses:?}");
}

#[test]
fn a_daemon_without_descriptors_goes_on_when_there_are_some_again() {
    let origin = Origin::start("one");
    let proxy = Proxy::start_with(&config(&origin, ""), with_descriptors(64));
    let lowered = proxy.log_line("limits.max_connections is lowered to what the limit of open files allows");
    assert_eq!(lowered["max_connections"], 24);
    let address = proxy.address();
    let held: Vec<_> = (0..80).map(|_| TcpStream::connect(address).unwrap()).collect();
    drop(held);
    poll("accepting to go on", || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        std::io::Write::write_all(&mut stream, b"GET /v1/BTC HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.0 200").then_some(())
    });
}

/// How many the proxy has open.
fn descriptors(proxy: &Proxy) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count() as u64
}

/// From now on it gets no more than so many.
fn limit_descriptors(proxy: &Proxy, current: u64) {
    let limit = Rlimit { current: Some(current), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Pid::from_raw(proxy.pid().cast_signed()), Resource::Nofile, limit).unwrap();
}

#[test]
fn who_has_gone_makes_room_for_the_next_at_once() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "[server]\nworkers = 1"));
    // Connections of the proxy's own, to the backend and from here, are there already.
    let mut client = proxy.client();
    assert_eq!(client.get("/v1/BTC").status, 200);
    limit_descriptors(&proxy, descriptors(&proxy) + 5);
    // They have all reset their connections before the first is accepted.
    proxy.signal(Signal::STOP);
    for _ in 0..100 {
        let stream = socket2::Socket::from(TcpStream::connect(proxy.address()).unwrap());
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    }
    proxy.signal(Signal::CONT);
    // In the order in which they came.
    let mut last = TcpStream::connect(proxy.address()).unwrap();
    std::io::Write::write_all(&mut last, b"GET /v1/BTC HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(!proxy.log().contains("can't accept"), "{}", proxy.log());
}

#[test]
fn without_descriptors_those_that_are_served_go_on_and_the_log_says_so_once() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "[server]\nworkers = 1"));
    let (mut served, admin) = (proxy.client(), proxy.admin());
    assert_eq!(served.get("/v1/BTC").status, 200);
    // As many as it has, and two more: from now on, accepting fails with EMFILE.
    let open = descriptors(&proxy);
    limit_descriptors(&proxy, open + 2);
    let waiting: Vec<_> = (0..20).map(|_| TcpStream::connect(proxy.address()).unwrap()).collect();
    proxy.log_line("can't accept");
    for _ in 0..20 {
        assert_eq!(served.get("/v1/BTC").status, 200);
    }
    // Time for many more attempts; the admin address may have none either, so it can't be asked.
    let late = std::time::Instant::now();
    while late.elapsed() < Duration::from_millis(500) {
        assert_eq!(served.get("/v1/BTC").status, 200);
    }
    let said = |message: &str| proxy.log().lines().filter(|line| line.contains(message)).count();
    assert_eq!(said("can't accept\""), 1, "{}", proxy.log());
    limit_descriptors(&proxy, open + 100);
    // Those that waited in the kernel's queue are served now.
    for mut stream in waiting {
        std::io::Write::write_all(&mut stream, b"GET /v1/BTC HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    assert!(Client::connect(admin).get("/livez").status == 200);
    assert!(proxy.metric("shardgate_limit_hits_total", &[("limit", "descriptors")]) > 0.0);
}
