//! Reading a key out of a request: no target, host or field makes it panic, and the same request gets the same answer.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use http::{HeaderValue, Request, Uri};
use shardgate::config::load_str;
use shardgate::routing::{Index, Snapshot, build, explain};

const CONFIG: &str = r#"
[[listeners]]
bind = "127.0.0.1:0"
[server]
default_region = "a"
[regions.a]
clients = ["10.0.0.0/8", "fd00::/8"]
fallback = ["b"]
[regions.b]
[assets.one]
aliases = ["uno"]
[[routes]]
name = "captured"
hosts = ["{asset}.example.com"]
region = ["query:region", "client-address"]
[[routes]]
name = "anywhere"
path = "/v1/{asset}/{*rest}"
asset = ["query:symbol", "cookie:asset", "header:x-asset", "path:asset"]
region = ["header?:x-region", "cookie:region"]
[pools.one.a]
primaries = ["127.0.0.1:1"]
balance = "maglev"
hash_on = ["path:rest", "host:asset", "cookie:asset", "query:symbol", "client-address"]
[pools."*".b]
primaries = ["127.0.0.1:2"]
"#;

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let plan = load_str(CONFIG).unwrap_or_else(|errors| panic!("{errors}")).plan;
    build(Arc::new(Index::new(Arc::new(plan))), 0, Instant::now(), |_| [Vec::new(), Vec::new()])
});

/// A line with the target, then lines with a value each whose first byte says of which field.
pub fn check(bytes: &[u8]) {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let Some(Ok(uri)) = lines.next().map(Uri::try_from) else { return };
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.uri = uri;
    for line in lines {
        let Some((name, value)) = line.split_first() else { continue };
        let name = ["host", "cookie", "x-asset", "x-region"][usize::from(name % 4)];
        if let Ok(value) = HeaderValue::from_bytes(value) {
            parts.headers.append(name, value);
        }
    }
    let now = Instant::now();
    let ask = || {
        let random = &mut fastrand::Rng::with_seed(0);
        explain(&SNAPSHOT, &parts, "10.1.2.3".parse().ok(), now, random).to_string()
    };
    assert_eq!(ask(), ask());
}
