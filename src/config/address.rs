//! Addresses and prefixes: of backends, of listeners, of clients.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::context::Context;
use super::decode::{expected_help, string};
use super::diagnostic::Fault;
use super::tree::{Kind, Value};
use crate::model::{Address, Bind};

/// A backend's: `10.1.0.11:8000`, `[2001:db8::1]:8000`, `btc.internal:8000`, `unix:/run/btc.sock`.
pub(super) fn address(cx: &Context<'_>, value: &Value<'_>) -> Option<Address> {
    let text = string(cx, value)?;
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            cx.note(Fault::error(value.span, "a Unix socket without a path").help("such as \"unix:/run/btc.sock\""));
            return None;
        }
        return unix(cx, value, path).map(|path| Address::Unix(path.into()));
    }
    match parse_address(text) {
        Ok(address) => Some(address),
        Err(help) => {
            cx.note(Fault::error(value.span, format!("`{text}` is not an address")).help(help));
            None
        }
    }
}

/// The path of a Unix socket. The kernel takes 107 bytes (`unix(7)`).
fn unix(cx: &Context<'_>, value: &Value<'_>, path: &str) -> Option<PathBuf> {
    const MOST: usize = 107;
    let path = cx.resolve(value.span, path);
    let bytes = path.as_os_str().len();
    if bytes > MOST {
        let fault = Fault::error(value.span, "the path of this Unix socket is too long");
        cx.note(fault.label(format!("{bytes} bytes with its directory; {MOST} at most")));
        return None;
    }
    Some(path)
}

/// Without `unix:`; or a hint.
fn parse_address(text: &str) -> Result<Address, String> {
    const USAGE: &str = "host:port, [IPv6]:port or unix:/path, such as \"10.1.0.11:8000\"";
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err("a backend's port is 1 to 65535".to_owned()),
            _ => Ok(Address::Ip(address)),
        };
    }
    for scheme in ["http://", "https://", "tcp://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            let bare = rest.split('/').next().unwrap_or(rest);
            return Err(match scheme {
                "https://" => {
                    format!("an address has no scheme: \"{bare}\" (and `tls = true` in its pool)")
                }
                _ => format!("an address has no scheme: \"{bare}\""),
            });
        }
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => return Err(format!("add a port: \"{ip}:8000\"")),
        Ok(IpAddr::V6(ip)) => return Err(format!("add brackets and a port: \"[{ip}]:8000\"")),
        Err(_) => {}
    }
    if let Some((bare, _)) = text.split_once(char::is_whitespace)
        && parse_address(bare).is_ok()
    {
        return Err(format!("what else there is to say stands in a table: {{ address = \"{bare}\", weight = 2 }}"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(if is_host_name(text) { format!("add a port: \"{text}:8000\"") } else { USAGE.to_owned() });
    };
    let is_ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if !is_host_name(host) && !is_ip {
        return Err(USAGE.to_owned());
    }
    // `parse` alone would take a sign.
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(_) if is_ip => Err(USAGE.to_owned()),
        Ok(port @ 1..) if digits => Ok(Address::Name(host.to_ascii_lowercase().into(), port)),
        _ => Err("a backend's port is 1 to 65535".to_owned()),
    }
}

/// RFC 1123, with the underscore that service names use; its last label is not a number, else it is a bad IPv4 address.
pub(super) fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or("");
    text.len() <= 253 && text.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

/// A listener's or the admin address: `0.0.0.0:8080`, `[::]:8080`, `unix:/run/x.sock`, `systemd:public`.
pub(super) fn bind(cx: &Context<'_>, value: &Value<'_>) -> Option<Bind> {
    if let Kind::Integer(port) = value.kind {
        expected_help(cx, value, "an address", Some(format!("such as \"0.0.0.0:{port}\" or \"127.0.0.1:{port}\"")));
        return None;
    }
    let text = string(cx, value)?;
    let help = match text.split_once(':') {
        Some(("unix", "")) => "with a path: \"unix:/run/shardgate/http.sock\"".to_owned(),
        Some(("unix", path)) => return unix(cx, value, path).map(Bind::Unix),
        Some(("systemd", "")) => "with the socket unit's FileDescriptorName: \"systemd:public\"".to_owned(),
        Some(("systemd", name)) => return Some(Bind::Systemd(name.to_owned())),
        _ => match text.parse() {
            Ok(address) => return Some(Bind::Tcp(address)),
            Err(_) => bind_help(text),
        },
    };
    cx.note(Fault::error(value.span, format!("`{text}` is not an address to listen on")).help(help));
    None
}

fn bind_help(text: &str) -> String {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return format!("add a port: \"{}\"", SocketAddr::new(ip, 8080));
    }
    match text.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            format!("\"0.0.0.0:{port}\" for IPv4, \"[::]:{port}\" for IPv4 and IPv6")
        }
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => {
            format!("an IP address instead of a name: \"127.0.0.1:{port}\"")
        }
        Some((host, port)) if is_host_name(host) && port.parse::<u16>().is_ok() => {
            "an IP address instead of a name, such as \"0.0.0.0:8080\"".to_owned()
        }
        _ => "IP:port, unix:PATH or systemd:NAME, such as \"0.0.0.0:8080\"".to_owned(),
    }
}

/// `10.1.0.0/16`, `2001:db8::/32`; a single address stands for itself.
pub(super) fn prefix(cx: &Context<'_>, value: &Value<'_>) -> Option<IpNet> {
    let text = string(cx, value)?;
    let help = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(net), _) if is_mapped(net.addr()) => {
            "write the IPv4 prefix: clients' addresses are compared as IPv4".to_owned()
        }
        (Ok(net), _) if net.trunc() != net => format!("bits are set beyond the prefix: \"{}\"", net.trunc()),
        (Ok(net), _) => return Some(net),
        (_, Ok(ip)) if is_mapped(ip) => format!("write the IPv4 address: \"{}\"", ip.to_canonical()),
        (_, Ok(ip)) => return Some(IpNet::from(ip)),
        _ => "an address and its length, such as \"10.1.0.0/16\" or \"2001:db8::/32\"".to_owned(),
    };
    cx.note(Fault::error(value.span, format!("`{text}` is not a network prefix")).help(help));
    None
}

fn is_mapped(ip: IpAddr) -> bool {
    ip.to_canonical() != ip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_addresses() {
        assert_eq!(parse_address("10.1.0.11:8000").map(|a| a.to_string()), Ok("10.1.0.11:8000".to_owned()));
        assert_eq!(parse_address("[2001:DB8::1]:80").map(|a| a.to_string()), Ok("[2001:db8::1]:80".to_owned()));
        assert_eq!(parse_address("BTC-2.Internal:8000"), Ok(Address::Name("btc-2.internal".into(), 8000)));
        assert_eq!(parse_address("_x._tcp.local.:1"), Ok(Address::Name("_x._tcp.local.".into(), 1)));
        let hint = |text| parse_address(text).expect_err(text);
        assert_eq!(hint("10.1.0.11"), "add a port: \"10.1.0.11:8000\"");
        assert_eq!(hint("::1"), "add brackets and a port: \"[::1]:8000\"");
        assert_eq!(hint("http://a.b:80/x"), "an address has no scheme: \"a.b:80\"");
        assert_eq!(hint("a.b"), "add a port: \"a.b:8000\"");
        assert!(hint("a.b:0").contains("port") && hint("a.b:70000").contains("port") && hint("a.b:").contains("port"));
        for bad in ["", ":80", "a b:80", "300.1.1.1:80", "-a:80", "a..b:80", "[::1:80", "é:80", "a:80:81"] {
            hint(bad);
        }
    }
}
