//! Limits that adapt, over sockets: where they begin, that they hold over all workers, and that they end with the key.

use serde_json::Value;

use crate::support::{Client, Origin, Proxy, poll};

fn config(origin: &Origin, limits: &str) -> String {
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n[server]\nworkers = 2\n\
         [defaults]\nhealth = false\nretry = false\nlimits = {{ {limits}, max_queue = 0 }}\n[pools.BTC.a]\nprimaries = [\"{}\"]\n",
        origin.addr()
    )
}

fn limit(proxy: &Proxy) -> Value {
    proxy.admin_request("GET", "/api/v1/status").json()["pools"][0]["backends"][0]["limit"].clone()
}

#[test]
fn an_adaptive_limit_begins_at_four_over_all_workers() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&one, "adaptive = true"));
    poll("a limit", || (limit(&proxy) == 4).then_some(()));
    assert_eq!(proxy.metric("shardgate_backend_request_limit", &[]), 4.0);
    let gate = one.hold("/v1/BTC");
    let ask = |_| {
        let mut client = proxy.client();
        client.send("GET /v1/BTC HTTP/1.1\r\nhost: x\r\n\r\n");
        client
    };
    let mut held: Vec<Client> = (0..4).map(ask).collect();
    gate.waiting(4);
    let got = proxy.get("/v1/BTC");
    assert_eq!((got.status, got.reason().as_str()), (503, "overloaded"));

    // Without the key there is no such limit any more.
    assert!(proxy.reload(&config(&one, "adaptive = false")));
    poll("no limit", || limit(&proxy).is_null().then_some(()));
    assert!(proxy.series("shardgate_backend_request_limit", &[]).is_empty());
    held.push(ask(4));
    gate.waiting(5);
    gate.open();
    for client in &mut held {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn good_answers_raise_it() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&one, "adaptive = true"));
    poll("a limit", || (limit(&proxy) == 4).then_some(()));
    // Two that stay, so that the limit is worth raising, and a window of answers that are all alike.
    let gate = one.hold("/v1/btc");
    let mut held = [proxy.client(), proxy.client()];
    for client in &mut held {
        client.send("GET /v1/btc HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    gate.waiting(2);
    let mut client = proxy.client();
    (0..12).for_each(|_| assert_eq!(client.get("/v1/BTC").status, 200));
    poll("a higher limit", || limit(&proxy).as_u64().is_some_and(|limit| limit > 4).then_some(()));
    gate.open();
    for client in &mut held {
        assert_eq!(client.response().status, 200);
    }
}
