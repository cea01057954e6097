//! TLS to backends: who is believed, what is shown, and what becomes of requests and checks where it fails.

use crate::support::tls_origin::{Authority, Front};
use crate::support::{Origin, Proxy};

/// A pool with these members and what `[defaults]` says.
fn config(members: &[String], defaults: &str) -> String {
    let members = members.iter().map(|member| format!("'{member}'")).collect::<Vec<_>>().join(", ");
    format!(
        "[[listeners]]
         bind = '127.0.0.1:0'
         [server]
         workers = 1
         [[routes]]
         path = '/v1/predict/{{asset}}'
         [regions.us-east]
         [defaults]
         balance = 'round-robin'
         {defaults}
         [pools.BTC.us-east]
         primaries = [{members}]
        "
    )
}

#[test]
fn a_request_over_tls() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server());
    let tls = format!("tls = {{ ca = '{}' }}", ca.display());
    let proxy = Proxy::start(&config(&[front.addr().to_string()], &tls));
    let answer = proxy.get("/v1/predict/BTC");
    assert_eq!((answer.status, answer.origin()), (200, "a"));
    let request = &origin.requests()[0];
    assert_eq!(request.target, "/v1/predict/BTC");
    let handshake = front.handshakes().pop().unwrap();
    assert_eq!(handshake.alpn.as_deref(), Some("http/1.1"));
    assert_eq!(handshake.sni, None, "an address is no name");
}
