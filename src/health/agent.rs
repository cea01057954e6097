//! One question to an agent: connect, inside TLS if its backend is spoken to so, and read a line.
//!
//! Nothing is sent. A failure of any kind says nothing of the server: whether that can be reached is for its own checks
//! to find out (HAProxy, `doc/configuration.txt`, "agent-check").

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::backend::{AgentLine, Check, Tls};
use crate::model::Address;
use crate::upstream::dial_agent;

/// Bytes of a line. A longer one is none.
const MAX_LINE: usize = 512;

/// What an agent said, as it came and as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: Vec<u8>,
    pub(super) said: AgentLine,
}

/// Asks once.
pub(super) async fn ask(check: &Check) -> Option<Line> {
    let Address::Ip(address) = &check.backend.identity.address else { return None };
    let address = Address::Ip(SocketAddr::new(address.ip(), check.settings.agent?.get()));
    timeout(check.settings.timeout, line(&address, check.backend.tls.as_deref())).await.ok()?
}

async fn line(address: &Address, tls: Option<&Tls>) -> Option<Line> {
    let mut stream = dial_agent(address, tls).await.ok()?;
    let mut text = Vec::with_capacity(64);
    loop {
        if let Some(end) = text.iter().position(|&b| b == b'\n') {
            text.truncate(end);
            break;
        }
        if text.len() >= MAX_LINE {
            return None;
        }
        text.reserve(64);
        // One that closes without an end of line has said all it has to say.
        if stream.read_buf(&mut text).await.ok()? == 0 {
            break;
        }
    }
    let said = AgentLine::parse(&text)?;
    Some(Line { text, said })
}
