//! The fields that say who the client is: no value makes it panic, and whoever is found stands somewhere in them.

use shardgate::message::fields::Fields;
use shardgate::message::forwarded::client;

/// Values of such a field, a line each.
pub fn check(bytes: &[u8]) {
    let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let peer = "10.0.0.1".parse().ok();
    for name in ["X-Forwarded-For", "Forwarded"] {
        let mut fields = Fields::default();
        bytes.split(|&byte| byte == b'\n').for_each(|line| fields.push(name.as_bytes(), line));
        assert!(client(peer, &trusted, &fields).is_some());
        // From a stranger nothing is taken.
        let stranger = "192.0.2.1".parse().ok();
        assert_eq!(client(stranger, &trusted, &fields), stranger);
    }
}
