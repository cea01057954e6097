//! What a backend is sent of a request that the rules accept: it keeps the rules itself, another parser reads it too, and
//! it means the same: method, target, framing, and every field but those that end here.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use http::Version;
use shardgate::backend::{Backend, Identity};
use shardgate::config::load_str;
use shardgate::message::fields::{Known, Names};
use shardgate::message::framing::{Framing, HeadLimits, Scan, origin_form};
use shardgate::message::hop::HOP_BY_HOP;
use shardgate::message::{Conn, RequestHead};
use shardgate::model::{Address, Plan, Protocol};
use shardgate::proxy::preview;

const LIMITS: HeadLimits = HeadLimits { bytes: 16 * 1024, fields: 100, target: 8 * 1024 };
/// What is added makes it larger.
const ONWARD: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 120, target: 8 * 1024 };

/// The first listener trusts nobody, the second trusts the client.
static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    let text = r#"
[[listeners]]
bind = "127.0.0.1:1"
[[listeners]]
bind = "127.0.0.1:2"
trusted_proxies = ["10.0.0.0/8"]
[[routes]]
asset = ["const:x"]
[regions.a]
[pools.x.a]
primaries = ["127.0.0.1:3"]
"#;
    load_str(text).unwrap_or_else(|errors| panic!("{errors}")).plan
});

static BACKEND: LazyLock<Arc<Backend>> = LazyLock::new(|| {
    let address = Address::Ip("127.0.0.1:3".parse().expect("an address"));
    Backend::new(Identity { region: "a".into(), address, protocol: Protocol::H1, tls: None })
});

/// The first byte says whether the client is trusted; the rest is a request.
pub fn check(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return };
    let Some(head) = read(bytes, &LIMITS) else { return };
    let conn = conn(first % 2 == 1);
    let (route, settings) = (&PLAN.routes[0], &PLAN.pools[0].settings);
    let sent = preview(&head, route, &conn, "id", &BACKEND, settings).expect("a route without a rewrite");
    let again = read(&sent, &ONWARD).unwrap_or_else(|| panic!("not a request any more: {}", sent.escape_ascii()));
    means_the_same(&head, &again, conn.is_trusted);
    as_another_parser_reads_it(&sent, &again);
}

fn conn(trusted: bool) -> Rc<Conn> {
    let listener = Arc::new(PLAN.listeners[usize::from(trusted)].clone());
    Conn::new("10.1.2.3".parse().ok(), listener)
}

fn read(bytes: &[u8], limits: &HeadLimits) -> Option<RequestHead> {
    let found = Scan::default().feed(bytes, limits).ok()??;
    RequestHead::read(bytes, found)
}

fn means_the_same(head: &RequestHead, again: &RequestHead, trusted: bool) {
    assert_eq!(again.method, head.method);
    assert_eq!(again.target(), &*origin_form(head.target()));
    assert_eq!((again.framing, again.version), (head.framing, Version::HTTP_11));
    assert!(again.keep_alive, "the connection to the backend is ours to end");
    assert_eq!(again.expects_continue, head.expects_continue);
    let host = if head.authority().is_empty() { b"127.0.0.1:3" } else { head.authority() };
    assert_eq!(again.authority(), host);

    // Exactly what says how the body ends, of what speaks of the connection.
    let coding = again.fields.all(Known::TransferEncoding).count();
    let lengths = again.fields.all(Known::ContentLength).count();
    assert_eq!(coding, usize::from(head.framing == Framing::Chunked));
    assert_eq!(lengths, usize::from(head.fields.has(Names::of(&[Known::ContentLength]))));
    let mut fields = again.fields.clone();
    fields.remove(Names::of(&[Known::TransferEncoding]));
    assert!(!fields.has(HOP_BY_HOP), "a hop-by-hop field travels on");

    // The rest as it came.
    let connection: Vec<_> = head.fields.all(Known::Connection).flat_map(|value| value.split(|&b| b == b',')).collect();
    let stays = |name: &[u8]| !connection.iter().any(|listed| listed.trim_ascii().eq_ignore_ascii_case(name));
    let theirs = head.fields.iter().filter(|(name, _)| is_other(name) && stays(name));
    assert!(theirs.eq(again.fields.iter().filter(|(name, _)| is_other(name))), "other fields");

    // A stranger has no say in who is asking.
    if !trusted {
        assert!(again.fields.all(Known::ForwardedFor).eq([&b"10.1.2.3"[..]]));
        assert!(again.fields.all(Known::RequestId).eq([&b"id"[..]]));
        assert!(!again.fields.has(Names::of(&[Known::Forwarded, Known::RealIp, Known::ForwardedOther])));
    }
}

fn is_other(name: &[u8]) -> bool {
    Known::of(name) == Known::Other
}

fn as_another_parser_reads_it(bytes: &[u8], head: &RequestHead) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(bytes.len())), "another parser ends it elsewhere");
    assert_eq!((request.method, request.version), (Some(head.method.as_str()), Some(1)));
    assert_eq!(request.path.map(str::as_bytes), Some(head.target()));
    let theirs = request.headers.iter().map(|field| (field.name.as_bytes(), field.value));
    assert!(head.fields.iter().eq(theirs), "another parser reads other fields");
}
