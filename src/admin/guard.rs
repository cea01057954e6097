//! Who may do what at the admin address.
//!
//! Nothing writes without being allowed to: by the token, by a client certificate, or by the permissions of a Unix
//! socket's file if there is no token. Beyond loopback everything but `/livez`, `/readyz` and `/metrics` needs that, too;
//! on loopback whoever can connect has an account on this machine and may read. That leaves the browsers of such accounts,
//! which any web page can send here: a name that is made to resolve to loopback (DNS rebinding) shows in Host, and a
//! request from another site's page shows in Origin or Sec-Fetch-Site; both are refused.

use std::hint::black_box;
use std::iter;
use std::net::IpAddr;

use http::{HeaderMap, Method, StatusCode, Uri, header};

use super::problem::Problem;
use crate::model::{Admin, Bind, Secret};

/// Paths that anybody may read, wherever the address is bound.
const OPEN: [&str; 2] = ["/livez", "/readyz"];

const NO_TOKEN: &str = "nobody may do this at this address: set admin.token_file, ask for client certificates (admin.tls), \
                        or bind the admin address to a Unix socket";
const CERTIFICATE_NEEDED: &str = "show a certificate that one of admin.tls.client_ca has signed";

/// The rules for one admin address. The default lets nobody do anything.
#[derive(Debug, Default)]
pub(super) struct Guard {
    place: Place,
    token: Option<Secret>,
    protect_metrics: bool,
    asks_for_certificates: bool,
}

/// From where the address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    Loopback,
    Socket,
    #[default]
    Beyond,
}

impl Guard {
    /// The rules for this address.
    pub(super) fn new(admin: &Admin) -> Self {
        let place = match &admin.bind {
            Bind::Tcp(address) if address.ip().to_canonical().is_loopback() => Place::Loopback,
            Bind::Tcp(_) | Bind::Systemd(_) => Place::Beyond,
            Bind::Unix(_) => Place::Socket,
        };
        let asks_for_certificates = admin.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some());
        Self { place, token: admin.token.clone(), protect_metrics: admin.protect_metrics, asks_for_certificates }
    }

    /// Lets a request through or says why not. `is_certified`: its connection has shown a certificate of `client_ca`.
    pub(super) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        is_certified: bool,
    ) -> Result<(), Problem> {
        let writes = !matches!(*method, Method::GET | Method::HEAD);
        if self.place == Place::Loopback && !names_loopback(uri, headers) {
            let detail = "this address answers only to localhost and loopback addresses in Host";
            return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_host", detail));
        }
        if writes && from_another_site(headers) {
            let detail = "a page of another site may not write here";
            return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail));
        }
        // A configuration that no longer asks for certificates takes none, on connections from before as well.
        if !self.needs_leave(writes, uri.path()) || is_certified && self.asks_for_certificates {
            return Ok(());
        }
        let Some(token) = &self.token else {
            return Err(match self.asks_for_certificates {
                true => Problem::new(StatusCode::FORBIDDEN, "certificate_needed", CERTIFICATE_NEEDED),
                false => Problem::new(StatusCode::FORBIDDEN, "no_token_configured", NO_TOKEN),
            });
        };
        match bearer(headers) {
            Some(given) if same(given, token.0.as_bytes()) => Ok(()),
            Some(_) => {
                Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong_token", "the token is not the configured one"))
            }
            None => Err(Problem::new(StatusCode::UNAUTHORIZED, "token_needed", "send one Authorization: Bearer TOKEN")),
        }
    }

    /// Whether the token or a certificate is needed.
    fn needs_leave(&self, writes: bool, path: &str) -> bool {
        match self.place {
            Place::Socket => writes && self.token.is_some(),
            Place::Loopback => writes,
            Place::Beyond if writes => true,
            Place::Beyond => !OPEN.contains(&path) && (path != "/metrics" || self.protect_metrics),
        }
    }
}

/// Whether the request names this machine by a name that no DNS server decides. What stands in the target counts too.
fn names_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let in_target = uri.authority().map(|authority| authority.as_str());
    host.to_str().is_ok_and(is_loopback) && in_target.is_none_or(is_loopback)
}

/// `localhost`, `127.0.0.1`, `[::1]`, with any port or none.
fn is_loopback(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, ""),
            Some((host, port)) if port.starts_with(':') => (host, &port[1..]),
            _ => return false,
        },
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let port_ok = port.bytes().all(|byte| byte.is_ascii_digit());
    let host_ok = match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost") && !authority.starts_with('['),
    };
    port_ok && host_ok
}

/// Whether a browser says that a page of another site sends this (Fetch Metadata; Origin where that is missing).
fn from_another_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    origin.is_none() || origin != host
}

/// The credentials of `Authorization: Bearer` (RFC 6750). Of two such fields none counts: which of them was meant?
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Whether what was given is the token, in a time that depends on the length of what was given, which its sender knows,
/// and on nothing else: every byte is compared, whether one before it differs or the token has ended.
fn same(given: &[u8], token: &[u8]) -> bool {
    let padded = token.iter().chain(iter::repeat(&0));
    let bytes = given.iter().zip(padded).fold(0_u8, |differ, (a, b)| black_box(differ | (a ^ b)));
    // `&`, not `&&`: both are worked out.
    black_box(bytes == 0) & black_box(given.len() == token.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(bind: &str, token: Option<&str>, protect_metrics: bool) -> Guard {
        let bind = match bind.strip_prefix("unix:") {
            Some(path) => Bind::Unix(path.into()),
            None => Bind::Tcp(bind.parse().unwrap()),
        };
        let token = token.map(|token| Secret(token.into()));
        Guard::new(&Admin { bind, token, token_file: None, tls: None, protect_metrics, state_file: None })
    }

    /// 200 stands for let through.
    fn ask(guard: &Guard, request: &str, fields: &[(&'static str, &str)]) -> u16 {
        let (method, target) = request.split_once(' ').unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let checked = guard.check(&method.parse().unwrap(), &target.parse().unwrap(), &headers, false);
        checked.map_or_else(|problem| axum::response::IntoResponse::into_response(problem).status().as_u16(), |()| 200)
    }

    const LOCAL: (&str, &str) = ("host", "localhost:9600");
    const AWAY: (&str, &str) = ("host", "gate.example.com:9600");
    const GOOD: (&str, &str) = ("authorization", "Bearer s3cret");
    const BAD: (&str, &str) = ("authorization", "Bearer s3cres");

    #[test]
    fn the_token_rules() {
        let loopback = guard("127.0.0.1:9600", None, false);
        let loopback_token = guard("[::1]:9600", Some("s3cret"), true);
        let socket = guard("unix:/run/admin.sock", None, false);
        let socket_token = guard("unix:/run/admin.sock", Some("s3cret"), false);
        let beyond = guard("0.0.0.0:9600", None, false);
        let beyond_token = guard("[::]:9600", Some("s3cret"), false);
        let beyond_protected = guard("10.0.0.1:9600", Some("s3cret"), true);
        for (guard, request, fields, expected) in [
            (&loopback, "GET /api/v1/status", vec![LOCAL], 200),
            (&loopback, "POST /api/v1/reload", vec![LOCAL], 403),
            (&loopback, "POST /api/v1/reload", vec![LOCAL, GOOD], 403),
            (&loopback_token, "GET /api/v1/status", vec![LOCAL], 200),
            (&loopback_token, "GET /metrics", vec![LOCAL], 200),
            (&loopback_token, "POST /api/v1/reload", vec![LOCAL], 401),
            (&loopback_token, "POST /api/v1/reload", vec![LOCAL, BAD], 401),
            (&loopback_token, "POST /api/v1/reload", vec![LOCAL, GOOD], 200),
            (&loopback_token, "POST /api/v1/reload", vec![LOCAL, GOOD, BAD], 401),
            (&loopback_token, "POST /api/v1/reload", vec![LOCAL, BAD, GOOD], 401),
            (&loopback_token, "DELETE /anything", vec![LOCAL], 401),
            (&socket, "POST /api/v1/reload", vec![AWAY], 200),
            (&socket_token, "GET /api/v1/status", vec![AWAY], 200),
            (&socket_token, "POST /api/v1/reload", vec![AWAY], 401),
            (&beyond, "GET /livez", vec![AWAY], 200),
            (&beyond, "GET /readyz", vec![AWAY], 200),
            (&beyond, "GET /metrics", vec![AWAY], 200),
            (&beyond, "GET /api/v1/status", vec![AWAY], 403),
            (&beyond, "GET /api/v1/status", vec![AWAY, GOOD], 403),
            (&beyond, "POST /api/v1/reload", vec![AWAY], 403),
            (&beyond, "POST /livez", vec![AWAY], 403),
            (&beyond_token, "GET /metrics", vec![AWAY], 200),
            (&beyond_token, "GET /api/v1/status", vec![AWAY], 401),
            (&beyond_token, "GET /api/v1/status", vec![AWAY, GOOD], 200),
            (&beyond_token, "POST /api/v1/reload", vec![AWAY, GOOD], 200),
            (&beyond_token, "GET /metrics/", vec![AWAY], 401),
            (&beyond_protected, "GET /metrics", vec![AWAY], 401),
            (&beyond_protected, "GET /metrics", vec![AWAY, GOOD], 200),
            (&beyond_protected, "GET /readyz", vec![AWAY], 200),
        ] {
            assert_eq!(ask(guard, request, &fields), expected, "{guard:?} {request} {fields:?}");
        }
    }

    #[test]
    fn credentials_are_read_as_rfc_6750_says() {
        let guard = guard("127.0.0.1:9600", Some("s3cret"), false);
        for (value, expected) in [
            ("Bearer s3cret", 200),
            ("bearer  s3cret ", 200),
            ("Bearer", 401),
            ("Bearer ", 401),
            ("Bearer s3cret2", 401),
            ("Basic s3cret", 401),
            ("", 401),
        ] {
            assert_eq!(ask(&guard, "POST /x", &[LOCAL, ("authorization", value)]), expected, "{value:?}");
        }
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same(b"s3cret", b"s3cret"));
        let others: [&[u8]; 8] = [b"", b"s", b"s3cre", b"s3crets", b"r3cret", b"s3creu", b"s3crets3cret", b"s3cret\0"];
        for given in others {
            assert!(!same(given, b"s3cret") && !same(b"s3cret", given), "{}", given.escape_ascii());
        }
    }

    #[test]
    fn hosts_on_loopback() {
        let guard = guard("127.0.0.1:9600", None, false);
        for (host, expected) in [
            ("localhost", 200),
            ("LocalHost:1", 200),
            ("127.0.0.1:9600", 200),
            ("127.8.9.1", 200),
            ("[::1]:9600", 200),
            ("[::1]", 200),
            ("[::ffff:127.0.0.1]", 200),
            ("localhost.evil.example", 403),
            ("evil.example", 403),
            ("evil.example:9600", 403),
            ("10.0.0.1", 403),
            ("[::2]", 403),
            ("[::1", 403),
            ("[::1]x", 403),
            ("[localhost]", 403),
            ("localhost:x", 403),
            ("user@localhost", 403),
            ("", 403),
        ] {
            assert_eq!(ask(&guard, "GET /metrics", &[("host", host)]), expected, "{host:?}");
        }
        assert_eq!(ask(&guard, "GET /livez", &[]), 403);
        assert_eq!(ask(&guard, "GET /livez", &[LOCAL, LOCAL]), 403);
        assert_eq!(ask(&guard, "GET http://evil.example/livez", &[LOCAL]), 403);
        assert_eq!(ask(&guard, "GET http://127.0.0.1/livez", &[LOCAL]), 200);
    }

    #[test]
    fn pages_of_other_sites_do_not_write() {
        let guard = guard("127.0.0.1:9600", Some("s3cret"), false);
        for (name, value, expected) in [
            ("sec-fetch-site", "same-origin", 200),
            ("sec-fetch-site", "none", 200),
            ("sec-fetch-site", "cross-site", 403),
            ("sec-fetch-site", "same-site", 403),
            ("origin", "http://localhost:9600", 200),
            ("origin", "http://localhost:3000", 403),
            ("origin", "null", 403),
        ] {
            assert_eq!(ask(&guard, "POST /api/v1/reload", &[LOCAL, GOOD, (name, value)]), expected, "{name}: {value}");
            assert_eq!(ask(&guard, "GET /api/v1/status", &[LOCAL, (name, value)]), 200, "{name}: {value}");
        }
    }
}
