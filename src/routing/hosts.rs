//! Host, path and method to a route.
//!
//! Hosts first: an exact name, else the longest suffix, else the routes for any host; a request that belongs to a host
//! never falls through to a less specific one (a path that a host does not know is unknown, it is not another site's).
//! Then the path, raw: what is matched is what the backend will see. Then the method.

use http::{HeaderValue, Method};
use matchit::{Params, Router};

use crate::message::key::View;
use crate::model::{HostPattern, Names, Route};

/// A host name has at most 253 characters (RFC 1035, 2.3.4). What is longer has no suffix that is looked for, so that
/// a host of nothing but dots costs nothing.
const MAX_HOST: usize = 255;

/// All routes of a Plan, by host.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: Names,
    /// One label before the suffix. Asked before `wildcards` of the same suffix: it says more.
    captures: Names,
    /// One label or more before the suffix.
    wildcards: Names,
    has_exact: bool,
    has_suffixes: bool,
    any: Option<usize>,
    sites: Vec<Site>,
}

/// The routes of one host pattern.
#[derive(Debug, Default)]
struct Site {
    /// One, unless paths are ambiguous to matchit: those that conflict go to the next router, so that of two
    /// ambiguous routes the one that stands first in the file wins.
    routers: Vec<Router<usize>>,
    /// Routes without a path, if there are any.
    rest: Option<usize>,
    leaves: Vec<Leaf>,
}

/// The routes of one host and path, which differ in their methods.
#[derive(Debug, Default)]
struct Leaf {
    routes: Vec<Entry>,
    /// The path as matchit compares it.
    shape: Option<String>,
    /// The value of `Allow` when none of the methods matches.
    allow: Option<HeaderValue>,
}

#[derive(Debug)]
struct Entry {
    route: usize,
    /// In the order of the template. Routes with one shape may name their captures differently.
    captures: Box<[String]>,
}

/// A route and what its patterns captured.
pub(super) struct Matched<'a> {
    pub(super) route: usize,
    names: &'a [String],
    params: Params<'a, 'a>,
    /// The host's first label and the rest of it.
    host: Option<(&'a str, &'a str)>,
}

/// No route.
pub(super) enum Miss<'a> {
    NoRoute,
    /// A route has the path but not the method.
    Method {
        route: usize,
        allow: Option<&'a HeaderValue>,
    },
}

impl<'a> Matched<'a> {
    /// What the path template captured.
    pub(super) fn path(&self, name: &str) -> Option<&'a str> {
        let place = self.names.iter().position(|known| known == name)?;
        self.params.iter().nth(place).map(|(_, value)| value)
    }

    /// What a host pattern of this route captured.
    pub(super) fn host(&self, route: &Route, wanted: &str) -> Option<&'a str> {
        let (label, rest) = self.host?;
        let captures = |pattern: &HostPattern| match pattern {
            HostPattern::Capture { name, suffix } => name == wanted && suffix.eq_ignore_ascii_case(rest),
            _ => false,
        };
        route.hosts.iter().any(captures).then_some(label)
    }
}

impl Hosts {
    pub(super) fn new(routes: &[Route]) -> Self {
        let mut hosts = Self::default();
        for (number, route) in routes.iter().enumerate() {
            if route.hosts.is_empty() {
                let site = *hosts.any.get_or_insert_with(|| {
                    hosts.sites.push(Site::default());
                    hosts.sites.len() - 1
                });
                hosts.sites[site].add(number, route);
            }
            for pattern in &route.hosts {
                let site = hosts.site_of(pattern);
                hosts.sites[site].add(number, route);
            }
        }
        for leaf in hosts.sites.iter_mut().flat_map(|site| &mut site.leaves) {
            leaf.finish(routes);
        }
        hosts
    }

    fn site_of(&mut self, pattern: &HostPattern) -> usize {
        let (names, text) = match pattern {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Wildcard(suffix) => (&mut self.wildcards, suffix),
            HostPattern::Capture { suffix, .. } => (&mut self.captures, suffix),
        };
        let is_exact = matches!(pattern, HostPattern::Exact(_));
        self.has_exact |= is_exact;
        self.has_suffixes |= !is_exact;
        let next = self.sites.len();
        match names.insert(text, next as u32) {
            Ok(()) => {
                self.sites.push(Site::default());
                next
            }
            Err(known) => known as usize,
        }
    }

    /// The route of a request.
    pub(super) fn find<'a>(&'a self, request: &View<'a>, routes: &[Route]) -> Result<Matched<'a>, Miss<'a>> {
        let (site, host) = self.site(request);
        let site = site.and_then(|site| self.sites.get(site)).ok_or(Miss::NoRoute)?;
        let (leaf, params) = site.leaf(request.path).ok_or(Miss::NoRoute)?;
        match leaf.entry(request.method, routes) {
            Some(entry) => Ok(Matched { route: entry.route, names: &entry.captures, params, host }),
            None => match leaf.routes.first() {
                Some(first) => Err(Miss::Method { route: first.route, allow: leaf.allow.as_ref() }),
                None => Err(Miss::NoRoute),
            },
        }
    }

    /// The most specific site that knows the host, with the host in two if a capture pattern matched.
    fn site<'a>(&self, request: &View<'a>) -> (Option<usize>, Option<(&'a str, &'a str)>) {
        if !self.has_exact && !self.has_suffixes {
            return (self.any, None);
        }
        let host = request.host();
        if self.has_exact
            && let Some(site) = self.exact.find(host)
        {
            return (Some(site as usize), None);
        }
        if self.has_suffixes && host.len() <= MAX_HOST {
            // From the left, so the longest suffix comes first. Before the first dot there is a label.
            let dots = host.bytes().enumerate().skip(1).filter(|&(_, byte)| byte == b'.').map(|(at, _)| at);
            for (nth, at) in dots.enumerate() {
                let (before, suffix) = host.split_at(at);
                if nth == 0
                    && !before.starts_with('.')
                    && let Some(site) = self.captures.find(suffix)
                {
                    return (Some(site as usize), Some((before, suffix)));
                }
                if let Some(site) = self.wildcards.find(suffix) {
                    return (Some(site as usize), None);
                }
            }
        }
        (self.any, None)
    }
}

impl Site {
    fn add(&mut self, number: usize, route: &Route) {
        let (shape, captures) = match &route.path {
            Some(path) => {
                let (shape, captures) = shape(path);
                (Some(shape), captures)
            }
            None => (None, Vec::new()),
        };
        let known = self.leaves.iter().position(|leaf| leaf.shape == shape);
        let leaf = known.unwrap_or_else(|| {
            self.leaves.push(Leaf { shape, ..Leaf::default() });
            let leaf = self.leaves.len() - 1;
            match &route.path {
                Some(path) => self.insert(path, leaf),
                None => self.rest = Some(leaf),
            }
            leaf
        });
        let routes = &mut self.leaves[leaf].routes;
        // A route may name one host twice.
        if routes.last().is_none_or(|last| last.route != number) {
            routes.push(Entry { route: number, captures: captures.into() });
        }
    }

    fn insert(&mut self, path: &str, leaf: usize) {
        if self.routers.iter_mut().any(|router| router.insert(path, leaf).is_ok()) {
            return;
        }
        let mut router = Router::new();
        let inserted = router.insert(path, leaf);
        debug_assert!(inserted.is_ok(), "a Plan's templates are well formed: {path}");
        self.routers.push(router);
    }

    fn leaf<'a>(&'a self, path: &'a str) -> Option<(&'a Leaf, Params<'a, 'a>)> {
        let matched = self.routers.iter().find_map(|router| router.at(path).ok());
        let (leaf, params) = match matched {
            Some(matched) => (*matched.value, matched.params),
            None => (self.rest?, Params::new()),
        };
        Some((self.leaves.get(leaf)?, params))
    }
}

impl Leaf {
    fn finish(&mut self, routes: &[Route]) {
        let mut methods: Vec<&str> = Vec::new();
        for method in self.routes.iter().flat_map(|entry| &routes[entry.route].methods) {
            let implied = (*method == Method::GET).then_some("HEAD");
            for name in std::iter::once(method.as_str()).chain(implied) {
                if !methods.contains(&name) {
                    methods.push(name);
                }
            }
        }
        self.allow = HeaderValue::from_str(&methods.join(", ")).ok();
    }

    /// A route that names the method; else, for HEAD, one that names GET (RFC 9110, 9.3.2: the same but for the body);
    /// else one that takes any.
    fn entry(&self, method: &Method, routes: &[Route]) -> Option<&Entry> {
        let find = |wanted: &dyn Fn(&[Method]) -> bool| {
            self.routes.iter().find(|entry| routes.get(entry.route).is_some_and(|route| wanted(&route.methods)))
        };
        find(&|methods| methods.contains(method))
            .or_else(|| find(&|methods| *method == Method::HEAD && methods.contains(&Method::GET)))
            .or_else(|| find(&|methods| methods.is_empty()))
    }
}

/// A template without the names of its captures, and those names in order. `{{` and `}}` are literal braces.
fn shape(template: &str) -> (String, Vec<String>) {
    let (mut shape, mut names) = (String::with_capacity(template.len()), Vec::new());
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        shape.push(c);
        if c != '{' && c != '}' {
            continue;
        }
        if let Some(second) = chars.next_if_eq(&c) {
            shape.push(second);
        } else if c == '{' {
            let mut name: String = chars.by_ref().take_while(|&c| c != '}').collect();
            if name.starts_with('*') {
                name.remove(0);
                shape.push('*');
            }
            shape.push('}');
            names.push(name);
        }
    }
    (shape, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let of = |template| {
            let (shape, names) = shape(template);
            (shape, names.join(" "))
        };
        assert_eq!(of("/v1/{asset}/x-{day}.json"), ("/v1/{}/x-{}.json".into(), "asset day".into()));
        assert_eq!(of("/{*rest}"), ("/{*}".into(), "rest".into()));
        assert_eq!(of("/{{a}}/{b}"), ("/{{a}}/{}".into(), "b".into()));
        assert_eq!(of("*"), ("*".into(), String::new()));
    }
}
