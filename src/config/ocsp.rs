//! What an OCSP response says of itself (RFC 6960, 4.2.1): whether it is one, for which certificate, and until when.
//!
//! Whoever gets it stapled checks its signature. What is checked here is what a wrong file looks like: the answer of a
//! responder that had none, that for another certificate, and one that nobody has renewed, with which clients turn a
//! good certificate away.

use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::pem;

/// A response to send along.
#[derive(Debug)]
pub(super) struct Staple {
    /// In DER, as it was.
    pub(super) der: Vec<u8>,
    /// When it ends, in Unix time. `None`: it does not say.
    pub(super) until: Option<i64>,
    /// Whether it says that the certificate is good.
    pub(super) is_good: bool,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    serial: Vec<u8>,
    until: Option<i64>,
    is_good: bool,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const TIME: u8 = 0x18;
/// `[0] EXPLICIT`
const FIRST: u8 = 0xa0;
/// `[0] IMPLICIT NULL`: the certificate is good.
const GOOD: u8 = 0x80;

/// Reads the response of a certificate with this serial number.
pub(super) fn read(path: &Path, serial: &[u8]) -> Result<Staple, String> {
    let der = pem::read(path)?;
    match status(&der) {
        None => return Err(format!("{} is not an OCSP response in DER", path.display())),
        Some(0) => {}
        Some(status) => {
            let word = match status {
                1 => "malformedRequest",
                2 => "internalError",
                3 => "tryLater",
                5 => "sigRequired",
                6 => "unauthorized",
                _ => "something unknown",
            };
            return Err(format!("{} is not a response about a certificate: it says {word}", path.display()));
        }
    }
    match said(&der) {
        None => Err(format!("{} is not an OCSP response in DER", path.display())),
        Some(said) if said.serial != serial => Err(format!("{} is for another certificate", path.display())),
        Some(Said { until, is_good, .. }) => Ok(Staple { der, until, is_good }),
    }
}

impl Staple {
    /// Why somebody should look at it.
    pub(super) fn doubt(&self, path: &Path) -> Option<String> {
        if self.is_over() {
            let date = pem::date(self.until.unwrap_or_default());
            return Some(format!("{} expired on {date} and is not sent", path.display()));
        }
        (!self.is_good).then(|| format!("{} does not say that the certificate is good", path.display()))
    }

    /// Whether it is worse than none.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until < pem::now())
    }
}

/// `OCSPResponse.responseStatus`
fn status(der: &[u8]) -> Option<u8> {
    let (response, rest) = element(der, SEQUENCE)?;
    let (status, _) = element(response, ENUMERATED)?;
    match (status, rest) {
        ([status], []) => Some(*status),
        _ => None,
    }
}

/// Of the first certificate that it is about; those that are stapled are about one.
fn said(der: &[u8]) -> Option<Said> {
    let (response, _) = element(der, SEQUENCE)?;
    let (_, rest) = element(response, ENUMERATED)?;
    let (bytes, _) = element(element(rest, FIRST)?.0, SEQUENCE)?;
    // Its type is the first of two, and id-pkix-ocsp-basic is the only one that there is.
    let (_, _, rest) = any(bytes)?;
    let (basic, _) = element(element(rest, OCTETS)?.0, SEQUENCE)?;
    let (mut data, _) = element(basic, SEQUENCE)?;
    // Version and responder, of which there are kinds, then `producedAt`.
    let responses = loop {
        let (tag, _, rest) = any(data)?;
        data = rest;
        if tag == TIME {
            break element(rest, SEQUENCE)?.0;
        }
    };
    let (single, _) = element(responses, SEQUENCE)?;
    let (id, rest) = element(single, SEQUENCE)?;
    let (_, after) = element(id, SEQUENCE)?;
    let (_, after) = element(after, OCTETS)?;
    let (_, after) = element(after, OCTETS)?;
    let (serial, _) = element(after, INTEGER)?;
    let (tag, _, rest) = any(rest)?;
    let (_, rest) = element(rest, TIME)?;
    let until = match element(rest, FIRST) {
        Some((inner, _)) => Some(time(element(inner, TIME)?.0)?),
        None => None,
    };
    Some(Said { serial: serial.to_vec(), until, is_good: tag == GOOD })
}

/// `20261126021500Z`, the only form that RFC 5280 allows.
fn time(text: &[u8]) -> Option<i64> {
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

/// The content of the element that comes first, which must be of this kind, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    any(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Its kind, its content, and what comes after it.
fn any(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        // A file has fewer than 2^24 bytes.
        long @ 0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = content.len();
        let head =
            if length < 0x80 { vec![tag, length as u8] } else { vec![tag, 0x82, (length >> 8) as u8, length as u8] };
        [head, content].concat()
    }

    fn response(serial: &[u8], status: u8, until: Option<&[u8]>) -> Vec<u8> {
        let hash = wrap(OCTETS, &[&[7; 20]]);
        let id = wrap(SEQUENCE, &[&wrap(SEQUENCE, &[]), &hash, &hash, &wrap(INTEGER, &[serial])]);
        let until = until.map_or_else(Vec::new, |time| wrap(FIRST, &[&wrap(TIME, &[time])]));
        let single = wrap(SEQUENCE, &[&id, &[status, 0], &wrap(TIME, &[b"20200101000000Z"]), &until]);
        let responder = wrap(0xa2, &[&hash]);
        let data = wrap(SEQUENCE, &[&responder, &wrap(TIME, &[b"20200101000000Z"]), &wrap(SEQUENCE, &[&single])]);
        let basic = wrap(SEQUENCE, &[&data, &[0; 300]]);
        let bytes = wrap(SEQUENCE, &[&[6, 1, 1], &wrap(OCTETS, &[&basic])]);
        wrap(SEQUENCE, &[&[ENUMERATED, 1, 0], &wrap(FIRST, &[&bytes])])
    }

    #[test]
    fn what_a_response_says() {
        let until = Some(1_577_836_800 + 86_400);
        let der = response(&[1, 2], GOOD, Some(b"20200102000000Z"));
        assert_eq!(said(&der), Some(Said { serial: vec![1, 2], until, is_good: true }));
        assert_eq!(said(&response(&[3], 0xa1, None)), Some(Said { serial: vec![3], until: None, is_good: false }));
        assert_eq!((status(&der), status(b"\x30\x03\x0a\x01\x03")), (Some(0), Some(3)));
        // Cut off anywhere, or with a byte too many: none, and no panic.
        for end in 0..der.len() {
            assert_eq!(status(&der[..end]), None);
            said(&der[..end]);
        }
        assert_eq!(status(&[&der[..], b"x"].concat()), None);
        for at in 0..der.len() {
            for byte in [0, 0x7f, 0x80, 0x83, 0xff] {
                let mut other = der.clone();
                other[at] = byte;
                said(&other);
            }
        }
        assert_eq!(time(b"2020-01-02"), None);
    }
}
