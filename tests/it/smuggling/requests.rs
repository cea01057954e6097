//! Runs the tables of requests: `… | BYTES | STATUSES | WHAT THE BACKEND SEES`.
//!
//! STATUSES are those of the answers to the bytes, in order. 400, 413, 414 and 431 are shardgate's own, with its word for why,
//! and end the connection; nothing of such a request may have reached the backend, with `400!` nothing whole. After a
//! 2xx the connection goes on, unless `close` follows, or either, where `any` does. `cut`: the client ends its side, and the answer, if any, does not
//! matter. Behind all of it a request for `/probe` is sent at once; it is answered as another request, or, where the
//! connection ends, by nobody.
//!
//! WHAT THE BACKEND SEES are whole messages, separated by ` || `, with a chunked body without its coding. `…` stands for
//! the fields that shardgate adds.

use super::backend::Backend;
use super::table::{Case, bytes, cases};
use super::wire::shown;
use crate::support::{Client, Proxy};

const PROBE: &str = "GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n";
/// For a connection of its own.
const AFTER: &str = "GET /after HTTP/1.1\r\nHost: after\r\n\r\n";

/// One worker, so that every exchange could meet every connection.
pub fn start(backend: &Backend) -> Proxy {
    Proxy::start(&format!(
        r#"
[[listeners]]
bind = "127.0.0.1:0"
protocols = ["h1"]
[[routes]]
path = "/own"
respond = {{ status = 200, body = "own" }}
[[routes]]
asset = ["const:one"]
[server]
workers = 1
[regions.a]
[defaults]
health = false
outlier = false
[limits]
max_header_bytes = "8KiB"
max_headers = 40
max_target_bytes = "1KiB"
max_body_bytes = "64KiB"
[pools.one.a]
primaries = ["{}"]
"#,
        backend.addr()
    ))
}

#[test]
fn framing_of_requests() {
    run("framing", include_str!("framing.txt"), 75);
}

#[test]
fn heads_of_requests() {
    run("heads", include_str!("heads.txt"), 110);
}

#[test]
fn chunked_bodies_of_requests() {
    run("chunks", include_str!("chunks.txt"), 50);
}

fn run(file: &str, text: &str, at_least: usize) {
    let backend = Backend::start();
    let proxy = start(&backend);
    let cases = cases(file, text);
    assert!(cases.len() >= at_least, "{file}: only {} cases", cases.len());
    let mut faults = Vec::new();
    for case in &cases {
        for by_bytes in [false, true] {
            if let Err(fault) = one(case, by_bytes, &backend, &proxy) {
                faults.push(format!("{}, {}: {fault}", case.name, if by_bytes { "by bytes" } else { "at once" }));
                backend.take();
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn one(case: &Case, by_bytes: bool, backend: &Backend, proxy: &Proxy) -> Result<(), String> {
    let sent = bytes(&case.columns[0]);
    let statuses: Vec<_> = case.columns[1].split(' ').collect();
    let is_cut = statuses.contains(&"cut");
    let mut closes = statuses.last().is_some_and(|last| *last == "close" || last.starts_with('4'));

    let mut client = proxy.client();
    let probe = if is_cut { &[][..] } else { PROBE.as_bytes() };
    let all = [&sent[..], probe].concat();
    match by_bytes {
        // The proxy may have closed the connection by then.
        true => all.iter().try_for_each(|byte| client.try_send(&[*byte])),
        false => client.try_send(&all),
    }
    .unwrap_or_default();
    if is_cut {
        client.finish();
        client.rest();
    } else {
        let last = answers(&mut client, &sent, &statuses)?;
        closes |= statuses.contains(&"any") && last;
        if closes {
            let rest = client.rest();
            if !rest.is_empty() {
                return Err(format!("behind the last answer: {}", shown(&rest)));
            }
        } else {
            let answer = client.try_response_to("GET").map_err(|error| format!("the probe's answer: {error}"))?;
            if answer.text() != "GET /probe HTTP/1.1" {
                return Err(format!("the probe was answered {answer:?}"));
            }
        }
    }

    // Whoever comes next is served as if nothing had been; and by then all has arrived that ever will.
    let mut other = proxy.client();
    other.send(AFTER);
    let answer = other.response();
    if answer.text() != "GET /after HTTP/1.1" {
        return Err(format!("another client was answered {answer:?}"));
    }
    let seen = backend.take();
    if !seen.faults.is_empty() {
        return Err(format!("the backend saw {:?}", seen.faults));
    }
    let mut expected = expected(case, &sent, backend);
    if !closes && !is_cut {
        expected.push(added("GET /probe HTTP/1.1⏎host: probe⏎…⏎", "1.1"));
    }
    expected.push(added("GET /after HTTP/1.1⏎host: after⏎…⏎", "1.1"));
    let got: Vec<_> = seen.messages.iter().map(super::wire::Message::plain).collect();
    if got != expected {
        return Err(format!("the backend saw\n  {}\nand not\n  {}", got.join("\n  "), expected.join("\n  ")));
    }
    let refused_at_once = statuses[0].starts_with('4') && !statuses[0].ends_with('!');
    let whole: usize = seen.messages.iter().map(|message| message.head.len()).sum();
    if refused_at_once && seen.bytes != whole {
        return Err(format!("{} bytes reached the backend beside whole messages", seen.bytes - whole));
    }
    Ok(())
}

/// The answers to all but the probe. Whether the connection ends with the last of them.
fn answers(client: &mut Client, sent: &[u8], statuses: &[&str]) -> Result<bool, String> {
    let methods: Vec<_> = sent.split(|&b| b == b'\n').map(|line| line.starts_with(b"HEAD ")).collect();
    let method = if methods.contains(&true) { "HEAD" } else { "GET" };
    let mut closes = false;
    for (at, status) in statuses.iter().filter(|status| !["close", "any"].contains(status)).enumerate() {
        let answer = client.try_response_to(method).map_err(|error| format!("answer {at}: {error}"))?;
        closes = answer.header("connection") == Some("close");
        let wanted: u16 = status.trim_end_matches('!').parse().expect("a status");
        if answer.status != wanted {
            return Err(format!("answer {at}: {} {}", answer.status, answer.text()));
        }
        let reason = match wanted {
            400 => "bad_request",
            413 => "request_too_large",
            414 => "target_too_long",
            431 => "headers_too_large",
            _ => continue,
        };
        if method != "HEAD" && answer.reason() != reason {
            return Err(format!("answer {at}: {}", answer.reason()));
        }
        if !closes || answer.header("server") != Some("shardgate") {
            return Err(format!("answer {at}: {answer:?}"));
        }
    }
    Ok(closes)
}

fn expected(case: &Case, sent: &[u8], backend: &Backend) -> Vec<String> {
    let Some(messages) = case.columns.get(2).filter(|messages| !messages.is_empty()) else { return Vec::new() };
    let is_old = sent.windows(10).any(|window| window == b" HTTP/1.0\r");
    let version = if is_old { "1.0" } else { "1.1" };
    let messages = messages.replace("{backend}", &backend.addr().to_string());
    messages.split(" || ").map(|message| added(message.trim_matches(' '), version)).collect()
}

/// With the fields that shardgate adds.
fn added(message: &str, version: &str) -> String {
    let message = shown(&bytes(message)).replace("\\xe2\\x80\\xa6", "…");
    let host = message.split('⏎').find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    // A client of HTTP/1.0 may have sent none, and is then not said to have.
    let said = if host.starts_with("127.") { String::new() } else { format!("x-forwarded-host: {host}⏎") };
    let ours =
        format!("x-forwarded-for: 127.0.0.1⏎x-forwarded-proto: http⏎{said}x-request-id: *⏎via: {version} shardgate⏎");
    message.replace('…', &ours)
}
