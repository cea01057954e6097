//! The first phases of a request: route, key, pools. Or why there are none.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderValue;

use super::hosts::{Matched, Miss};
use super::{Chain, Index};
use crate::message::RequestHead;
use crate::message::key::{self, View};
use crate::model::{Action, AssetId, Key, Reason, RegionId, Route, Source, SourceKind};

/// What a request comes to.
#[derive(Debug, Clone, Copy)]
pub struct Resolved {
    /// The place of the route in [`Plan::routes`](crate::model::Plan::routes).
    pub route: usize,
    /// `None`: the route does not forward.
    pub target: Option<Target>,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// What it asks for.
    pub key: Key,
    /// The pools that may serve it. Not empty.
    pub chain: Chain,
}

/// Why a request goes nowhere.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// In a word.
    pub reason: Reason,
    /// With [`Reason::MethodNotAllowed`], the value of `Allow`.
    pub allow: Option<HeaderValue>,
    /// The route, if one matched; with [`Reason::MethodNotAllowed`], the first that has the path.
    pub route: Option<usize>,
    /// The key, if it could be read: with [`Reason::UnknownAsset`].
    pub key: Option<Key>,
}

/// Who wants to know how a key was found.
pub(super) trait Listener {
    /// A source was read. `value`: what it said; `None`: nothing.
    fn source(&mut self, of: Part, source: &Source, value: Option<&[u8]>, ending: Ending);
}

/// The two parts of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Asset,
    Region,
}

/// What reading a source led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Absent or empty: on to the next.
    Absent,
    /// Present, and decides.
    Decides,
    /// Present, but no such name; a lenient source lets the next one speak.
    FallsThrough,
    /// Present, but no such name, and that is that.
    Unknown,
}

/// Nobody.
impl Listener for () {
    fn source(&mut self, _: Part, _: &Source, _: Option<&[u8]>, _: Ending) {}
}

impl Index {
    /// The route, key and pools of a request. `client`: its address, as far as it is believed.
    pub fn resolve(&self, request: &RequestHead, client: Option<IpAddr>) -> Result<Resolved, Refusal> {
        self.resolve_told(&View::from(request), client, &mut ())
    }

    pub(super) fn resolve_told(
        &self,
        request: &View<'_>,
        client: Option<IpAddr>,
        listener: &mut impl Listener,
    ) -> Result<Resolved, Refusal> {
        let matched = self.hosts.find(request, &self.plan.routes).map_err(|miss| match miss {
            Miss::NoRoute => Refusal { reason: Reason::NoRoute, allow: None, route: None, key: None },
            Miss::Method { route, allow } => {
                Refusal { reason: Reason::MethodNotAllowed, allow: allow.cloned(), route: Some(route), key: None }
            }
        })?;
        let refuse = |reason, key| Refusal { reason, allow: None, route: Some(matched.route), key };
        let route = &self.plan.routes[matched.route];
        if route.action != Action::Forward {
            return Ok(Resolved { route: matched.route, target: None });
        }
        let reading = Reading { index: self, request, matched: &matched, route, client };
        let asset = reading.asset(listener).map_err(|reason| refuse(reason, None))?;
        let region = reading.region(listener).map_err(|reason| refuse(reason, None))?;
        let key = Key { asset, region };
        let chain = self.chain(key);
        if chain.is_empty() {
            return Err(refuse(Reason::UnknownAsset, Some(key)));
        }
        Ok(Resolved { route: matched.route, target: Some(Target { key, chain }) })
    }
}

/// One request, being read.
struct Reading<'a> {
    index: &'a Index,
    request: &'a View<'a>,
    matched: &'a Matched<'a>,
    route: &'a Route,
    client: Option<IpAddr>,
}

impl<'a> Reading<'a> {
    /// `Ok(None)`: a name that is not configured, which a `*` pool may still serve.
    fn asset(&self, listener: &mut impl Listener) -> Result<Option<AssetId>, Reason> {
        for source in &self.route.asset {
            let value = self.read(source);
            let asset = value.as_deref().and_then(|name| self.index.asset(name));
            let ending = match (&value, asset) {
                (None, _) => Ending::Absent,
                (Some(_), Some(_)) => Ending::Decides,
                (Some(_), None) if source.lenient => Ending::FallsThrough,
                (Some(_), None) => Ending::Unknown,
            };
            listener.source(Part::Asset, source, value.as_deref(), ending);
            if matches!(ending, Ending::Decides | Ending::Unknown) {
                return Ok(asset);
            }
        }
        Err(Reason::NoAsset)
    }

    fn region(&self, listener: &mut impl Listener) -> Result<RegionId, Reason> {
        for source in &self.route.region {
            let (value, region) = match source.kind {
                SourceKind::ClientAddress => {
                    // An address without a region has no name that could be wrong: it says nothing.
                    let region = self.client.and_then(|client| self.index.region_of(client));
                    let name = region.and_then(|region| self.index.plan.regions.get(region.index()));
                    (name.map(|region| region.name.as_bytes().into()), region)
                }
                _ => {
                    let value = self.read(source);
                    let region = value.as_deref().and_then(|name| self.index.region(name));
                    (value, region)
                }
            };
            let ending = match (&value, region) {
                (None, _) => Ending::Absent,
                (Some(_), Some(_)) => Ending::Decides,
                (Some(_), None) if source.lenient => Ending::FallsThrough,
                (Some(_), None) => Ending::Unknown,
            };
            listener.source(Part::Region, source, value.as_deref(), ending);
            match ending {
                Ending::Decides => return region.ok_or(Reason::UnknownRegion),
                Ending::Unknown => return Err(Reason::UnknownRegion),
                Ending::Absent | Ending::FallsThrough => {}
            }
        }
        Ok(self.index.plan.server.default_region)
    }

    fn read(&self, source: &'a Source) -> Option<Cow<'a, [u8]>> {
        let (path, host) = (|name: &str| self.matched.path(name), |name: &str| self.matched.host(self.route, name));
        key::read(&source.kind, self.request, path, host)
    }
}
