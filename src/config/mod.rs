//! From files to a [`Plan`], or to everything that is wrong with them.
//!
//! The life of a configuration: each file's text is parsed into a spanned tree (`tree`, the TOML parser's recovering
//! mode; a large file in `pieces`), the trees become one ([`include`]), and each section decodes its part of it, in a
//! file of its own that holds its keys, its checks and their words. Nothing stops at the first fault: a section notes it
//! and goes on, so that a user sees all of them at once, each with its place and with what to write instead
//! (`diagnostic`).
//!
//! What a later version will serve is known by name and refused where it stands, never ignored.

mod address;
mod admin;
mod assets;
mod context;
mod decode;
mod diagnostic;
mod hint;
mod include;
mod limits;
mod listeners;
mod log;
mod metrics;
mod ocsp;
mod pem;
mod pieces;
mod pools;
mod regions;
mod renew;
mod routes;
mod schema;
mod server;
mod source;
mod syntax;
mod tls;
mod tree;
mod trust;
mod units;
mod unserved;

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use self::context::{Context, Environment};
use self::decode::Fields;
use self::diagnostic::Fault;
pub use self::diagnostic::{Diagnostic, Diagnostics, Severity};
pub use self::hint::nearest;
pub use self::renew::{Renewed, reread_backends};
pub use self::schema::schema;
use self::source::{Source, Span};
pub use self::tls::{reread_authorities, reread_certificate};
use self::tree::Table;
use crate::model::{Plan, PoolAsset};

/// A configuration that can be used.
#[derive(Debug)]
pub struct Loaded {
    /// What it asks for.
    pub plan: Plan,
    /// What is probably not meant, though it can be used.
    pub warnings: Diagnostics,
}

/// Reads a file and what it includes. Paths in diagnostics are as given here.
pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    load_with(path, None, &|name| std::env::var_os(name))
}

/// The same for a text that stands in no file; relative paths start at the working directory.
pub fn load_str(text: &str) -> Result<Loaded, Diagnostics> {
    load_with(Path::new("config.toml"), Some(text.to_owned()), &|name| std::env::var_os(name))
}

fn load_with(path: &Path, text: Option<String>, environment: Environment<'_>) -> Result<Loaded, Diagnostics> {
    let mut cx = Context::new(environment);
    let is_text = text.is_some();
    let (text, fault) = match text.map_or_else(|| read(path), Ok) {
        Ok(text) => (text, None),
        Err(words) => (String::new(), Some(format!("cannot read {}: {words}", path.display()))),
    };
    let main = Source { path: path.to_owned(), text };
    cx.add_file(&main);
    if let Some(message) = fault {
        cx.note(Fault::error(Span::whole_file(0), message));
        return Err(cx.faults.finish(&[&main]).0);
    }
    let mut tree = tree::parse(&cx, 0, &main);

    let mut included: Vec<(u32, Source)> = Vec::new();
    for wanted in include::wanted(&cx, path, tree.get("include")) {
        match read(&wanted.path) {
            Ok(text) => {
                let source = Source { path: wanted.path, text };
                included.push((cx.add_file(&source), source));
            }
            Err(words) => {
                cx.note(Fault::error(wanted.span, format!("cannot read {}: {words}", wanted.path.display())).absence());
            }
        }
    }
    for (file, source) in &included {
        let more = tree::parse(&cx, *file, source);
        include::merge(&cx, &mut tree, more);
    }

    let sources: Vec<&Source> = std::iter::once(&main).chain(included.iter().map(|(_, source)| source)).collect();
    let files = sources.iter().skip(usize::from(is_text)).map(|source| source.path.clone()).collect();
    let plan = plan(&cx, tree, hash(&sources, environment), files);
    let (errors, warnings) = cx.faults.finish(&sources);
    if errors.is_empty() { Ok(Loaded { plan, warnings }) } else { Err(errors) }
}

/// The keys of the whole file.
const KEYS: &[&str] = &[
    "include",
    "server",
    "listeners",
    "admin",
    "regions",
    "assets",
    "routes",
    "defaults",
    "pools",
    "limits",
    "log",
    "metrics",
];

/// Meaningful only if no error has been noted.
fn plan(cx: &Context<'_>, mut tree: Table<'_>, hash: String, files: Vec<PathBuf>) -> Plan {
    // Nearly all of a large file: freed pool by pool while the Plan grows.
    let pools = tree.take("pools");
    let f = Fields::new(cx, &tree, KEYS, "the file");
    let regions = regions::decode(cx, f.get("regions"));
    let mut assets = assets::decode(cx, f.get("assets"));
    let defaults = pools::defaults(cx, f.get("defaults"));
    let pools = pools::decode(cx, pools, &defaults, &regions, &mut assets);
    let any_pool = pools.last().is_some_and(|pool| pool.asset == PoolAsset::Any);
    let routes = routes::decode(cx, f.get("routes"), &regions, &assets, any_pool);
    unserved::note(cx, &pools, any_pool, &routes, &assets);
    let (listeners, binds) = listeners::decode(cx, f.get("listeners"));
    Plan {
        hash,
        files,
        server: server::decode(cx, f.get("server"), &regions),
        admin: admin::decode(cx, f.get("admin"), &binds),
        limits: limits::decode(cx, f.get("limits")),
        log: log::decode(cx, f.get("log")),
        max_metric_pools: metrics::decode(cx, f.get("metrics"), pools.len()),
        listeners,
        regions: regions.list,
        assets: assets.list,
        pools,
        routes,
    }
}

/// A file's text, or why there is none.
fn read(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| io_words(&error))?;
    if u32::try_from(bytes.len()).is_err() {
        return Err("it is larger than 4 GiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..good).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default()).chars().count() + 1;
        format!("line {line}, column {column}: it is not UTF-8")
    })
}

/// Without the number that the standard library adds.
fn io_words(error: &std::io::Error) -> String {
    let words = error.to_string();
    let bare = words.split(" (os error").next().unwrap_or(&words);
    let mut letters = bare.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// "a, b and 3 more"
fn some_of(names: &[&str]) -> String {
    let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=5 => shown,
        more => format!("{shown} and {} more", more - 5),
    }
}

/// Of all text and of every variable that it names.
fn hash(sources: &[&Source], environment: Environment<'_>) -> String {
    let mut hasher = DefaultHasher::new();
    for source in sources {
        source.text.hash(&mut hasher);
        for part in source.text.split("${").skip(1) {
            let name = part.split('}').next().unwrap_or("");
            let value: Option<OsString> = if name.len() < 256 { environment(name) } else { None };
            value.hash(&mut hasher);
        }
    }
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests;
