//! A line of the access log: what is known about a request when it is over, as JSON or as text.
//!
//! Both forms write one line whatever a client sent: JSON escapes by RFC 8259 section 7 and puts U+FFFD where bytes are
//! not UTF-8; text quotes a value that has anything but printable ASCII in it, so that a terminal is not driven by a
//! request's target. Nothing is allocated but the line's own buffer, which its owner keeps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::Reason;

/// What is known about a request when it is over.
#[derive(Debug, Clone, Copy)]
pub struct AccessRecord<'a> {
    /// When the request's head had arrived.
    pub time: SystemTime,
    /// The client's address, as text; `unix:` over a Unix socket.
    pub client: &'a str,
    /// The name of the listener it came through.
    pub listener: &'a str,
    /// The version of TLS; empty: in clear.
    pub tls_version: &'a str,
    /// The host that the client named in its handshake; empty: none.
    pub sni: &'a str,
    /// The method, as sent.
    pub method: &'a [u8],
    /// The request target, as sent.
    pub target: &'a [u8],
    /// The Host, or the authority of the target, as sent.
    pub host: &'a [u8],
    /// The name of the route; empty: none matched.
    pub route: &'a str,
    /// The status that the client got; 499 if it went away before there was one.
    pub status: u16,
    /// Why, unless a backend or a route answered.
    pub reason: Option<Reason>,
    /// How a call of gRPC ended, if it was one and that is known.
    pub grpc_status: Option<u32>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// The asset's label (docs/metrics.md); empty: none was read.
    pub asset: &'a str,
    /// The region asked for; empty: none was read.
    pub region: &'a str,
    /// The backend that answered, else that of the last try, as in the `backend` label; empty: no try was made.
    pub backend: &'a str,
    /// Tries at backends.
    pub attempts: u32,
    /// From the head to the end of the response.
    pub duration: Duration,
    /// Of the last try, to its response head or its failure.
    pub upstream: Option<Duration>,
    /// Of the last try, to connect; `None`: a connection was there.
    pub connect: Option<Duration>,
    /// As sent to the client and to the backend.
    pub request_id: &'a [u8],
}

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    /// Not at all.
    Off,
    Text,
    Json,
}

/// Writes records into a buffer. Keeps the text of the current second, because to work it out costs more than all else
/// that stands in a line.
#[derive(Debug, Default)]
pub(super) struct Formatter {
    second: Option<u64>,
    /// `2026-07-05T12:00:00`
    text: String,
}

impl Formatter {
    /// Appends the line, with its line end.
    pub(super) fn line(&mut self, out: &mut Vec<u8>, form: Form, record: &AccessRecord<'_>) {
        match form {
            Form::Off => {}
            Form::Json => self.json(out, record),
            Form::Text => self.text(out, record),
        }
    }

    fn json(&mut self, out: &mut Vec<u8>, r: &AccessRecord<'_>) {
        out.extend_from_slice(b"{\"time\":\"");
        self.time(out, r.time);
        out.push(b'"');
        json_text(out, b"client", r.client.as_bytes());
        json_text(out, b"listener", r.listener.as_bytes());
        json_text(out, b"tls_version", r.tls_version.as_bytes());
        json_text(out, b"sni", r.sni.as_bytes());
        json_text(out, b"method", r.method);
        json_text(out, b"host", r.host);
        json_text(out, b"target", r.target);
        json_text(out, b"route", r.route.as_bytes());
        json_number(out, b"status", u64::from(r.status));
        json_text(out, b"reason", r.reason.map_or("", Reason::as_str).as_bytes());
        if let Some(status) = r.grpc_status {
            json_number(out, b"grpc_status", u64::from(status));
        }
        json_number(out, b"bytes_in", r.bytes_in);
        json_number(out, b"bytes_out", r.bytes_out);
        json_text(out, b"asset", r.asset.as_bytes());
        json_text(out, b"region", r.region.as_bytes());
        json_text(out, b"backend", r.backend.as_bytes());
        json_number(out, b"attempts", u64::from(r.attempts));
        json_duration(out, b"duration", Some(r.duration));
        json_duration(out, b"upstream_duration", r.upstream);
        json_duration(out, b"connect_duration", r.connect);
        json_text(out, b"request_id", r.request_id);
        out.extend_from_slice(b"}\n");
    }

    fn text(&mut self, out: &mut Vec<u8>, r: &AccessRecord<'_>) {
        self.time(out, r.time);
        out.push(b' ');
        number(out, u64::from(r.status));
        out.push(b' ');
        printable(out, r.method);
        out.push(b' ');
        printable(out, r.target);
        for (name, value) in [
            ("host", r.host),
            ("client", r.client.as_bytes()),
            ("listener", r.listener.as_bytes()),
            ("tls_version", r.tls_version.as_bytes()),
            ("sni", r.sni.as_bytes()),
            ("route", r.route.as_bytes()),
            ("reason", r.reason.map_or("", Reason::as_str).as_bytes()),
            ("asset", r.asset.as_bytes()),
            ("region", r.region.as_bytes()),
            ("backend", r.backend.as_bytes()),
            ("request_id", r.request_id),
        ] {
            if !value.is_empty() {
                text_name(out, name);
                printable(out, value);
            }
        }
        if let Some(status) = r.grpc_status {
            text_name(out, "grpc_status");
            number(out, u64::from(status));
        }
        for (name, value) in [("attempts", u64::from(r.attempts)), ("bytes_in", r.bytes_in), ("bytes_out", r.bytes_out)]
        {
            text_name(out, name);
            number(out, value);
        }
        for (name, value) in
            [("duration", Some(r.duration)), ("upstream_duration", r.upstream), ("connect_duration", r.connect)]
        {
            if let Some(value) = value {
                text_name(out, name);
                seconds(out, value);
            }
        }
        out.push(b'\n');
    }

    /// RFC 3339, UTC, to the microsecond.
    fn time(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            let second =
                i64::try_from(since.as_secs()).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
            self.text = second.unwrap_or_default().to_string();
            self.text.truncate("2026-07-05T12:00:00".len());
            self.second = Some(since.as_secs());
        }
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'.');
        micros(out, since.subsec_micros());
        out.push(b'Z');
    }
}

/// `,"name":"value"`, or `null` for an empty value.
fn json_text(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    json_name(out, name);
    if value.is_empty() {
        out.extend_from_slice(b"null");
        return;
    }
    out.push(b'"');
    for chunk in value.utf8_chunks() {
        json_escape(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

fn json_name(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name);
    out.extend_from_slice(b"\":");
}

fn json_number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    json_name(out, name);
    number(out, value);
}

fn json_duration(out: &mut Vec<u8>, name: &[u8], value: Option<Duration>) {
    json_name(out, name);
    match value {
        Some(value) => seconds(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

/// Copies runs that need nothing, and escapes what stands between them.
fn json_escape(out: &mut Vec<u8>, text: &[u8]) {
    let special = |byte: &u8| matches!(byte, 0..=0x1f | b'"' | b'\\' | 0x7f);
    let mut rest = text;
    while let Some(at) = rest.iter().position(special) {
        let (clean, tail) = rest.split_at(at);
        out.extend_from_slice(clean);
        let Some((byte, tail)) = tail.split_first() else { return };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ => {
                out.extend_from_slice(b"\\u00");
                hex(out, *byte);
            }
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
}

/// As it is if it is printable ASCII without a space or a quote, else quoted, with `\xNN` for every other byte.
fn printable(out: &mut Vec<u8>, value: &[u8]) {
    if value.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) && !value.is_empty() {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'"');
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => {
                out.extend_from_slice(b"\\x");
                hex(out, *byte);
            }
        }
    }
    out.push(b'"');
}

fn text_name(out: &mut Vec<u8>, name: &str) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Seconds, to the microsecond.
fn seconds(out: &mut Vec<u8>, value: Duration) {
    number(out, value.as_secs());
    out.push(b'.');
    micros(out, value.subsec_micros());
}

/// Six digits.
fn micros(out: &mut Vec<u8>, value: u32) {
    let mut digits = [b'0'; 6];
    let mut rest = value;
    for digit in digits.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits);
}

fn hex(out: &mut Vec<u8>, byte: u8) {
    for nibble in [byte >> 4, byte & 15] {
        out.push(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record<'a>(target: &'a [u8], time: SystemTime) -> AccessRecord<'a> {
        AccessRecord {
            time,
            client: "192.0.2.7",
            listener: "public",
            tls_version: "1.3",
            sni: "api.example.com",
            method: b"GET",
            target,
            host: b"api.example.com",
            route: "predict",
            status: 200,
            reason: None,
            grpc_status: None,
            bytes_in: 0,
            bytes_out: 128,
            asset: "BTC",
            region: "us-east",
            backend: "10.1.0.11:8000",
            attempts: 1,
            duration: Duration::from_nanos(12_003_004_999),
            upstream: Some(Duration::from_millis(9)),
            connect: None,
            request_id: b"01JZ",
        }
    }

    fn line(form: Form, record: &AccessRecord<'_>) -> String {
        let mut out = Vec::new();
        Formatter::default().line(&mut out, form, record);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_as_json() {
        let time = UNIX_EPOCH + Duration::from_micros(1_783_252_800_000_042);
        assert_eq!(
            line(Form::Json, &record(b"/v1/predict/BTC?a=\"\\", time)),
            concat!(
                r#"{"time":"2026-07-05T12:00:00.000042Z","client":"192.0.2.7","listener":"public","#,
                r#""tls_version":"1.3","sni":"api.example.com","method":"GET","#,
                r#""host":"api.example.com","target":"/v1/predict/BTC?a=\"\\","route":"predict","status":200,"#,
                r#""reason":null,"bytes_in":0,"bytes_out":128,"asset":"BTC","region":"us-east","#,
                r#""backend":"10.1.0.11:8000","attempts":1,"duration":12.003004,"upstream_duration":0.009000,"#,
                r#""connect_duration":null,"request_id":"01JZ"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn the_reference_names_every_field() {
        let reference = include_str!("../../docs/logs.md");
        let call = AccessRecord { grpc_status: Some(14), ..record(b"/", UNIX_EPOCH) };
        let parsed: serde_json::Value = serde_json::from_str(&line(Form::Json, &call)).unwrap();
        for field in parsed.as_object().unwrap().keys() {
            assert!(reference.contains(&format!("\n| `{field}` |")), "{field} is not in docs/logs.md");
        }
    }

    #[test]
    fn a_line_as_text() {
        let time = UNIX_EPOCH + Duration::from_micros(1_783_252_800_000_042);
        let refused = AccessRecord { status: 404, reason: Some(Reason::NoRoute), ..record(b"/\x1b[2J \"x", time) };
        assert_eq!(
            line(Form::Text, &refused),
            concat!(
                r#"2026-07-05T12:00:00.000042Z 404 GET "/\x1b[2J \"x" host=api.example.com client=192.0.2.7 "#,
                "listener=public tls_version=1.3 sni=api.example.com route=predict reason=no_route asset=BTC region=us-east backend=10.1.0.11:8000 ",
                "request_id=01JZ attempts=1 bytes_in=0 bytes_out=128 duration=12.003004 upstream_duration=0.009000\n"
            )
        );
    }

    #[test]
    fn off_writes_nothing_and_times_out_of_range_something() {
        assert_eq!(line(Form::Off, &record(b"/", UNIX_EPOCH)), "");
        let far = UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 1000);
        assert!(line(Form::Text, &record(b"/", far)).starts_with("1970-01-01T00:00:00.000000Z 200 GET / "));
    }

    proptest! {
        #[test]
        fn json_lines_parse_back_whatever_was_sent(
            target in prop::collection::vec(any::<u8>(), 0..200),
            host in prop::collection::vec(any::<u8>(), 0..50),
            client in ".*",
            status in any::<u16>(),
            bytes in any::<u64>(),
            reason in prop::sample::select(Reason::ALL),
            nanos in any::<u64>(),
            micros in 0..4_000_000_000_000_000_u64,
        ) {
            let record = AccessRecord {
                host: &host,
                client: &client,
                status,
                reason: Some(reason),
                bytes_in: bytes,
                duration: Duration::from_nanos(nanos),
                ..record(&target, UNIX_EPOCH + Duration::from_micros(micros))
            };
            let json = line(Form::Json, &record);
            prop_assert_eq!(json.matches('\n').count(), 1);
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            let text = |name: &str| parsed[name].as_str().unwrap_or("").to_owned();
            prop_assert_eq!(text("target"), String::from_utf8_lossy(&target));
            prop_assert_eq!(text("host"), String::from_utf8_lossy(&host));
            prop_assert_eq!(text("client"), client);
            prop_assert_eq!(text("reason"), reason.as_str());
            prop_assert_eq!(parsed["status"].as_u64(), Some(u64::from(status)));
            prop_assert_eq!(parsed["bytes_in"].as_u64(), Some(bytes));
            let time: jiff::Timestamp = text("time").parse().unwrap();
            prop_assert_eq!(time.as_microsecond(), micros as i64);
            prop_assert!((parsed["duration"].as_f64().unwrap() - nanos as f64 / 1e9).abs() < 1e-5);
        }

        #[test]
        fn text_lines_are_printable_whatever_was_sent(target in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = line(Form::Text, &record(&target, UNIX_EPOCH));
            let printable = text.trim_end_matches('\n').bytes().all(|byte| (b' '..=b'~').contains(&byte));
            prop_assert!(printable && text.ends_with('\n'), "{text:?}");
        }
    }
}
