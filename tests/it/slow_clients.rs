//! Clients that are slow in order to use up memory: what all of them together can hold is bounded, and everybody else is
//! served meanwhile. What ten thousand of them cost stands in docs/operations.md.

use crate::support::{Client, Origin, Proxy, poll};

const HITS: &str = "shardgate_limit_hits_total";

fn start(origin: &Origin) -> Proxy {
    Proxy::start(&format!(
        "[server]\nworkers = 1\n[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n\
         [defaults]\nhealth = false\n[limits]\nmax_buffered_bytes = \"64KiB\"\nheader_timeout = \"5m\"\n\
         [pools.BTC.a]\nprimaries = [\"{}\"]\n",
        origin.addr()
    ))
}

/// 4,000 bytes of a head that does not end yet.
fn begun(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    let mut head = "GET /v1/BTC HTTP/1.1\r\nHost: x\r\nA: ".to_owned();
    head.extend(std::iter::repeat_n('a', 4000 - head.len()));
    client.send(head);
    client
}

#[test]
fn heads_that_are_not_whole_have_a_budget() {
    let origin = Origin::start("one");
    let proxy = start(&origin);
    let mut clients: Vec<_> = (0..40).map(|_| begun(&proxy)).collect();
    // 16 times 4,000 bytes fit.
    let refused = || proxy.metric(HITS, &[("limit", "max_buffered_bytes")]);
    poll("the others to be refused", || (refused() >= 24.0).then_some(()));
    assert_eq!(proxy.client().get("/v1/BTC").status, 200, "a head that is whole needs no room");
    let statuses: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            let _ = client.try_send(b"\r\n\r\n");
            let answer = client.response();
            assert!(answer.status == 200 || answer.reason() == "overloaded", "{answer:?}");
            answer.status
        })
        .collect();
    let count = |status| statuses.iter().filter(|&&found| found == status).count();
    assert_eq!((count(200), count(503), refused()), (16, 24, 24.0), "{statuses:?}");

    // What was held is free again.
    let mut again: Vec<_> = (0..16).map(|_| begun(&proxy)).collect();
    again.iter_mut().for_each(|client| client.send("\r\n\r\n"));
    assert!(again.iter_mut().all(|client| client.response().status == 200));
    assert_eq!(refused(), 24.0);
}
