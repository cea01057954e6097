//! What a client is told that asked for something nobody serves: which word of its request it was.
//!
//! The request is read once more for that: whoever gets it right should not pay for what could be said of a wrong one.
//! What stands in a URL is repeated. What a cookie or a header field says is not: it may be a secret, or a proxy's word that
//! the client has not seen, and caches may keep a 404 for others.

use std::net::IpAddr;

use super::Index;
use super::explain::source_text;
use super::resolve::{Ending, Listener, Part, Refusal};
use crate::message::RequestHead;
use crate::message::key::View;
use crate::model::{Reason, Source, SourceKind};

/// Characters of a name that are repeated.
const MOST: usize = 64;

impl Index {
    /// Why a request was refused, for its client. `None`: the reason is all there is to say.
    #[cold]
    pub fn why(&self, request: &RequestHead, client: Option<IpAddr>, refusal: &Refusal) -> Option<String> {
        let mut heard = Heard { part: Part::Asset, ends: None };
        let known = refusal.key.and_then(|key| self.plan.assets.get(key.asset?.index()));
        match refusal.reason {
            Reason::NoAsset => {
                let sources = &self.plan.routes.get(refusal.route?)?.asset;
                Some(format!("no asset in {}", sources.iter().map(source_text).collect::<Vec<_>>().join(", ")))
            }
            Reason::UnknownAsset if let Some(asset) = known => {
                let region = self.plan.regions.get(refusal.key?.region.index())?;
                Some(format!("no pool serves {} in {} or where that falls back to", asset.name, region.name))
            }
            Reason::UnknownAsset | Reason::UnknownRegion => {
                if refusal.reason == Reason::UnknownRegion {
                    heard.part = Part::Region;
                }
                let _ = self.resolve_told(&View::from(request), client, &mut heard);
                heard.ends
            }
            _ => None,
        }
    }
}

/// Waits for the source of one part that decided against the request.
struct Heard {
    part: Part,
    ends: Option<String>,
}

impl Listener for Heard {
    fn source(&mut self, part: Part, source: &Source, value: Option<&[u8]>, ending: Ending) {
        if part == self.part
            && ending == Ending::Unknown
            && let Some(value) = value
        {
            let said = match source.kind {
                SourceKind::Cookie(_) | SourceKind::Header(_) => "something".to_owned(),
                _ => shortened(&String::from_utf8_lossy(value)),
            };
            self.ends = Some(format!("{} says {said}, which is not configured", source_text(source)));
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}
