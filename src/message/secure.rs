//! What the handshake of a TLS connection found out, for whoever serves its requests.

use crate::model::TlsVersion;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secure {
    /// What is spoken.
    pub version: TlsVersion,
    /// The host that the client asked for (SNI), in lower case; `None`: it named none.
    pub sni: Option<Box<str>>,
    /// The subject of its certificate, verified, as RFC 4514 writes it; `None`: it showed none.
    pub subject: Option<Box<str>>,
}

impl Secure {
    /// Whether a request for this authority (a host, perhaps with a port) belongs on a connection that was opened for
    /// this name. Without a name, only an address does: a client that knows the host's name sends it.
    pub fn is_for(&self, authority: &[u8]) -> bool {
        let host = host(authority);
        match &self.sni {
            Some(sni) => host.strip_suffix(b".").unwrap_or(host).eq_ignore_ascii_case(sni.as_bytes()),
            None => str::from_utf8(host).is_ok_and(|host| host.parse::<std::net::IpAddr>().is_ok()),
        }
    }
}

/// Without the port, and without the brackets of an IPv6 address.
fn host(authority: &[u8]) -> &[u8] {
    if let Some(rest) = authority.strip_prefix(b"[") {
        return rest.split(|byte| *byte == b']').next().unwrap_or_default();
    }
    authority.split(|byte| *byte == b':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_belongs_to_the_name_that_was_asked_for() {
        let secure = |sni: Option<&str>| Secure { version: TlsVersion::V13, sni: sni.map(Into::into), subject: None };
        let table = [
            (Some("a.test"), "a.test", true),
            (Some("a.test"), "A.Test:8443", true),
            (Some("a.test"), "a.test.", true),
            (Some("a.test"), "b.test", false),
            (Some("a.test"), "a.test.evil", false),
            (Some("a.test"), "127.0.0.1", false),
            (Some("a.test"), "", false),
            (None, "127.0.0.1:8443", true),
            (None, "[::1]:8443", true),
            (None, "a.test", false),
            (None, "", false),
        ];
        for (sni, authority, expected) in table {
            assert_eq!(secure(sni).is_for(authority.as_bytes()), expected, "{sni:?} {authority}");
        }
    }
}
