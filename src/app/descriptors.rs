//! How many descriptors this process may have, and how many clients that is.
//!
//! Each request holds two, one to the client and one to the backend. A limit on connections that descriptors can't hold
//! would end in failing connects to backends, so it is lowered to what they can: then the client that is one too many is
//! told so, and the others do not notice.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::model::Limits;

/// Kept for listeners, checks, logs and the admin address: this many, or a quarter where there are few.
const RESERVE: u64 = 100;

/// Raises the soft limit (often 1,024, for programs that use select(2)) to the hard one. Gives back how many client
/// connections there can be.
pub(super) fn raise() -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    connections(getrlimit(Resource::Nofile).current)
}

/// Says so if the configuration wants more.
pub(super) fn compare(limits: &Limits, max_connections: u32) {
    if limits.max_connections > max_connections {
        tracing::warn!(
            max_connections,
            configured = limits.max_connections,
            "limits.max_connections is lowered to what the limit of open files allows"
        );
    }
}

/// `None`: there is no limit of open files.
fn connections(files: Option<u64>) -> u32 {
    let Some(files) = files else { return u32::MAX };
    u32::try_from((files - RESERVE.min(files / 4)) / 2).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptors_a_connection_and_some_are_kept() {
        for (files, expected) in [(0, 0), (64, 24), (1024, 462), (20_000, 9_950), (1 << 20, 524_238)] {
            assert_eq!(connections(Some(files)), expected, "{files}");
        }
        assert_eq!(connections(None), u32::MAX);
        assert_eq!(connections(Some(u64::MAX)), u32::MAX);
    }
}
