//! Routes that get in each other's way: the same host, path and method, or path templates that cannot be told apart.
//!
//! This is the router's own view: for each host, matchit is asked to take every path, and says what it can't.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use http::Method;

use super::Read;
use crate::config::context::Context;
use crate::config::diagnostic::Fault;
use crate::model::HostPattern;

/// One path at one host.
type Place<'a> = (Option<Host<'a>>, Option<&'a str>);

/// A host as the router sees it: the name of a capture makes no difference.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
enum Host<'a> {
    Exact(&'a str),
    Wildcard(&'a str),
    Capture(&'a str),
}

impl<'a> From<&'a HostPattern> for Host<'a> {
    fn from(pattern: &'a HostPattern) -> Self {
        match pattern {
            HostPattern::Exact(name) => Self::Exact(name),
            HostPattern::Wildcard(suffix) => Self::Wildcard(suffix),
            HostPattern::Capture { suffix, .. } => Self::Capture(suffix),
        }
    }
}

pub(super) fn note(cx: &Context<'_>, routes: &[Read]) {
    let mut routers: HashMap<Option<Host<'_>>, matchit::Router<usize>> = HashMap::new();
    // Whose each method is, `None` being any method.
    let mut taken: HashMap<Place<'_>, HashMap<Option<&Method>, usize>> = HashMap::new();
    for (index, read) in routes.iter().enumerate().filter(|(_, read)| read.whole) {
        let route = &read.route;
        let path = route.path.as_deref();
        let hosts: Vec<Option<Host<'_>>> = match route.hosts.as_slice() {
            [] => vec![None],
            hosts => hosts.iter().map(|host| Some(Host::from(host))).collect(),
        };
        // One report a route is enough, even if it meets the other at several hosts.
        'hosts: for host in hosts {
            let methods = match taken.entry((host, path)) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let router = routers.entry(host).or_default();
                    let inserted = path.map_or(Ok(()), |path| router.insert(path, index));
                    if let Err(error) = inserted {
                        cx.note(conflict(routes, read, index, &error));
                        break 'hosts;
                    }
                    entry.insert(HashMap::new())
                }
            };
            let wanted: Vec<Option<&Method>> = match route.methods.as_slice() {
                [] => vec![None],
                methods => methods.iter().map(Some).collect(),
            };
            for method in wanted {
                let Some(first) = methods.insert(method, index) else { continue };
                let what = match method {
                    Some(method) => format!("another route has the same host, path and method {method}"),
                    None => "another route has the same host and path, for any method".to_owned(),
                };
                let mut fault = Fault::error(read.path_at, what);
                if let Some(first) = routes.get(first).filter(|_| first != index) {
                    fault = fault.also(first.path_at, "this one");
                } else {
                    fault = Fault::error(read.hosts_at, "this route has the same host twice")
                        .help("hosts are compared without regard to case, and to the names of captures");
                }
                cx.note(fault);
                break 'hosts;
            }
        }
    }
}

fn conflict(routes: &[Read], read: &Read, index: usize, error: &matchit::InsertError) -> Fault {
    let path = read.route.path.as_deref().unwrap_or("");
    let fault = Fault::error(read.path_at, format!("the path `{path}` cannot be told from that of another route"));
    match error {
        matchit::InsertError::Conflict { with } => {
            let other = routes.iter().take(index).find(|other| other.route.path.as_deref() == Some(with));
            let fault = match other {
                Some(other) => fault.also(other.path_at, "this one"),
                None => fault.label(format!("conflicts with `{with}`")),
            };
            fault.help(match path.contains("{*") || with.contains("{*") {
                true => "a capture of the rest and another capture can't begin at the same place: put a fixed segment before one",
                false => "where two paths are alike but for their captures' names, give those the same names",
            })
        }
        other => fault.label(other.to_string()),
    }
}
