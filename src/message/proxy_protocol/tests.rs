//! Headers as senders write them, and every way to get one wrong.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn proxied(source: &str, destination: &str) -> Header {
    Header::Proxied { source: at(source), destination: at(destination) }
}

/// The header that these bytes are, all of them, whatever follows and however they come in pieces.
fn whole(bytes: &[u8]) -> Result<Header, Malformed> {
    for cut in 0..bytes.len() {
        match scan(&bytes[..cut]) {
            Ok(None) => {}
            Ok(Some(_)) => panic!("{} is whole at {cut}", bytes.escape_ascii()),
            Err(malformed) => return Err(malformed),
        }
    }
    let (header, length) = scan(bytes)?.expect("a header that is not whole");
    assert_eq!(length, bytes.len());
    for follows in ["GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "PROXY UNKNOWN\r\n", "\n"] {
        assert_eq!(scan(&[bytes, follows.as_bytes()].concat()), Ok(Some((header, length))), "before {follows:?}");
    }
    Ok(header)
}

fn block(kind: u8, family: u8, parts: &[&[u8]]) -> Vec<u8> {
    v2(kind, family, &parts.concat())
}

const FOUR: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn lines() {
    let six = "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n";
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
    assert_eq!(longest.len(), MAX_LINE);
    let table: [(&str, Header); 6] = [
        ("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", proxied("192.0.2.1:56324", "198.51.100.7:443")),
        ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", proxied("0.0.0.0:0", "255.255.255.255:65535")),
        (six, proxied("[2001:db8::1]:1", "[::1]:65535")),
        ("PROXY UNKNOWN\r\n", Header::Unknown),
        ("PROXY UNKNOWN ffff:f::1 whatever 1\r\n", Header::Unknown),
        (&longest, Header::Unknown),
    ];
    for (text, expected) in table {
        assert_eq!(whole(text.as_bytes()), Ok(expected), "{text:?}");
    }
}

#[test]
fn lines_that_are_none() {
    let too_long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(92));
    let endless = "PROXY TCP4 ".to_owned() + &"1".repeat(200);
    let table: [&[u8]; 29] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"proxy TCP4 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1  198.51.100.7 1 2\r\n",
        b"PROXY TCP4 192.0.2.1\t198.51.100.7 1 2\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.7 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
        b"PROXY TCP6 [::1] [::1] 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 -1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\r\r\n",
        b"PROXY UNKNOWN \x80\r\n",
        b"PROXY UNKNOWNS\r\n",
        too_long.as_bytes(),
        endless.as_bytes(),
    ];
    for text in table {
        assert!(whole(text).is_err(), "{}", text.escape_ascii());
    }
    assert_eq!(scan(b"G"), Err(Malformed("no PROXY header")));
    assert_eq!(scan(b"\r\nGET / HTTP/1.1"), Err(Malformed("no PROXY header")));
    assert_eq!(scan(b""), Ok(None));
}

#[test]
fn blocks() {
    let ten = proxied("192.0.2.1:56324", "198.51.100.7:443");
    let mut six = [0; 36];
    six[15] = 1;
    six[31] = 2;
    six[35] = 80;
    let noop: &[u8] = &[0x04, 0, 2, 0, 0];
    let alpn: &[u8] = &[0x01, 0, 2, b'h', b'2'];
    let tls: &[u8] = &[0x20, 0, 5, 1, 0, 0, 0, 0];
    let own: &[u8] = &[0xe0, 0, 0];
    let table = [
        (block(0x21, 0x11, &[FOUR]), ten),
        (block(0x21, 0x11, &[FOUR, noop, alpn, tls, own]), ten),
        (block(0x21, 0x21, &[&six]), proxied("[::1]:0", "[::2]:80")),
        (block(0x21, 0x00, &[]), Header::Unknown),
        (block(0x21, 0x00, &[b"ab"]), Header::Unknown),
        (block(0x21, 0x31, &[&[0; 216], noop]), Header::Unknown),
        (block(0x20, 0x00, &[]), Header::Local),
        (block(0x20, 0x11, &[FOUR]), Header::Local),
        (block(0x20, 0xff, &[b"abc"]), Header::Local),
        (block(0x21, 0x11, &[FOUR, &[0x04, 0x0f, 0xe1], &[0; 0xfe1]]), ten),
    ];
    assert_eq!(table[9].0.len(), MAX);
    for (bytes, expected) in table {
        assert_eq!(whole(&bytes), Ok(expected), "{}", bytes.escape_ascii());
    }
}

#[test]
fn blocks_that_are_none() {
    let table = [
        block(0x11, 0x11, &[FOUR]),
        block(0x31, 0x11, &[FOUR]),
        block(0x22, 0x11, &[FOUR]),
        block(0x21, 0x10, &[FOUR]),
        block(0x21, 0x12, &[FOUR]),
        block(0x21, 0x13, &[FOUR]),
        block(0x21, 0x01, &[FOUR]),
        block(0x21, 0x41, &[FOUR]),
        block(0x21, 0x11, &[&FOUR[..11]]),
        block(0x21, 0x21, &[&[0; 35]]),
        block(0x21, 0x31, &[&[0; 215]]),
        block(0x21, 0x11, &[FOUR, b"a"]),
        block(0x21, 0x11, &[FOUR, &[0x04, 0]]),
        block(0x21, 0x11, &[FOUR, &[0x04, 0, 1]]),
        block(0x21, 0x11, &[FOUR, &[0x04, 0xff, 0xff, 0]]),
        block(0x21, 0x11, &[FOUR, &[0x04, 0x0f, 0xe2], &[0; 0xfe2]]),
        block(0x21, 0x11, &[FOUR, &[CRC32C, 0, 3, 0, 0, 0]]),
        block(0x21, 0x11, &[FOUR, &[CRC32C, 0, 4, 0, 0, 0, 0]]),
    ];
    for bytes in table {
        assert!(whole(&bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_checksum_is_verified() {
    let mut bytes = block(0x21, 0x11, &[FOUR, &[CRC32C, 0, 4, 0, 0, 0, 0], &[0x04, 0, 1, 9]]);
    let sum = crc32c::crc32c(&bytes).to_be_bytes();
    bytes[31..35].copy_from_slice(&sum);
    assert_eq!(whole(&bytes), Ok(proxied("192.0.2.1:56324", "198.51.100.7:443")));
    for changed in [16, 27, 31, 38] {
        let mut wrong = bytes.clone();
        wrong[changed] ^= 1;
        assert!(whole(&wrong).is_err(), "byte {changed}");
    }
}

#[test]
fn what_is_written() {
    let text = |source: Option<&str>, destination: Option<&str>| {
        String::from_utf8(write(ProxyProtocol::V1, source.map(at), destination.map(at))).unwrap()
    };
    assert_eq!(text(Some("192.0.2.1:5"), Some("10.0.0.1:80")), "PROXY TCP4 192.0.2.1 10.0.0.1 5 80\r\n");
    assert_eq!(text(Some("192.0.2.1:5"), Some("[::ffff:10.0.0.1]:80")), "PROXY TCP4 192.0.2.1 10.0.0.1 5 80\r\n");
    assert_eq!(text(Some("192.0.2.1:5"), Some("[::1]:80")), "PROXY TCP6 ::ffff:192.0.2.1 ::1 5 80\r\n");
    assert_eq!(text(Some("[::1]:5"), None), "PROXY TCP6 ::1 :: 5 0\r\n");
    assert_eq!(text(None, Some("10.0.0.1:80")), "PROXY UNKNOWN\r\n");
    assert_eq!(write_local(ProxyProtocol::V1), b"PROXY UNKNOWN\r\n");
    assert_eq!(whole(&write_local(ProxyProtocol::V2)), Ok(Header::Local));
    assert_eq!(whole(&write(ProxyProtocol::V2, None, None)), Ok(Header::Unknown));
    assert!(write(ProxyProtocol::Off, Some(at("1.2.3.4:5")), None).is_empty());
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.into(), port)),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.into(), port)),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(source in address(), destination in address()) {
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let (source, destination) = same_family(source, Some(destination));
            let bytes = write(version, Some(source), Some(destination));
            prop_assert_eq!(whole(&bytes), Ok(Header::Proxied { source, destination }));
        }
    }

    #[test]
    fn nothing_makes_it_panic_or_read_beyond(
        first in prop_oneof![Just(V1), Just(V2), Just(&b"PROXY TCP4 "[..]), Just(&b""[..])],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
        kind in 0x1f_u8..0x23, family in 0_u8..0x33, length in 0_u16..300,
    ) {
        let mut bytes = first.to_vec();
        if first == V2 {
            bytes.extend_from_slice(&[kind, family]);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        bytes.extend_from_slice(&rest);
        if let Ok(Some((_, used))) = scan(&bytes) {
            prop_assert!(used <= bytes.len() && used <= MAX);
            // It depends on no byte behind its end, and on every byte before it.
            prop_assert_eq!(scan(&bytes[..used]), scan(&bytes));
            prop_assert_eq!(scan(&bytes[..used - 1]), Ok(None));
        }
    }
}
