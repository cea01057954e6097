//! Headers of the PROXY protocol: none makes it panic, none is read beyond its end, and what was read is written and read
//! again as the same.

use shardgate::message::proxy_protocol::{Header, MAX, scan, write};
use shardgate::model::ProxyProtocol;

/// What a connection begins with.
pub fn check(bytes: &[u8]) {
    let Ok(Some((header, used))) = scan(bytes) else { return };
    assert!(used <= bytes.len() && used <= MAX);
    assert_eq!(scan(&bytes[..used]), Ok(Some((header, used))));
    for cut in 0..used.min(120) {
        assert_eq!(scan(&bytes[..cut]), Ok(None));
    }
    if let Header::Proxied { source, destination } = header {
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let written = write(version, Some(source), Some(destination));
            let Ok(Some((Header::Proxied { source: again, .. }, length))) = scan(&written) else {
                panic!("{header:?}")
            };
            assert_eq!(length, written.len());
            assert_eq!((again.ip().to_canonical(), again.port()), (source.ip().to_canonical(), source.port()));
        }
    }
}
