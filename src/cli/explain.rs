//! `shardgate explain`: what a request would get, from the file alone.
//!
//! Nothing is connected to: every backend counts as usable, names are resolved once. The running daemon answers the same
//! question against its live state at `/api/v1/explain`.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Uri, header};

use super::fault::Fault;
use super::{check, print};
use crate::backend::{Identity, Registry};
use crate::model::{Address, Plan, PoolId, Role};
use crate::routing::{self, Index, Server};

/// The request that is not made.
#[derive(Debug, Args)]
pub(super) struct Request {
    /// A header field
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Where it would come from
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// Print the explanation as JSON
    #[arg(long)]
    json: bool,
    /// Its method, GET unless given, and its URL or only the path of one: `POST http://any.host/v1/x`, `/v1/x`
    #[arg(value_names = ["METHOD", "URL"], num_args = 1..=2, required = true)]
    request: Vec<String>,
}

/// Prints what it would get. A request that would get an error of our own is a fault of the request.
pub(super) fn explain(config: &Path, request: &Request) -> Result<(), Fault> {
    let parts = request.parts().map_err(Fault::Usage)?;
    let plan = Arc::new(check::load(config)?.plan);
    let index = Arc::new(Index::new(Arc::clone(&plan)));
    let mut registry = Registry::default();
    let snapshot = routing::build(index, 0, Instant::now(), |pool| members(&plan, pool, &mut registry));
    // A fixed seed: the same question gets the same answer.
    let mut random = fastrand::Rng::with_seed(0);
    let explanation = routing::explain(&snapshot, &parts, request.client, Instant::now(), &mut random);
    print(match request.json {
        true => serde_json::to_string_pretty(&explanation)? + "\n",
        false => explanation.to_string(),
    })?;
    match explanation.refusal {
        None => Ok(()),
        Some(refused) => Err(Fault::Wrong(format!("this request would be refused: {}", refused.reason))),
    }
}

impl Request {
    fn parts(&self) -> Result<http::request::Parts, String> {
        let (method, url) = match self.request.as_slice() {
            [url] => ("GET", url.as_str()),
            [method, url] => (method.as_str(), url.as_str()),
            _ => return Err("a method and a URL".into()),
        };
        let url: Uri = url
            .parse()
            .ok()
            .filter(|uri: &Uri| uri.scheme().is_some() || uri.authority().is_none())
            .ok_or_else(|| format!("{url:?} is neither a URL (http://host/path) nor a path (/path)"))?;
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is not a method"))?;
        for field in &self.headers {
            let pair = field.split_once(':').and_then(|(name, value)| {
                Some((name.trim().parse::<HeaderName>().ok()?, value.trim().parse::<HeaderValue>().ok()?))
            });
            let (name, value) = pair.ok_or_else(|| format!("{field:?} is not `name: value`"))?;
            parts.headers.append(name, value);
        }
        let host = url.authority().map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default());
        if let Some(host) = host.and_then(|host| HeaderValue::from_str(host).ok())
            && !parts.headers.contains_key(header::HOST)
        {
            parts.headers.insert(header::HOST, host);
        }
        parts.uri = url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")).into();
        Ok(parts)
    }
}

/// The servers of a pool's two tiers, unchecked. A name that can't be resolved has none.
fn members(plan: &Plan, pool: PoolId, registry: &mut Registry) -> [Vec<Server>; 2] {
    let mut tiers = [Vec::new(), Vec::new()];
    let Some(pool) = plan.pools.get(pool.index()) else { return tiers };
    let Some(region) = plan.regions.get(pool.region.index()) else { return tiers };
    for member in &pool.members {
        let tier = match member.role {
            Role::Primary => &mut tiers[0],
            Role::Replica => &mut tiers[1],
        };
        for address in resolved(&member.address) {
            let (protocol, tls) = (pool.settings.protocol, pool.settings.tls_to(&member.address));
            let backend = registry.backend(Identity { region: Arc::clone(&region.name), address, protocol, tls });
            tier.push(Server::new(backend, None, member.weight));
        }
    }
    tiers
}

fn resolved(address: &Address) -> Vec<Address> {
    match address {
        Address::Name(host, port) => match (&**host, *port).to_socket_addrs() {
            Ok(found) => found.map(Address::Ip).collect(),
            Err(_) => Vec::new(),
        },
        fixed => vec![fixed.clone()],
    }
}
