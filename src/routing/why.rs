//! What a client is told that asked for something nobody serves: which word of its request it was.
//!
//! The request is read once more for that: whoever gets it right should not pay for what could be said of a wrong one.

use std::net::IpAddr;

use super::Index;
use super::explain::source_text;
use super::resolve::{Ending, Listener, Part, Refusal};
use crate::message::RequestHead;
use crate::message::key::View;
use crate::model::{Reason, Source};

/// Bytes of a name that are repeated.
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
            let (said, dots) = value.split_at_checked(MOST).map_or((value, ""), |(said, _)| (said, "…"));
            let (source, said) = (source_text(source), String::from_utf8_lossy(said));
            self.ends = Some(format!("{source} says {said}{dots}, which is not configured"));
        }
    }
}
