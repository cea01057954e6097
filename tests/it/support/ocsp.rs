//! OCSP responses for tests (RFC 6960), signed by nobody: a client here looks at what it is sent, and not into it.

/// One for this certificate, in DER, that is good until then (`20400101000000Z`).
pub fn response(certificate: &[u8], until: &str) -> Vec<u8> {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    let hash = wrap(0x04, &[&[7; 20]]);
    let serial = wrap(0x02, &[certificate.raw_serial()]);
    let id = wrap(0x30, &[&wrap(0x30, &[]), &hash, &hash, &serial]);
    let time = |text: &str| wrap(0x18, &[text.as_bytes()]);
    let single = wrap(0x30, &[&id, &[0x80, 0], &time("20200101000000Z"), &wrap(0xa0, &[&time(until)])]);
    let data = wrap(0x30, &[&wrap(0xa2, &[&hash]), &time("20200101000000Z"), &wrap(0x30, &[&single])]);
    let basic = wrap(0x30, &[&data, &wrap(0x30, &[]), &[0x03, 1, 0]]);
    let kind = [0x06, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
    let bytes = wrap(0x30, &[&kind, &wrap(0x04, &[&basic])]);
    wrap(0x30, &[&[0x0a, 1, 0], &wrap(0xa0, &[&bytes])])
}

fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match length {
        [0, short @ ..0x80] => vec![tag, short],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [head, content].concat()
}
