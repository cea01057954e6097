//! Every time-out ends with a word of its own, in the answer if there still can be one, and in the log.

use std::time::Duration;

use crate::support::{After, Behaviour, Client, Origin, Proxy, poll};

/// One backend, without checks or retries; `route` and `defaults` are lines of those.
fn config(origin: &Origin, route: &str, defaults: &str) -> String {
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n{route}\n[regions.a]\n\
         [defaults]\nhealth = false\nretry = false\n{defaults}\n[pools.BTC.a]\nprimaries = [\"{}\"]\n",
        origin.addr()
    )
}

/// Sends a request whose body does not come whole.
fn half_a_post(client: &mut Client) {
    client.send("POST /v1/BTC HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf");
}

#[test]
fn each_has_its_own_word() {
    let stalls = || Behaviour::Raw(Vec::new(), After::Stall);
    let answers = || Behaviour::Answer(200, vec![], b"ok".to_vec());
    let get = |client: &mut Client| client.send("GET /v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n");
    type Send<'a> = &'a dyn Fn(&mut Client);
    let table: [(&str, Behaviour, Send<'_>, u16, &str); 7] = [
        ("response = \"300ms\"", stalls(), &get, 504, "upstream_timeout"),
        ("idle = \"300ms\"", answers(), &half_a_post, 408, "body_timeout"),
        ("exchange = \"300ms\"", stalls(), &get, 504, "exchange_timeout"),
        ("exchange = \"300ms\"", answers(), &half_a_post, 504, "exchange_timeout"),
        ("exchange = \"300ms\", response = \"60s\"", stalls(), &get, 504, "exchange_timeout"),
        ("exchange = \"60s\", response = \"300ms\"", stalls(), &get, 504, "upstream_timeout"),
        ("exchange = \"off\", response = \"300ms\"", stalls(), &get, 504, "upstream_timeout"),
    ];
    for (timeouts, behaviour, send, status, reason) in table {
        let origin = Origin::start("one");
        origin.on("/v1/BTC", behaviour);
        let proxy = Proxy::start(&config(&origin, "", &format!("timeouts = {{ {timeouts} }}")));
        let mut client = proxy.client();
        send(&mut client);
        let answer = client.response();
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{timeouts}");
        proxy.access_where(|line| line["reason"] == reason);
    }
}

#[test]
fn a_whole_exchange_ends_in_time_while_its_body_flows() {
    let origin = Origin::start("one");
    // It never stands still, so no other time-out sees it.
    origin.on_custom("/v1/BTC", |_, exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            exchange.send("1\r\nx\r\n")?;
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let proxy = Proxy::start(&config(&origin, "timeouts = { exchange = \"500ms\" }", ""));
    let mut client = proxy.client();
    client.send("GET /v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(client.try_response_to("GET").is_err(), "it must not look whole");
    let line = proxy.access_where(|line| line["reason"] == "exchange_timeout");
    assert_eq!(line["status"], 200);
    poll("the backend's connection to end", || (origin.open_connections() == 0).then_some(()));
}

/// An answer may begin while the request is still coming. As long as either goes on, the exchange does not stand still.
#[test]
fn an_upload_that_goes_on_behind_the_head_of_its_answer_keeps_the_exchange() {
    let origin = Origin::start("one");
    origin.on_custom("/v1/BTC", |_, exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")?;
        exchange.body()?;
        exchange.send("done")?;
        Ok(After::Close)
    });
    let proxy = Proxy::start(&config(&origin, "", "timeouts = { idle = \"1s\" }"));
    let post = "POST /v1/BTC HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n";
    let mut client = proxy.client();
    client.send(post);
    assert_eq!(client.head_only().0, 200);
    for _ in 0..25 {
        client.send("xxxx");
        std::thread::sleep(Duration::from_millis(80)); // it is slow
    }
    assert_eq!(client.take(4), b"done");
    // One that stops is its own fault.
    let mut client = proxy.client();
    client.send(post);
    assert_eq!(client.head_only().0, 200);
    assert!(client.rest().is_empty());
    proxy.access_where(|line| line["reason"] == "body_timeout");
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "truncated")]), 0.0);
}

#[test]
fn a_client_that_does_not_read_can_t_prolong_it() {
    let origin = Origin::start("one");
    origin.on("/v1/BTC", Behaviour::Answer(200, vec![], vec![b'x'; 64 << 20]));
    let proxy = Proxy::start(&config(&origin, "", "timeouts = { exchange = \"500ms\" }"));
    let mut client = proxy.client();
    client.send("GET /v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n");
    proxy.access_where(|line| line["reason"] == "exchange_timeout");
    poll("the backend's connection to end", || (origin.open_connections() == 0).then_some(()));
}

#[test]
fn the_next_exchange_of_a_connection_has_its_own_time() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "", "timeouts = { exchange = \"600ms\" }"));
    let mut client = proxy.client();
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(client.get("/v1/BTC").status, 200);
    }
}
