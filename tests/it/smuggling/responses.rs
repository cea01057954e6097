//! Runs the table of answers: `… | REQUEST | WHAT THE BACKEND SENDS | WHAT THE CLIENT SEES`.
//!
//! REQUEST is a method, with `HTTP/1.0` behind it where that matters. What the backend sends may end with `$`: then it
//! closes the connection. The client sees a 502 with the word behind it, or `cut`: an answer that can be told not to be
//! whole, or a 502 instead; else exactly that, a chunked body without its coding, where `…` stands for the fields that
//! shardgate adds. Then another request on the same connection, if it goes on, and one on another get their own answers.

use super::backend::{Backend, Script};
use super::requests::start;
use super::table::{Case, bytes, cases};
use super::wire::{Otherwise, read, shown};
use crate::support::{Client, Proxy};

#[test]
fn answers_of_backends() {
    let backend = Backend::start();
    let proxy = start(&backend);
    let cases = cases("responses", include_str!("responses.txt"));
    assert!(cases.len() >= 90, "only {} cases", cases.len());
    let mut faults = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        for by_bytes in [false, true] {
            let path = format!("/{number}/{by_bytes}");
            if let Err(fault) = one(case, &path, by_bytes, &backend, &proxy) {
                faults.push(format!("{}, {}: {fault}", case.name, if by_bytes { "by bytes" } else { "at once" }));
            }
            backend.take();
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn one(case: &Case, path: &str, by_bytes: bool, backend: &Backend, proxy: &Proxy) -> Result<(), String> {
    let (method, version) = case.columns[0].split_once(' ').unwrap_or((&case.columns[0], "HTTP/1.1"));
    let (answer, close) = match case.columns[1].strip_suffix('$') {
        Some(answer) => (answer, true),
        None => (&*case.columns[1], false),
    };
    backend.on(path, Script { answer: bytes(answer), by_bytes, close, early: false });
    let mut client = proxy.client();
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    client.send(format!("{method} {path} {version}\r\nHost: x\r\n{length}\r\n"));
    let got = raw_answer(&mut client, method)?;
    let expected = &*case.columns[2];
    let says = |word: &str| method == "HEAD" || got.contains(&format!("\"reason\":\"{word}\""));
    let is_refused = |word: &str| got.starts_with("HTTP/1.1 502 ") && says(word);
    let is_cut = got.ends_with("CUT");
    let good = match expected.strip_prefix("502") {
        // Byte by byte, what is wrong may come behind a head that has been passed on already.
        Some(word) => is_refused(word.trim()) || (by_bytes && is_cut),
        None if expected == "cut" => is_cut || is_refused("upstream_truncated") || is_refused("upstream_reset"),
        None => {
            let wanted = shown(&bytes(expected)).replace("\\xe2\\x80\\xa6", "x-request-id: *⏎date: *⏎");
            // Chunks of which the last comes later have no length yet when the head goes out.
            let later = if version == "HTTP/1.0" { "" } else { "transfer-encoding: chunked⏎" };
            let in_pieces = wanted.replace("content-length: 2⏎", later);
            got == wanted || (by_bytes && answer.contains("chunked") && got == in_pieces)
        }
    };
    if !good {
        return Err(format!("the client saw\n  {got}"));
    }

    // All that the backend had to say has been said by now; whoever asks next hears nothing of it.
    backend.answered(1);
    let ask = |client: &mut Client, who: &str| {
        client.send(format!("GET {path}/{who} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let answer = client.try_response_to("GET").map_err(|error| format!("{who}: {error}"))?;
        let wanted = format!("GET {path}/{who} HTTP/1.1");
        if answer.text() == wanted { Ok(()) } else { Err(format!("{who} was answered {answer:?}")) }
    };
    let goes_on = version == "HTTP/1.1" && !is_cut && !got.contains("⏎connection: close⏎");
    if goes_on {
        ask(&mut client, "again")?;
    }
    ask(&mut proxy.client(), "another")?;
    match backend.take().faults {
        faults if faults.is_empty() => Ok(()),
        faults => Err(format!("the backend saw {faults:?}")),
    }
}

/// The final answer as it stood on the wire, with `CUT` behind it if it is not whole.
fn raw_answer(client: &mut Client, method: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    loop {
        let found = match read_answer(&bytes, method, false) {
            Err(fault) => return Err(format!("{fault}: {}", shown(&bytes))),
            Ok(found) => found,
        };
        if let Some((message, used)) = found {
            if !message.line().starts_with("HTTP/1.1 1") {
                return match bytes.len() == used {
                    true => Ok(message.plain()),
                    false => Err(format!("behind the answer: {}", shown(&bytes[used..]))),
                };
            }
            bytes.drain(..used);
            continue;
        }
        match client.some() {
            Ok(more) if !more.is_empty() => bytes.extend(more),
            ended => {
                // A reset says that an answer without a length is not whole.
                let last = if ended.is_ok() { read_answer(&bytes, method, true)? } else { None };
                return Ok(last.map_or_else(|| shown(&bytes) + "CUT", |(message, _)| message.plain()));
            }
        }
    }
}

fn read_answer(bytes: &[u8], method: &str, ended: bool) -> Result<Option<(super::wire::Message, usize)>, String> {
    let status = String::from_utf8_lossy(bytes.get(9..12).unwrap_or_default()).into_owned();
    let bodyless = method == "HEAD" || status.starts_with('1') || status == "204" || status == "304";
    if !bodyless {
        return read(bytes, Otherwise::WithTheConnection, ended);
    }
    // Its fields may speak of a body that is not there.
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = bytes[..end + 4].to_vec();
    Ok(Some((super::wire::Message { head, body: Vec::new() }, end + 4)))
}
