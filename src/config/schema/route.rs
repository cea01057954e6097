//! `[[routes]]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::pool::{Retry, Timeouts};
use super::{Duration, Size, Switch};

/// Which requests, how their key is read, and what happens to them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Default: its path.
    name: Option<String>,
    /// A name, `*.` and a name, or `{capture}.` and a name. Default: any host.
    hosts: Option<Vec<String>>,
    /// Default: any method.
    methods: Option<Vec<String>>,
    /// A template: `{name}` captures a segment, `{*name}` at the end a subtree. Default: every target.
    path: Option<String>,
    /// Where the asset is read from. Default: path:asset and host:asset, whichever the route has.
    asset: Option<Sources>,
    /// Where the region is read from. Default: header:x-region, then client-address.
    region: Option<Sources>,
    /// Until the response head, retries included. Default: "15s".
    timeout: Option<Duration>,
    /// Over the pool's; false: never.
    retry: Option<Switch<Retry>>,
    /// Over the pool's.
    timeouts: Option<Timeouts>,
    /// Over that of [limits].
    max_body_bytes: Option<Size>,
    /// The protocols that a client may switch to, such as "websocket". Default: [].
    upgrade: Option<Vec<String>>,
    /// Whether a request with an Idempotency-Key may be repeated like one of an idempotent method. Default: false.
    idempotency_key: Option<bool>,
    /// Whether a GET, HEAD or OPTIONS that takes longer than 95 % of the pool's is sent to a second backend as well, at
    /// most one in twenty. Default: false.
    hedge: Option<bool>,
    /// How the target is changed before it is forwarded.
    rewrite: Option<Rewrite>,
    /// Fields to remove and to set.
    headers: Option<Headers>,
    /// Answer with a redirect to this template of {host} and {target}.
    redirect: Option<String>,
    /// Answer with this.
    respond: Option<Respond>,
}

/// path:NAME query:NAME header:NAME cookie:NAME host:NAME const:NAME client-address; a `?` before the colon lets a
/// name that does not exist fall through to the next source.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Sources {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewrite {
    /// Taken off the front of the path.
    strip_prefix: Option<String>,
    /// Put before what is left.
    add_prefix: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Headers {
    /// Before the request is forwarded.
    request: Option<Edits>,
    /// On every response of this route.
    response: Option<Edits>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Edits {
    /// One field each, in place of any of that name.
    set: Option<BTreeMap<String, String>>,
    /// Every field of these names goes.
    remove: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Respond {
    /// 200 to 599.
    #[schemars(range(min = 200, max = 599))]
    status: u16,
    /// Default: empty.
    body: Option<String>,
}
