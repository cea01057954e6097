//! Routes: which one a request gets, by host, path and method.

use crate::support::{Origin, Proxy};

fn start() -> (Origin, Proxy) {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&format!(
        r#"
[[listeners]]
bind = "127.0.0.1:0"
[regions.a]
[[routes]]
name = "exact"
hosts = ["api.test"]
path = "/v1/{{asset}}"
methods = ["GET"]
[[routes]]
name = "wild"
hosts = ["*.test"]
path = "/v1/{{asset}}"
[[routes]]
name = "longer"
hosts = ["*.deep.test"]
asset = "const:A"
[[routes]]
name = "any"
path = "/v1/{{asset}}"
[[routes]]
name = "literal"
path = "/v1/status"
respond = {{ status = 200, body = "literal" }}
[[routes]]
name = "tree"
path = "/files/{{*rest}}"
asset = "const:A"
methods = ["GET", "PUT"]
[[routes]]
name = "everything"
hosts = ["all.org"]
asset = "const:A"
[defaults]
health = false
[pools.A.a]
primaries = ["{}"]
"#,
        origin.addr()
    ));
    (origin, proxy)
}

/// The route that the access log names, or the reason.
fn route_of(proxy: &Proxy, number: usize, method: &str, host: &str, target: &str) -> String {
    let agent = format!("ask-{number}");
    let mut client = proxy.client();
    let got = client.request(method, target, &[("host", host), ("x-request-id", &agent)], b"");
    if got.status >= 400 {
        return if method == "HEAD" { got.status.to_string() } else { got.reason() };
    }
    let id = got.header("x-request-id").map(str::to_owned);
    let line = proxy.access_where(|line| line["request_id"].as_str() == id.as_deref());
    line["route"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn host_then_path_then_method() {
    let (_origin, proxy) = start();
    let table = [
        ("GET", "api.test", "/v1/A", "exact"),
        ("HEAD", "API.TEST:80", "/v1/A", "exact"),
        ("GET", "api.test.", "/v1/A", "exact"),
        ("GET", "api.test", "/files/x", "no_route"),
        ("GET", "www.test", "/v1/A", "wild"),
        ("GET", "a.b.test", "/v1/A", "wild"),
        ("GET", "x.deep.test", "/what/ever", "longer"),
        ("GET", "deep.test", "/v1/A", "wild"),
        ("GET", "test", "/v1/A", "any"),
        ("GET", "other.org", "/v1/A", "any"),
        ("GET", "other.org", "/v1/status", "literal"),
        ("GET", "other.org", "/v1/statu", "unknown_asset"),
        ("GET", "127.0.0.1:8080", "/v1/A", "any"),
        ("GET", "[::1]:8080", "/v1/A", "any"),
        ("GET", "other.org", "/files/a/b", "tree"),
        ("DELETE", "other.org", "/files/a/b", "method_not_allowed"),
        ("OPTIONS", "all.org", "*", "everything"),
        ("OPTIONS", "other.org", "*", "no_route"),
        ("DELETE", "all.org", "/x?y", "everything"),
    ];
    for (number, (method, host, target, expected)) in table.into_iter().enumerate() {
        assert_eq!(route_of(&proxy, number, method, host, target), expected, "{method} {host}{target}");
    }
}

#[test]
fn a_path_with_another_method_is_405_with_allow() {
    let (origin, proxy) = start();
    let mut client = proxy.client();
    let got = client.request("POST", "/v1/A", &[("host", "api.test")], b"x");
    assert_eq!((got.status, got.reason().as_str()), (405, "method_not_allowed"));
    assert_eq!(got.header("allow"), Some("GET, HEAD"));
    let got = client.request("PATCH", "/files/x", &[("host", "other.org")], b"x");
    assert_eq!(got.header("allow"), Some("GET, HEAD, PUT"));
    assert_eq!(origin.count(), 0);
}

#[test]
fn paths_are_not_normalised() {
    let (origin, proxy) = start();
    let mut client = proxy.client();
    for target in ["/v1//A", "//v1/A", "/v1/A/", "/V1/A", "/v1/./A", "/x/../v1/A"] {
        let got = client.request("GET", target, &[("host", "other.org")], b"");
        assert_eq!((got.status, got.reason().as_str()), (404, "no_route"), "{target}");
    }
    for target in ["/files/a/../../v1/A", "/files//x", "/files/%2e%2e/x?a=../b"] {
        let got = client.request("GET", target, &[("host", "other.org")], b"");
        assert_eq!(got.status, 200, "{target}");
        let seen: Vec<_> = origin.take_requests().into_iter().map(|request| request.target).collect();
        assert_eq!(seen, [target]);
    }
}
