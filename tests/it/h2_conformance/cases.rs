//! The cases, by section.

use super::{
    Answer, Case, ENHANCE_YOUR_CALM, End, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, Nothing, PROTOCOL_ERROR, Reset,
    STREAM_CLOSED,
};
use crate::support::frame;
use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITIZED, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, get, request, settings,
};

const WHOLE: u8 = END_STREAM | END_HEADERS;

fn head(flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags, 1, &block(fields))
}

/// A GET that has these fields, too.
fn with(fields: &[(&str, &str)]) -> Vec<Vec<u8>> {
    vec![head(WHOLE, &[&get("/v1/BTC")[..], fields].concat())]
}

/// A request with exactly these fields.
fn only(fields: &[(&str, &str)]) -> Vec<Vec<u8>> {
    vec![head(WHOLE, fields)]
}

/// A POST whose body is still to come.
fn post(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = get("/v1/BTC").to_vec();
    all[0].1 = "POST";
    all.extend_from_slice(fields);
    head(END_HEADERS, &all)
}

/// Frames after one another, at once.
fn at_once(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    vec![parts.concat()]
}

fn one(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<Vec<u8>> {
    vec![frame(kind, flags, stream, payload)]
}

/// Sections 4 to 6, and HPACK.
pub(super) fn frames_and_streams() -> Vec<Case> {
    let open = post(&[]);
    let whole = request(1, "/v1/BTC");
    let begun = frame(HEADERS, END_STREAM, 1, &block(&get("/v1/BTC")));
    let rst = frame(RST_STREAM, 0, 1, &8u32.to_be_bytes());
    let window = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let end = |stream| frame(DATA, END_STREAM, stream, b"x");
    let itself = [0, 0, 0, 1, 0];
    vec![
        ("4.1", "a frame of a kind that nobody knows", one(0x42, 0xff, 0, b"?"), Nothing),
        ("4.1", "the same on a stream", at_once(&[&frame(0x42, 0, 1, b"?"), &whole]), Answer(200)),
        ("4.1", "flags that mean nothing", one(PING, 0xfe, 0, b"12345678"), Nothing),
        ("4.1", "the bit that is reserved", one(PING, 0, 1 << 31, b"12345678"), Nothing),
        (
            "4.2",
            "DATA as large as it may be",
            at_once(&[&open, &frame(DATA, END_STREAM, 1, &[0; 1 << 14])]),
            Answer(200),
        ),
        (
            "4.2",
            "DATA that is too large",
            at_once(&[&open, &frame(DATA, END_STREAM, 1, &[0; (1 << 14) + 1])]),
            End(FRAME_SIZE_ERROR),
        ),
        ("4.2", "HEADERS that are too large", one(HEADERS, WHOLE, 1, &[0; (1 << 14) + 1]), End(FRAME_SIZE_ERROR)),
        ("4.2", "SETTINGS that are too large", one(SETTINGS, 0, 0, &[0; 16386]), End(FRAME_SIZE_ERROR)),
        (
            "4.3",
            "PRIORITY within a header block",
            at_once(&[&begun, &frame(PRIORITY, 0, 1, &[0; 5])]),
            End(PROTOCOL_ERROR),
        ),
        (
            "4.3",
            "HEADERS of another stream within a header block",
            at_once(&[&begun, &request(3, "/")]),
            End(PROTOCOL_ERROR),
        ),
        (
            "4.3",
            "an unknown frame within a header block",
            at_once(&[&begun, &frame(0x42, 0, 1, b"")]),
            End(PROTOCOL_ERROR),
        ),
        ("5.1", "DATA on an idle stream", one(DATA, END_STREAM, 1, b"x"), End(PROTOCOL_ERROR)),
        ("5.1", "RST_STREAM on an idle stream", vec![rst.clone()], End(PROTOCOL_ERROR)),
        ("5.1", "WINDOW_UPDATE on an idle stream", vec![window(1, 1)], End(PROTOCOL_ERROR)),
        (
            "5.1",
            "CONTINUATION on an idle stream",
            one(CONTINUATION, END_HEADERS, 1, &block(&get("/"))),
            End(PROTOCOL_ERROR),
        ),
        ("5.1", "PRIORITY on an idle stream", one(PRIORITY, 0, 1, &[0; 5]), Nothing),
        ("5.1", "DATA behind END_STREAM", at_once(&[&whole, &end(1)]), End(PROTOCOL_ERROR)),
        ("5.1", "HEADERS behind END_STREAM", at_once(&[&whole, &whole]), End(PROTOCOL_ERROR)),
        (
            "5.1",
            "CONTINUATION behind END_STREAM",
            at_once(&[&whole, &frame(CONTINUATION, END_HEADERS, 1, b"")]),
            End(PROTOCOL_ERROR),
        ),
        ("5.1", "DATA behind RST_STREAM", at_once(&[&open, &rst, &end(1)]), Reset(STREAM_CLOSED)),
        ("5.1", "HEADERS behind RST_STREAM", at_once(&[&open, &rst, &whole]), End(PROTOCOL_ERROR)),
        ("5.1", "DATA on a stream that is over", vec![whole.clone(), end(1)], Reset(STREAM_CLOSED)),
        ("5.1", "HEADERS on a stream that is over", vec![whole.clone(), whole.clone()], End(PROTOCOL_ERROR)),
        ("5.1", "WINDOW_UPDATE on a stream that is over", vec![whole.clone(), window(1, 9)], Answer(200)),
        ("5.1", "RST_STREAM on a stream that is over", vec![whole.clone(), rst.clone()], Answer(200)),
        ("5.1", "PRIORITY on a stream that is over", vec![whole.clone(), frame(PRIORITY, 0, 1, &[0; 5])], Answer(200)),
        ("5.1.1", "a stream with an even number", vec![request(2, "/v1/BTC")], End(PROTOCOL_ERROR)),
        (
            "5.1.1",
            "a stream with a lower number",
            at_once(&[&request(5, "/v1/BTC"), &request(3, "/v1/BTC")]),
            End(PROTOCOL_ERROR),
        ),
        (
            "5.3.1",
            "HEADERS that depend on themselves",
            one(HEADERS, WHOLE | PRIORITIZED, 1, &[&itself[..], &block(&get("/"))].concat()),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "5.3.1",
            "PRIORITY that depends on itself",
            at_once(&[&open, &frame(PRIORITY, 0, 1, &itself)]),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "5.3",
            "HEADERS with a priority",
            one(HEADERS, WHOLE | PRIORITIZED, 1, &[&[0, 0, 0, 0, 7][..], &block(&get("/v1/BTC"))].concat()),
            Answer(200),
        ),
        ("6.1", "DATA on the connection", one(DATA, 0, 0, b"x"), End(PROTOCOL_ERROR)),
        (
            "6.1",
            "DATA padded beyond its end",
            at_once(&[&open, &frame(DATA, END_STREAM | PADDED, 1, b"\x05abc")]),
            End(PROTOCOL_ERROR),
        ),
        (
            "6.1",
            "DATA padded and empty",
            at_once(&[&open, &frame(DATA, END_STREAM | PADDED, 1, b"\x03\0\0\0")]),
            Answer(200),
        ),
        ("6.2", "HEADERS on the connection", one(HEADERS, WHOLE, 0, &block(&get("/"))), End(PROTOCOL_ERROR)),
        ("6.2", "HEADERS padded beyond their end", one(HEADERS, WHOLE | PADDED, 1, b"\xff\x82"), End(PROTOCOL_ERROR)),
        (
            "6.2",
            "HEADERS that are padded",
            one(HEADERS, WHOLE | PADDED, 1, &[&[2][..], &block(&get("/v1/BTC")), &[0, 0]].concat()),
            Answer(200),
        ),
        ("6.3", "PRIORITY on the connection", one(PRIORITY, 0, 0, &[0; 5]), End(PROTOCOL_ERROR)),
        ("6.3", "PRIORITY of four bytes", at_once(&[&open, &frame(PRIORITY, 0, 1, &[0; 4])]), End(FRAME_SIZE_ERROR)),
        ("6.4", "RST_STREAM on the connection", one(RST_STREAM, 0, 0, &[0; 4]), End(PROTOCOL_ERROR)),
        (
            "6.4",
            "RST_STREAM of three bytes",
            at_once(&[&open, &frame(RST_STREAM, 0, 1, &[0; 3])]),
            End(FRAME_SIZE_ERROR),
        ),
        ("6.5", "SETTINGS of a stream", one(SETTINGS, 0, 1, &[0; 6]), End(PROTOCOL_ERROR)),
        ("6.5", "SETTINGS that are no whole number of them", one(SETTINGS, 0, 0, &[0; 5]), End(FRAME_SIZE_ERROR)),
        ("6.5", "an acknowledgement with settings", one(SETTINGS, ACK, 0, &[0; 6]), End(FRAME_SIZE_ERROR)),
        ("6.5.2", "ENABLE_PUSH of two", vec![settings(&[(2, 2)])], End(PROTOCOL_ERROR)),
        ("6.5.2", "a window beyond the largest", vec![settings(&[(4, 1 << 31)])], End(PROTOCOL_ERROR)),
        ("6.5.2", "a frame size below the least", vec![settings(&[(5, (1 << 14) - 1)])], End(PROTOCOL_ERROR)),
        ("6.5.2", "a frame size beyond the largest", vec![settings(&[(5, 1 << 24)])], End(PROTOCOL_ERROR)),
        ("6.5.2", "a setting that nobody knows", vec![settings(&[(0x99, 7)])], Nothing),
        ("6.5.3", "the same setting twice", at_once(&[&settings(&[(4, 1), (4, 65535)]), &whole]), Answer(200)),
        (
            "6.6",
            "PUSH_PROMISE from a client",
            one(PUSH_PROMISE, END_HEADERS, 1, &[&2u32.to_be_bytes()[..], &block(&get("/"))].concat()),
            End(PROTOCOL_ERROR),
        ),
        ("6.7", "a PING's answer that nobody asked for", one(PING, ACK, 0, b"whatever"), Nothing),
        ("6.7", "PING of a stream", one(PING, 0, 1, &[0; 8]), End(PROTOCOL_ERROR)),
        ("6.7", "PING of six bytes", one(PING, 0, 0, &[0; 6]), End(FRAME_SIZE_ERROR)),
        ("6.8", "GOAWAY of a stream", one(GOAWAY, 0, 1, &[0; 8]), End(PROTOCOL_ERROR)),
        ("6.9", "WINDOW_UPDATE of nothing, of the connection", vec![window(0, 0)], End(PROTOCOL_ERROR)),
        ("6.9", "WINDOW_UPDATE of nothing, of a stream", at_once(&[&open, &window(1, 0)]), End(PROTOCOL_ERROR)),
        ("6.9", "WINDOW_UPDATE of three bytes", one(WINDOW_UPDATE, 0, 0, &[0, 0, 1]), End(FRAME_SIZE_ERROR)),
        (
            "6.9.1",
            "the connection's window beyond the largest",
            vec![window(0, i32::MAX.cast_unsigned())],
            End(FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.1",
            "a stream's window beyond the largest",
            at_once(&[&open, &window(1, i32::MAX.cast_unsigned())]),
            Reset(FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2",
            "a new initial window that overflows a stream's",
            at_once(&[&open, &window(1, 1 << 30), &settings(&[(4, i32::MAX.cast_unsigned())])]),
            End(FLOW_CONTROL_ERROR),
        ),
        (
            "6.10",
            "a head in three frames",
            at_once(&[
                &frame(HEADERS, END_STREAM, 1, &block(&get("/v1/BTC"))[..20]),
                &frame(CONTINUATION, 0, 1, &block(&get("/v1/BTC"))[20..30]),
                &frame(CONTINUATION, END_HEADERS, 1, &block(&get("/v1/BTC"))[30..]),
            ]),
            Answer(200),
        ),
        (
            "6.10",
            "CONTINUATION on the connection",
            at_once(&[&begun, &frame(CONTINUATION, END_HEADERS, 0, b"")]),
            End(PROTOCOL_ERROR),
        ),
        (
            "6.10",
            "CONTINUATION of another stream",
            at_once(&[&begun, &frame(CONTINUATION, END_HEADERS, 3, b"")]),
            End(PROTOCOL_ERROR),
        ),
        (
            "6.10",
            "CONTINUATION behind DATA",
            at_once(&[&open, &frame(DATA, 0, 1, b"x"), &frame(CONTINUATION, END_HEADERS, 1, b"")]),
            End(PROTOCOL_ERROR),
        ),
        (
            "6.10",
            "CONTINUATION without an end",
            at_once(&[&begun, &frame(CONTINUATION, 0, 1, b"").repeat(20)]),
            End(ENHANCE_YOUR_CALM),
        ),
        ("HPACK 2.3.3", "an index that is not there", one(HEADERS, WHOLE, 1, &[0x80 | 70]), End(PROTOCOL_ERROR)),
        ("HPACK 6.1", "index nought", one(HEADERS, WHOLE, 1, &[0x80]), End(PROTOCOL_ERROR)),
        (
            "HPACK 4.2",
            "a table larger than was offered",
            one(HEADERS, WHOLE, 1, &[0x3f, 0xe2, 0x1f]),
            End(PROTOCOL_ERROR),
        ),
        (
            "HPACK 5.2",
            "a string that ends within a letter",
            one(HEADERS, WHOLE, 1, b"\0\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
            End(PROTOCOL_ERROR),
        ),
        ("HPACK 5.1", "a number without an end", one(HEADERS, WHOLE, 1, &[0xff; 40]), End(PROTOCOL_ERROR)),
    ]
}

/// Section 8.
pub(super) fn messages() -> Vec<Case> {
    let open = |fields: &[(&str, &str)]| post(fields);
    let data = |flags, text: &[u8]| frame(DATA, flags, 1, text);
    let trailers = |flags, fields: &[(&str, &str)]| head(flags, fields);
    let [method, scheme, authority, path] = get("/v1/BTC");
    let at = |target| [method, scheme, authority, (":path", target)];
    let to = |authority| [method, scheme, (":authority", authority), path];
    let mut cases = vec![
        (
            "8.1",
            "a request with trailers",
            at_once(&[&open(&[]), &data(0, b"x"), &trailers(WHOLE, &[("x-sum", "1")])]),
            Answer(200),
        ),
        (
            "8.1",
            "trailers that are not the end",
            at_once(&[&open(&[]), &trailers(END_HEADERS, &[("x-sum", "1")])]),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "8.1.1",
            "less DATA than content-length",
            at_once(&[&open(&[("content-length", "2")]), &data(END_STREAM, b"x")]),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "8.1.1",
            "more DATA than content-length",
            at_once(&[&open(&[("content-length", "2")]), &data(0, b"x"), &data(END_STREAM, b"yz")]),
            Reset(PROTOCOL_ERROR),
        ),
        ("8.1.1", "content-length without a body", with(&[("content-length", "2")]), Reset(PROTOCOL_ERROR)),
        (
            "8.1.1",
            "content-length twice, the same",
            with(&[("content-length", "0"), ("content-length", "0")]),
            Answer(400),
        ),
        (
            "8.1.1",
            "content-length twice, another",
            with(&[("content-length", "0"), ("content-length", "1")]),
            Reset(PROTOCOL_ERROR),
        ),
        ("8.1.1", "content-length that is no number", with(&[("content-length", "+0")]), Reset(PROTOCOL_ERROR)),
        (
            "8.1.1",
            "content-length as it should be",
            at_once(&[&open(&[("content-length", "3")]), &data(0, b"x"), &data(END_STREAM, b"yz")]),
            Answer(200),
        ),
        ("8.2.1", "white space before a value", with(&[("x", " y")]), Answer(400)),
        ("8.2.1", "white space behind a value", with(&[("x", "y\t")]), Answer(400)),
        ("8.2.2", "te for trailers", with(&[("te", "trailers")]), Answer(200)),
        ("8.2.2", "te for more", with(&[("te", "trailers, deflate")]), Reset(PROTOCOL_ERROR)),
        ("8.2.3", "a cookie in crumbs", with(&[("cookie", "a=1"), ("cookie", "b=2")]), Answer(200)),
        ("8.3", "a pseudo-header that nobody knows", with(&[(":nonsense", "x")]), End(PROTOCOL_ERROR)),
        (
            "8.3",
            "a response's pseudo-header",
            only(&[method, scheme, authority, path, (":status", "200")]),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "8.3",
            "a pseudo-header behind a field",
            only(&[method, scheme, authority, ("x", "y"), path]),
            Reset(PROTOCOL_ERROR),
        ),
        ("8.3.1", "no :method", only(&[scheme, authority, path]), Reset(PROTOCOL_ERROR)),
        ("8.3.1", "no :scheme", only(&[method, authority, path]), Reset(PROTOCOL_ERROR)),
        ("8.3.1", "no :path", only(&[method, scheme, authority]), Reset(PROTOCOL_ERROR)),
        ("8.3.1", "no :authority, but Host", only(&[method, scheme, path, ("host", "shard.example")]), Answer(200)),
        ("8.3.1", "neither :authority nor Host", only(&[method, scheme, path]), Answer(400)),
        ("8.3.1", ":authority and the same Host", with(&[("host", "shard.example")]), Answer(200)),
        ("8.3.1", ":authority and another Host", with(&[("host", "other.example")]), Answer(400)),
        (
            "8.3.1",
            ":authority and two Hosts",
            with(&[("host", "shard.example"), ("host", "other.example")]),
            Answer(400),
        ),
        ("8.3.1", "a scheme that is not ours", only(&[method, (":scheme", "ftp"), authority, path]), Answer(400)),
        (
            "8.3.1",
            "an asterisk for OPTIONS",
            only(&[(":method", "OPTIONS"), scheme, authority, (":path", "*")]),
            Answer(404),
        ),
        ("8.3.1", "an asterisk for GET", only(&at("*")), Answer(400)),
        ("8.3.1", "a method that is none", only(&[(":method", "GE T"), scheme, authority, path]), End(PROTOCOL_ERROR)),
        ("8.5", "CONNECT", only(&[(":method", "CONNECT"), authority]), Answer(400)),
        ("8.5", "CONNECT with a path", only(&[(":method", "CONNECT"), scheme, authority, path]), Reset(PROTOCOL_ERROR)),
        (
            "8.5",
            "an extended CONNECT without a path (RFC 8441, 4)",
            only(&[(":method", "CONNECT"), (":protocol", "websocket"), scheme, authority]),
            Reset(PROTOCOL_ERROR),
        ),
    ];
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        cases.push(("8.2.2", "a field of the connection", with(&[(name, "x")]), Reset(PROTOCOL_ERROR)));
    }
    for pseudo in [method, scheme, authority, path] {
        cases.push((
            "8.3.1",
            "a pseudo-header twice",
            only(&[method, scheme, authority, path, pseudo]),
            Reset(PROTOCOL_ERROR),
        ));
    }
    for name in ["X-Upper", "x y", "x\r\ny", "x\0", "x:y", ""] {
        cases.push(("8.2.1", "a name that is none", with(&[(name, "x")]), End(PROTOCOL_ERROR)));
    }
    for value in ["a\rb", "a\nb", "a\0b", "a\r\nhost: b", "\u{7f}"] {
        cases.push(("8.2.1", "a value that is none", with(&[("x", value)]), End(PROTOCOL_ERROR)));
    }
    for target in ["", "v1/BTC", "http://shard.example/v1/BTC", "/v1/BTC\r\nx: y", "/v1/B TC", "/\u{7f}"] {
        cases.push(("8.3.1", "a :path that is none", only(&at(target)), Reset(PROTOCOL_ERROR)));
    }
    for authority in ["user@shard.example", "shard.example:x", "a,b:99999"] {
        cases.push(("8.3.1", "an :authority that is none", only(&to(authority)), Answer(400)));
    }
    for authority in ["shard.example/x", "shard example", "shard.example#x", "a\r\nb"] {
        cases.push(("8.3.1", "an :authority that can't be one", only(&to(authority)), Reset(PROTOCOL_ERROR)));
    }
    cases
}
