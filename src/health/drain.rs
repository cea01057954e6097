//! Does the body of a check's answer say that the server drains?
//!
//! There is no one form for it: a line of text, a field of a JSON document, a name with a value. So the word `drain` or
//! `draining` is looked for, by itself and in any case; where it is a name, its value must not say no (`"draining": false`).
//! Only an answer that fails its check is asked.

/// Bytes of a body that are looked at.
pub(super) const MAX_BODY: usize = 1024;

/// Whether it does.
pub(super) fn is_said(body: &[u8]) -> bool {
    let mut rest = body;
    while let Some(start) = rest.iter().position(|b| is_letter(*b)) {
        let (_, from) = rest.split_at(start);
        let end = from.iter().position(|b| !is_letter(*b)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        if (is(word, b"drain") || is(word, b"draining")) && !value(after).is_some_and(says_no) {
            return true;
        }
        rest = after;
    }
    false
}

/// What stands after a name; `None`: what comes before it was none.
fn value(after: &[u8]) -> Option<&[u8]> {
    let space = |bytes: &'_ [u8]| bytes.iter().take_while(|b| matches!(b, b'"' | b'\'' | b' ' | b'\t')).count();
    let after = after.get(space(after)..)?;
    let rest = after.strip_prefix(b":").or_else(|| after.strip_prefix(b"="))?;
    let rest = rest.get(space(rest)..)?;
    rest.get(..rest.iter().position(|b| !is_letter(*b)).unwrap_or(rest.len()))
}

fn says_no(value: &[u8]) -> bool {
    [&b""[..], b"false", b"0", b"no", b"off", b"null", b"none"].iter().any(|no| is(value, no))
}

fn is(word: &[u8], known: &[u8]) -> bool {
    word.eq_ignore_ascii_case(known)
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies() {
        for (body, expected) in [
            ("drain", true),
            ("Draining\n", true),
            ("server is draining, bye", true),
            ("{\"status\":\"draining\"}", true),
            ("{\"status\": \"DRAIN\", \"db\": \"up\"}", true),
            ("{\"draining\": true}", true),
            ("draining=true", true),
            ("5\r\ndrain\r\n0\r\n\r\n", true),
            ("{\"draining\": false}", false),
            ("{\"draining\":false,\"state\":\"draining\"}", true),
            ("draining: back in a minute", true),
            ("drain = 0", false),
            ("drained", false),
            ("drain_count", false),
            ("non-draining", false),
            ("a br\u{e4}drain", false),
            ("", false),
            ("drain:", false),
        ] {
            assert_eq!(is_said(body.as_bytes()), expected, "{body}");
        }
    }

    proptest! {
        /// It ends, whatever the bytes are, and finds the word after whatever is no part of it.
        #[test]
        fn nothing_breaks_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            is_said(&bytes);
            prop_assert!(is_said(&[&bytes, &b". drain"[..]].concat()));
        }
    }
}
