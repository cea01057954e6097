//! What a client is told that asked for something nobody serves: which word of its request it was.
//!
//! The request is read once more for that: whoever gets it right should not pay for what could be said of a wrong one.
//! What stands in a URL is repeated. What a cookie, a header field or the client's address says is not: it may be a secret, or
//! a proxy's word that the client has not seen, and caches may keep a 404 for others.

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
        let mut heard = Heard::default();
        match refusal.reason {
            Reason::NoAsset => {
                let sources = &self.plan.routes.get(refusal.route?)?.asset;
                let sources = sources.iter().map(source_text).collect::<Vec<_>>().join(", ");
                Some(format!("no configured asset in {sources}"))
            }
            Reason::UnknownAsset | Reason::UnknownRegion => {
                let _ = self.resolve_told(&View::from(request), client, &mut heard);
                heard.unknown.or_else(|| {
                    let asset = heard.asset.as_deref().unwrap_or("this asset");
                    let region = heard.region.as_deref().unwrap_or("this region");
                    Some(format!("no pool serves {asset} in {region} or where that falls back to"))
                })
            }
            _ => None,
        }
    }
}

/// What the sources said, as far as it is repeated.
#[derive(Default)]
struct Heard {
    asset: Option<String>,
    region: Option<String>,
    /// Of the source that decided against the request: a region's comes last, and is the reason then.
    unknown: Option<String>,
}

impl Listener for Heard {
    fn source(&mut self, part: Part, source: &Source, value: Option<&[u8]>, ending: Ending) {
        let is_open = match source.kind {
            SourceKind::Path(_) | SourceKind::Query(_) | SourceKind::Host(_) | SourceKind::Const(_) => true,
            SourceKind::Cookie(_) | SourceKind::Header(_) | SourceKind::ClientAddress => false,
        };
        let said = value.filter(|_| is_open).map(|value| shortened(&String::from_utf8_lossy(value)));
        match (ending, part) {
            (Ending::Unknown, _) => {
                let said = said.as_deref().unwrap_or("something");
                self.unknown = Some(format!("{} says {said}, which is not configured", source_text(source)));
            }
            (Ending::Decides, Part::Asset) => self.asset = said,
            (Ending::Decides, Part::Region) => self.region = said,
            (Ending::Absent | Ending::FallsThrough, _) => {}
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}
