//! The subject of a client's certificate as text (RFC 4514), for backends.
//!
//! Whoever reads it must be able to tell where a value ends, whatever is in it: a name is chosen by its owner, and one like
//! `x,CN=root` must not become two. So all that has a meaning is escaped, and what is not printable ASCII is in hex.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, X509Certificate};

/// Bytes of a subject that is passed on; a longer one is no name of anybody's.
const LONGEST: usize = 2048;

/// What a client's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its subject, the most specific part first: `CN=a,O=b`.
    pub text: String,
    /// When it ends, in Unix time.
    pub not_after: i64,
}

/// Reads one. `None`: it is not well formed, or its subject is longer than 2,048 bytes.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<Subject> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut text = String::new();
    let rdns: Vec<_> = certificate.subject().iter_rdn().collect();
    for (place, rdn) in rdns.into_iter().rev().enumerate() {
        for (part, attribute) in rdn.iter().enumerate() {
            match (place, part) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            write(&mut text, attribute);
        }
    }
    (text.len() <= LONGEST).then(|| Subject { text, not_after: certificate.validity().not_after.timestamp() })
}

/// RFC 4514, 3, and `emailAddress`, which everybody writes so.
const NAMES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

fn write(out: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let name = NAMES.iter().find(|(known, _)| *known == oid).map_or(oid.as_str(), |(_, name)| *name);
    out.push_str(name);
    out.push('=');
    let Ok(value) = attribute.as_str() else {
        // Not a string that we can read: its bytes.
        out.push('#');
        attribute.as_slice().iter().for_each(|byte| hex(out, *byte));
        return;
    };
    for (at, byte) in value.bytes().enumerate() {
        let is_edge = at == 0 || at + 1 == value.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' => out.extend(['\\', char::from(byte)]),
            b' ' if is_edge => out.push_str("\\ "),
            b'#' if at == 0 => out.push_str("\\#"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                out.push('\\');
                hex(out, byte);
            }
        }
    }
}

fn hex(out: &mut String, byte: u8) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn text(parts: &[(DnType, &str)]) -> Option<String> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        subject(certificate.der()).map(|subject| subject.text)
    }

    #[test]
    fn the_most_specific_part_stands_first() {
        let parts =
            [(DnType::CountryName, "DE"), (DnType::OrganizationName, "Example"), (DnType::CommonName, "client 1")];
        assert_eq!(text(&parts).as_deref(), Some("CN=client 1,O=Example,C=DE"));
        assert_eq!(text(&[]).as_deref(), Some(""));
    }

    #[test]
    fn a_value_can_t_look_like_two() {
        let forged = [(DnType::CommonName, "x,CN=root\";\\"), (DnType::OrganizationName, "#a\r\nb\u{e4} ")];
        assert_eq!(text(&forged).as_deref(), Some(r#"O=\#a\0D\0Ab\C3\A4\ ,CN=x\,CN\=root\"\;\\"#));
        assert_eq!(text(&[(DnType::CommonName, &"x".repeat(3000))]), None);
    }

    #[test]
    fn what_is_no_certificate_has_no_subject() {
        assert_eq!(subject(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])), None);
    }
}
