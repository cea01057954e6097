//! The PROXY protocol, versions 1 and 2: who a proxy connects for, said once, before anything else on the connection.
//!
//! By the specification of HAProxy (`doc/proxy-protocol.txt`, revision of 2020/03/05), read strictly: whatever it does
//! not allow is refused, since a receiver that guesses believes in addresses that nobody sent. The text of version 1 is
//! found by its end of line, the block of version 2 by its length, so that not a byte of what follows is touched. Of the
//! block's extensions (TLVs) only the checksum means something here; the rest must be well formed and is skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::ProxyProtocol;

/// A header is not longer than this. Version 1 has a limit of its own; the block of version 2 could be 64 KiB.
pub const MAX: usize = 4096;

/// The longest line of version 1, its end included.
const MAX_LINE: usize = 107;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// The type of the TLV that holds a checksum of the whole header.
const CRC32C: u8 = 0x03;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The proxy connects for itself, as for its health checks.
    Local,
    /// It connects for somebody whose address it does not say: `UNKNOWN`, no family, a Unix socket.
    Unknown,
    /// It connects for this client, which connected there.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// Where the client connected to.
        destination: SocketAddr,
    },
}

/// Bytes that do not begin a header, with the rule that they break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Reads a header at the front of `bytes`, and how long it is. `None`: it is not whole, and every byte is of it.
///
/// # Errors
/// The rule that is broken, as soon as that can be seen.
pub fn scan(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(a, b)| a == b);
    if begins(V1) {
        line(bytes)
    } else if begins(V2) {
        block(bytes)
    } else {
        Err(Malformed("no PROXY header"))
    }
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let within = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let Some(end) = within.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() >= MAX_LINE { Err(Malformed("the line is too long")) } else { Ok(None) };
    };
    let text = within.get(V1.len()..end).and_then(|text| text.strip_suffix(b"\r"));
    let text = text.ok_or(Malformed("the line does not end in CR LF"))?;
    if text.iter().any(|byte| !matches!(byte, b' '..=b'~')) {
        return Err(Malformed("the line is not plain text"));
    }
    let mut words = text.split(|&byte| byte == b' ');
    let header = match words.next() {
        // What follows may be anything, and is to be ignored.
        Some(b"UNKNOWN") => Header::Unknown,
        Some(b"TCP4") => proxied::<Ipv4Addr>(words)?,
        Some(b"TCP6") => proxied::<Ipv6Addr>(words)?,
        _ => return Err(Malformed("the line has an unknown family")),
    };
    Ok(Some((header, end + 1)))
}

/// `SOURCE DESTINATION PORT PORT`, one space between.
fn proxied<'a, A>(mut words: impl Iterator<Item = &'a [u8]>) -> Result<Header, Malformed>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut word = || words.next().and_then(|word| str::from_utf8(word).ok()).ok_or(Malformed("the line is too short"));
    let address = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| Malformed("not an address of its family"));
    let (source, destination) = (address(word()?)?, address(word()?)?);
    let (from, to) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(Malformed("the line goes on after the ports"));
    }
    Ok(Header::Proxied { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) })
}

fn port(text: &str) -> Result<u16, Malformed> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| canonical).ok_or(Malformed("not a port"))
}

/// Version 2.
fn block(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    // What is wrong shows before the rest has come.
    let kind = bytes.get(V2.len()).copied();
    if kind.is_some_and(|kind| !matches!(kind, 0x20 | 0x21)) {
        return Err(Malformed("an unknown version or command"));
    }
    let (Some(kind), Some(&family), Some(&[high, low])) = (kind, bytes.get(13), bytes.get(14..FIXED)) else {
        return Ok(None);
    };
    let end = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if end > MAX {
        return Err(Malformed("the header is too long"));
    }
    let Some(rest) = bytes.get(FIXED..end) else { return Ok(None) };
    // Of what a proxy says of itself, nothing is used, the family included.
    if kind == 0x20 {
        return Ok(Some((Header::Local, end)));
    }
    let (header, extensions) = match family {
        // Nobody can tell where addresses of no family end.
        0x00 => return Ok(Some((Header::Unknown, end))),
        0x11 => addresses::<4>(rest).ok_or(Malformed("the addresses are cut off"))?,
        0x21 => addresses::<16>(rest).ok_or(Malformed("the addresses are cut off"))?,
        0x31 => (Header::Unknown, rest.get(216..).ok_or(Malformed("the addresses are cut off"))?),
        0x12 | 0x22 | 0x32 => return Err(Malformed("datagrams over a stream")),
        _ => return Err(Malformed("an unknown family or transport")),
    };
    check(bytes.get(..end).unwrap_or_default(), end - extensions.len())?;
    Ok(Some((header, end)))
}

/// Source, destination and their ports, and what follows.
fn addresses<const N: usize>(block: &[u8]) -> Option<(Header, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk()?;
    let (to, rest) = rest.split_first_chunk()?;
    let source = SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes(*from));
    let destination = SocketAddr::new(IpAddr::from(*destination), u16::from_be_bytes(*to));
    Some((Header::Proxied { source, destination }, rest))
}

/// Walks the TLVs of a whole header, which begin at `at`, and verifies the checksum if there is one.
fn check(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    let mut verified = false;
    while let Some(&[kind, high, low, ref rest @ ..]) = header.get(at..) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = rest.get(..length).ok_or(Malformed("an extension is cut off"))?;
        at += 3;
        if kind == CRC32C {
            let stated: [u8; 4] = value.try_into().map_err(|_| Malformed("a checksum of another length"))?;
            // It is that of the header with zeros in its place.
            let (before, after) = (header.get(..at).unwrap_or_default(), rest.get(length..).unwrap_or_default());
            let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after);
            if verified || sum.to_be_bytes() != stated {
                return Err(Malformed("the checksum is wrong"));
            }
            verified = true;
        }
        at += length;
    }
    if at == header.len() { Ok(()) } else { Err(Malformed("an extension is cut off")) }
}

/// The header for a connection of our own. `None` for the source: nobody can say who it is for.
pub fn write(version: ProxyProtocol, source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Vec<u8> {
    let ends = source.map(|source| same_family(source, destination));
    match (version, ends) {
        (ProxyProtocol::Off, _) => Vec::new(),
        (ProxyProtocol::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyProtocol::V1, Some((source, destination))) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.port(), destination.port());
            format!("PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip()).into_bytes()
        }
        (ProxyProtocol::V2, None) => v2(0x21, 0x00, &[]),
        (ProxyProtocol::V2, Some((source, destination))) => {
            let (mut body, mut family) = (Vec::with_capacity(36), 0x11);
            for end in [source, destination] {
                match end.ip() {
                    IpAddr::V4(ip) => body.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => {
                        family = 0x21;
                        body.extend_from_slice(&ip.octets());
                    }
                }
            }
            body.extend_from_slice(&source.port().to_be_bytes());
            body.extend_from_slice(&destination.port().to_be_bytes());
            v2(0x21, family, &body)
        }
    }
}

/// The header for a connection that is made for nobody: a health check.
pub fn write_local(version: ProxyProtocol) -> Vec<u8> {
    match version {
        ProxyProtocol::V2 => v2(0x20, 0x00, &[]),
        other => write(other, None, None),
    }
}

fn v2(kind: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or_default();
    let mut out = Vec::with_capacity(FIXED + body.len());
    out.extend_from_slice(V2);
    out.extend_from_slice(&[kind, family]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// Both of one family: a header has no other. A destination that has no address becomes the unspecified one.
fn same_family(source: SocketAddr, destination: Option<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    let source = plain(source);
    let nowhere: IpAddr = if source.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let destination = destination.map_or(SocketAddr::new(nowhere, 0), plain);
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    (mapped(source), mapped(destination))
}

#[cfg(test)]
mod tests;
