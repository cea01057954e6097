//! A route: which requests, how their key is read, and what is changed on the way.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{RetryOverride, TimeoutsOverride};

/// Which requests, and what happens to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Unique; the path unless said otherwise.
    pub name: String,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    /// Empty: any method.
    pub methods: Vec<Method>,
    /// A matchit template; `None`: every target, `*` included.
    pub path: Option<String>,
    /// Where the asset is read from, in order. Not empty when `action` is `Forward`.
    pub asset: Vec<Source>,
    /// Where the region is read from, in order.
    pub region: Vec<Source>,
    /// Until the response head, retries included.
    pub timeout: Duration,
    /// Over the pool's.
    pub retry: RetryOverride,
    /// Whether a request with an `Idempotency-Key` may be repeated like one of an idempotent method.
    pub idempotency_key: bool,
    /// Whether a request of a safe method that takes long is sent to a second backend as well.
    pub hedge: bool,
    /// Over the pool's.
    pub timeouts: TimeoutsOverride,
    /// Over `[limits]`.
    pub max_body_bytes: Option<u64>,
    /// The protocols that a client may switch to, in lower case.
    pub upgrade: Vec<Box<str>>,
    /// Pools, or an answer of our own.
    pub action: Action,
    /// `None`: the target goes through byte for byte.
    pub rewrite: Option<Rewrite>,
    /// Applied to the request before it is forwarded, after our own fields are set.
    pub request_headers: HeaderEdits,
    /// Applied to every response of this route.
    pub response_headers: HeaderEdits,
}

/// One entry of `hosts`, in lower case, without a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `api.example.com`
    Exact(String),
    /// `*.example.org`: one or more labels before the suffix, which is kept with its leading dot.
    Wildcard(String),
    /// `{asset}.api.example.com`: exactly one label before the suffix, which can be read as `host:asset`.
    Capture {
        /// `asset`
        name: String,
        /// `.api.example.com`
        suffix: String,
    },
}

/// One place a key can be read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where.
    pub kind: SourceKind,
    /// `header?:x-region`: a name that does not exist falls through to the next source instead of failing.
    pub lenient: bool,
}

/// See [`Source`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// A capture of the path template.
    Path(String),
    /// A query parameter.
    Query(String),
    /// A header field.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A capture of the host pattern.
    Host(String),
    /// `[regions.*] clients`, longest prefix first. For regions only.
    ClientAddress,
    /// Always this value.
    Const(String),
}

/// What a route does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Serve from pools.
    Forward,
    /// 308 (301 for GET and HEAD) to a template of `{host}`, `{target}` and literal text.
    Redirect(String),
    /// An answer of our own.
    Respond {
        /// Its status.
        status: StatusCode,
        /// Its body, `text/plain` unless a response header says otherwise.
        body: String,
    },
}

impl Action {
    /// What the route answers by itself: the status and, for a redirect, where to. `None`: it forwards.
    pub fn own_answer(&self, method: &Method, host: &str, target: &str) -> Option<(StatusCode, Option<String>)> {
        match self {
            Self::Forward => None,
            Self::Redirect(template) => {
                // 301 lets clients turn a POST into a GET; 308 does not (RFC 9110, 15.4).
                let status = match *method {
                    Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
                    _ => StatusCode::PERMANENT_REDIRECT,
                };
                Some((status, Some(template.replace("{host}", host).replace("{target}", target))))
            }
            Self::Respond { status, .. } => Some((*status, None)),
        }
    }
}

/// How the target is changed. `strip_prefix` is applied first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Taken off the front of the path when it stands there and ends at a `/` or at the path's end.
    pub strip_prefix: Option<String>,
    /// Put before what is left.
    pub add_prefix: Option<String>,
}

/// Fields to remove and to set, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    /// Every field of these names goes.
    pub remove: Vec<HeaderName>,
    /// One field each, in place of any of that name.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }
}
