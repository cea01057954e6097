//! The rules, case by case, each with the section it comes from.

use super::*;

#[test]
fn a_plain_head_is_understood() {
    let bytes = b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    let limits = HeadLimits { bytes: 1024, fields: 10, target: 64 };
    let head = Scan::default().feed(bytes, &limits).unwrap().unwrap();
    assert_eq!(head.framing, Framing::Length(3));
    assert_eq!(&bytes[head.target], b"/a?b");
    assert_eq!(&bytes[head.end..], b"abc");
}
