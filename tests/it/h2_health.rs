//! Checks of backends that speak HTTP/2: a GET, and the health protocol of gRPC.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Response};

use crate::support::h2_origin::{read, status, write};
use crate::support::{H2Origin, Origin, Proxy, poll};

fn config(address: std::net::SocketAddr, health: &str) -> String {
    format!(
        "[[listeners]]
         bind = '127.0.0.1:0'
         [[routes]]
         path = '/v1/predict/{{asset}}'
         [regions.us-east]
         [defaults]
         protocol = 'h2'
         health = {{ {health}, interval = '50ms', fast_interval = '50ms', rise = 1, fall = 1 }}
         failover = {{ panic_percent = 0 }}
         [pools.BTC.us-east]
         primaries = ['{address}']
        "
    )
}

#[test]
fn a_get_over_one_connection() {
    let origin = H2Origin::start("a");
    let proxy = Proxy::start(&config(origin.addr(), "path = '/healthz'"));
    poll("some checks", || (origin.checks() > 3).then_some(()));
    assert_eq!(origin.accepted(), 1);
    assert_eq!(proxy.get("/v1/predict/BTC").status, 200);
    origin.on("/healthz", |_, mut respond| async move { respond.send_response(status(503), true).map(drop) });
    proxy.metric_until("shardgate_backend_up", &[], |up| up == 0.0);
    assert_eq!(proxy.log_line("backend is down")["cause"], "status 503");
    poll("no backend", || (proxy.get("/v1/predict/BTC").status == 503).then_some(()));
}

#[test]
fn a_server_of_http_1_does_not_pass() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(origin.addr(), "path = '/healthz'"));
    let cause = proxy.log_line("backend is down")["cause"].clone();
    assert!(cause == "garbage" || cause == "reset", "{cause}");
    poll("no backend", || (proxy.get("/v1/predict/BTC").reason() == "no_healthy_backend").then_some(()));
}

#[test]
fn the_health_protocol_of_grpc() {
    const CALL: &str = "/grpc.health.v1.Health/Check";
    let origin = H2Origin::start("a");
    // The status that is said; 0xff: the protocol is not served.
    let says = Arc::new(AtomicU8::new(1));
    let said = says.clone();
    origin.on(CALL, move |request, mut respond| {
        let said = said.load(Ordering::SeqCst);
        async move {
            assert_eq!(
                (request.method().as_str(), &request.headers()["content-type"]),
                ("POST", &"application/grpc".parse().unwrap())
            );
            let (body, _) = read(&mut request.into_parts().1).await?;
            assert_eq!(body, b"\0\0\0\0\x07\x0a\x05a.Cat");
            let response = Response::builder().header("content-type", "application/grpc");
            if said == 0xff {
                return respond.send_response(response.header("grpc-status", "12").body(()).unwrap(), true).map(drop);
            }
            let mut stream = respond.send_response(response.body(()).unwrap(), false)?;
            write(&mut stream, Bytes::from(vec![0, 0, 0, 0, 2, 8, said]), false).await?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers)
        }
    });
    let proxy = Proxy::start(&config(origin.addr(), "grpc_service = 'a.Cat'"));
    assert_eq!(proxy.get("/v1/predict/BTC").status, 200);
    for (value, cause) in [(2, "not_serving"), (0xff, "grpc status 12 (the health protocol is not served)")] {
        says.store(value, Ordering::SeqCst);
        proxy.metric_until("shardgate_backend_up", &[], |up| up == 0.0);
        proxy.log_where("backend is down", |line| line["cause"] == cause);
        says.store(1, Ordering::SeqCst);
        proxy.metric_until("shardgate_backend_up", &[], |up| up == 1.0);
    }
    assert_eq!(
        origin.accepted() - usize::from(proxy.metric("shardgate_backend_connections", &[]) > 0.0),
        1 + 2,
        "after a failure it connects again"
    );
}
