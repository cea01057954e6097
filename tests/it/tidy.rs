//! The house rules that a compiler does not check: which room may import which, no re-export that hides an import,
//! pure rooms without clock or runtime, no file too long, without a head, or that nothing names.
//!
//! In the best Rust projects imports inside one crate run in circles as soon as nobody looks; a test looks. The rules
//! are those of ARCHITECTURE.md. Every rule is tried on small sources of its own below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::Visit;

/// Rooms by level. A room imports from lower levels only.
const LEVELS: &[&[&str]] = &[
    &["hint", "model"],
    &["config", "discovery", "backend", "message", "telemetry", "tls"],
    &["balance", "cache", "upstream"],
    &["health", "routing"],
    &["proxy", "control"],
    &["listen", "admin"],
    &["app"],
    &["cli"],
    &["main"],
];

/// The data path never sees the configuration's text: who may import `config`.
const READ_CONFIG: &[&str] = &["control", "app", "cli"];

/// What runs without a runtime and without a clock, so that a table, a property or a simulator can drive it.
const PURE: &[&str] = &[
    "model",
    "balance",
    "backend",
    "routing",
    "message/framing",
    "message/fields",
    "message/head",
    "message/hop",
    "message/forwarded",
    "message/key",
    "message/proxy_protocol",
];

/// Names that belong into configuration files.
const CONFIGURED: &[&str] = &["btc", "eth", "doge", "us-east", "eu-west"];

const MAX_LINES: usize = 500;

#[test]
fn sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = check_crate(&read(root, "src"), true);
    faults.extend(check_crate(&read(root, "tests/it"), false));
    for directory in ["benches", "fuzz/fuzz_targets"] {
        for (path, text) in read(root, directory) {
            faults.extend(shape(&format!("{directory}/{path}"), &text));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Every fault of one crate. `rooms`: whether its first folders are the rooms of ARCHITECTURE.md.
fn check_crate(files: &BTreeMap<String, String>, rooms: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut declared = BTreeSet::new();
    let tests = test_modules(files);
    for (path, text) in files {
        faults.extend(shape(path, text));
        let file = match syn::parse_file(text) {
            Ok(file) => file,
            Err(e) => {
                faults.push(format!("{path}: {e}"));
                continue;
            }
        };
        let module = module_of(path);
        let room = match path.as_str() {
            "main.rs" => "main".to_owned(),
            "lib.rs" => "lib".to_owned(),
            _ => module[0].clone(),
        };
        if rooms && room != "lib" && level(&room).is_none() {
            faults.push(format!("{path}: no level for the room `{room}`"));
        }
        let pure = PURE.iter().any(|p| path.starts_with(p));
        let in_test = (1..=module.len()).any(|n| tests.contains(&module[..n]));
        let mut visitor = Visitor { path, rooms, room, module, in_test, pure, faults: vec![], declared: vec![] };
        visitor.visit_file(&file);
        faults.append(&mut visitor.faults);
        if path == "lib.rs" && rooms {
            let order: Vec<_> = visitor.declared.iter().map(|m| level(&m[0])).collect();
            if !order.is_sorted() {
                faults.push("lib.rs: its modules do not stand in the order of their levels".into());
            }
        }
        declared.extend(visitor.declared);
    }
    for path in files.keys() {
        if !matches!(path.as_str(), "main.rs" | "lib.rs") && !declared.contains(&module_of(path)) {
            faults.push(format!("{path}: nothing names it with `mod`"));
        }
    }
    faults
}

/// Files that are only compiled for tests: `#[cfg(test)] mod NAME;`.
fn test_modules(files: &BTreeMap<String, String>) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (path, text) in files {
        for item in syn::parse_file(text).map(|file| file.items).unwrap_or_default() {
            if let syn::Item::Mod(item) = item
                && item.content.is_none()
                && is_test(&item.attrs)
            {
                found.insert(module_of(path).into_iter().chain([item.ident.to_string()]).collect());
            }
        }
    }
    found
}

/// What can be said of a file by its lines.
fn shape(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!("{path}: does not open with `//!`"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!("{path}: {lines} lines, over {MAX_LINES}"));
    }
    if path.split('/').count() > 3 {
        faults.push(format!("{path}: more than two folders deep"));
    }
    faults
}

struct Visitor<'a> {
    path: &'a str,
    rooms: bool,
    room: String,
    /// Where the visit stands: the file's module and the inline modules around.
    module: Vec<String>,
    in_test: bool,
    pure: bool,
    faults: Vec<String>,
    declared: Vec<Vec<String>>,
}

impl Visitor<'_> {
    /// The absolute form of a path, from the crate's root; `None` when it starts at another crate or a local name.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let mut base = self.module.clone();
        let mut rest = segments;
        match rest.first()?.as_str() {
            "crate" | "shardgate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {}
            _ => return None,
        }
        while rest.first().is_some_and(|s| s == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// Judges one path; gives the room it leads to.
    fn judge(&mut self, segments: &[String]) -> Option<String> {
        if self.pure && !self.in_test {
            let tail = segments.iter().map(String::as_str).collect::<Vec<_>>();
            if tail[0] == "tokio" || tail.ends_with(&["Instant", "now"]) || tail.ends_with(&["SystemTime", "now"]) {
                self.fault(format!("`{}` in a pure room", segments.join("::")));
            }
        }
        let to = self.absolute(segments)?.first()?.clone();
        if !self.rooms || to == self.room {
            return Some(to);
        }
        let (from_level, to_level) = (level(&self.room), level(&to));
        match (from_level, to_level) {
            _ if to == "*" => self.fault("a glob over the crate's root".into()),
            (Some(from), Some(lower)) if lower >= from => {
                self.fault(format!("`{}` (level {from}) imports `{to}` (level {lower})", self.room));
            }
            _ => {}
        }
        if to == "config" && !self.in_test && level(&self.room).is_some() && !READ_CONFIG.contains(&self.room.as_str())
        {
            self.fault(format!("`{}` imports `config`, which only {READ_CONFIG:?} may", self.room));
        }
        Some(to)
    }

    fn fault(&mut self, what: String) {
        let fault = format!("{}: {what}", self.path);
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut paths = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut paths);
        for path in paths {
            let to = self.judge(&path);
            let shown = !matches!(item.vis, syn::Visibility::Inherited);
            if self.rooms && shown && to.is_some_and(|to| to != self.room) {
                self.fault(format!("the re-export of `{}` hides an import", path.join("::")));
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.judge(&segments);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // A macro's body is only tokens; paths in it are found as text.
        let text = item.tokens.to_string().replace(" ::", "::").replace(":: ", "::");
        for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
            let segments: Vec<_> = word.split("::").filter(|s| !s.is_empty()).map(str::to_owned).collect();
            if segments.len() > 1 {
                self.judge(&segments);
            }
        }
        syn::visit::visit_macro(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let mut module = self.module.clone();
        module.push(item.ident.to_string());
        if item.attrs.iter().any(|a| a.path().is_ident("path")) {
            self.fault(format!("`mod {}` with a path of its own", item.ident));
        }
        if item.content.is_none() {
            self.declared.push(module.clone());
        }
        let outer = (std::mem::replace(&mut self.module, module), self.in_test);
        self.in_test |= is_test(&item.attrs);
        syn::visit::visit_item_mod(self, item);
        (self.module, self.in_test) = outer;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let outer = self.in_test;
        self.in_test |= is_test(&item.attrs);
        syn::visit::visit_item_fn(self, item);
        self.in_test = outer;
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        if item.ident == "self" {
            self.fault("another name for the crate".into());
        }
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        let value = text.value().to_ascii_lowercase();
        if self.rooms && !self.in_test && CONFIGURED.contains(&value.as_str()) {
            self.fault(format!("{value:?} belongs into a configuration file"));
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| match &a.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string().contains("test"),
        meta => meta.path().is_ident("test"),
    })
}

fn flatten(tree: &syn::UseTree, before: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    let with = |last: String| before.iter().cloned().chain([last]).collect::<Vec<_>>();
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, out);
            before.pop();
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, before, out)),
        syn::UseTree::Name(name) if name.ident == "self" => out.push(before.clone()),
        syn::UseTree::Name(name) => out.push(with(name.ident.to_string())),
        syn::UseTree::Rename(rename) if rename.ident == "self" => out.push(before.clone()),
        syn::UseTree::Rename(rename) => out.push(with(rename.ident.to_string())),
        syn::UseTree::Glob(_) => out.push(with("*".into())),
    }
}

fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// `a/b/mod.rs`, `a/b.rs` -> [a, b]; `main.rs`, `lib.rs` -> [].
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    match path {
        "main" | "lib" => Vec::new(),
        _ => path.trim_end_matches("/mod").split('/').map(str::to_owned).collect(),
    }
}

fn read(root: &Path, directory: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for path in glob::glob(root.join(directory).join("**/*.rs").to_str().unwrap()).unwrap() {
        let path = path.unwrap();
        let name = path.strip_prefix(root.join(directory)).unwrap().to_str().unwrap().to_owned();
        files.insert(name, std::fs::read_to_string(&path).unwrap());
    }
    files
}

/// Checks these files; lib.rs, with the rooms they are in, is added.
fn faults(sources: &[(&str, &str)]) -> Vec<String> {
    let mut files: BTreeMap<_, _> = sources.iter().map(|(p, t)| ((*p).to_owned(), format!("//! x\n{t}"))).collect();
    if !files.contains_key("lib.rs") {
        let mut rooms: Vec<_> = sources.iter().filter(|(p, _)| *p != "main.rs").map(|(p, _)| module_of(p)).collect();
        rooms.retain(|m| m.len() == 1);
        rooms.sort_by_key(|m| level(&m[0]));
        let text = rooms.iter().map(|m| format!("pub mod {};\n", m[0])).collect::<String>();
        files.insert("lib.rs".into(), format!("//! x\n{text}"));
    }
    check_crate(&files, true)
}

#[test]
fn an_import_downwards_or_within_the_room_passes() {
    let proxy = "use crate::model::Plan; mod a; fn f() { crate::routing::g(); self::a::h(); super::balance::i(); }";
    let a = "use super::f; use super::super::backend; use crate::proxy;";
    assert_eq!(faults(&[("proxy/mod.rs", proxy), ("proxy/a.rs", a)]), [""; 0]);
    assert_eq!(faults(&[("main.rs", "fn main() { shardgate::cli::run() }")]), [""; 0]);
    assert_eq!(faults(&[("control.rs", "use crate::config::load;")]), [""; 0]);
}

#[test]
fn an_import_upwards_or_sideways_is_found_wherever_it_stands() {
    let sources = [
        "use crate::proxy::Handle;",
        "use crate::{model::Plan, proxy::Handle};",
        "use crate::proxy as p;",
        "use super::proxy;",
        "fn f() { crate::proxy::handle(); }",
        "fn f(x: &crate::proxy::Handle) {}",
        "mod inner { use super::super::proxy; }",
        "fn f() { println!(\"{}\", crate::proxy::NAME); }",
        "fn f() { vec![super::proxy::NAME] }",
        "macro_rules! m { () => { $crate::proxy::handle() } }",
        "#[cfg(test)] mod tests { use crate::proxy; }",
    ];
    for source in sources {
        assert_eq!(faults(&[("balance.rs", source)]), ["balance.rs: `balance` (level 2) imports `proxy` (level 4)"]);
    }
    let sideways = faults(&[("proxy.rs", "use crate::control::Handle;")]);
    assert_eq!(sideways, ["proxy.rs: `proxy` (level 4) imports `control` (level 4)"]);
    assert_eq!(faults(&[("app.rs", "use crate::*;")]), ["app.rs: a glob over the crate's root"]);
}

#[test]
fn a_reexport_that_hides_an_import_is_found() {
    let hidden = faults(&[("proxy.rs", "pub use crate::model::Plan;")]);
    assert_eq!(hidden, ["proxy.rs: the re-export of `crate::model::Plan` hides an import"]);
    assert_eq!(faults(&[("proxy.rs", "pub(crate) use crate::model::Plan;")]).len(), 1);
    assert_eq!(faults(&[("proxy/mod.rs", "mod a; pub use a::B; pub use self::a::C;"), ("proxy/a.rs", "")]), [""; 0]);
}

#[test]
fn config_is_for_those_who_load_it() {
    let found = faults(&[("routing.rs", "use crate::config::load;")]);
    assert_eq!(found, ["routing.rs: `routing` imports `config`, which only [\"control\", \"app\", \"cli\"] may"]);
    assert_eq!(faults(&[("routing.rs", "#[cfg(test)] mod tests { use crate::config::load; }")]), [""; 0]);
}

#[test]
fn pure_rooms_have_no_clock_and_no_runtime() {
    for source in ["use tokio::time;", "fn f() { std::time::Instant::now(); }", "fn f() { g(SystemTime::now()) }"] {
        assert_eq!(faults(&[("balance.rs", source)]).len(), 1, "{source}");
        assert_eq!(faults(&[("upstream.rs", source)]), [""; 0]);
    }
    assert_eq!(faults(&[("balance.rs", "#[test] fn f() { Instant::now(); }")]), [""; 0]);
    let helpers = ("balance/helpers.rs", "fn f() { Instant::now(); }");
    assert_eq!(faults(&[("balance/mod.rs", "#[cfg(test)] mod helpers;"), helpers]), [""; 0]);
    assert_eq!(faults(&[("balance/mod.rs", "mod helpers;"), helpers]).len(), 1);
}

#[test]
fn files_have_a_head_an_end_and_someone_who_names_them() {
    assert_eq!(shape("a.rs", "fn f() {}"), ["a.rs: does not open with `//!`"]);
    assert_eq!(shape("a.rs", &"//! x\n".repeat(501)), ["a.rs: 501 lines, over 500"]);
    assert_eq!(shape("a/b/c/d.rs", "//! x"), ["a/b/c/d.rs: more than two folders deep"]);
    let found = faults(&[("lib.rs", "pub mod proxy;"), ("proxy/mod.rs", ""), ("proxy/lost.rs", "")]);
    assert_eq!(found, ["proxy/lost.rs: nothing names it with `mod`"]);
    assert_eq!(faults(&[("utils.rs", "")]), ["utils.rs: no level for the room `utils`"]);
    let order = faults(&[("lib.rs", "pub mod app; pub mod model;"), ("app.rs", ""), ("model.rs", "")]);
    assert_eq!(order, ["lib.rs: its modules do not stand in the order of their levels"]);
    assert_eq!(
        faults(&[("proxy.rs", "const A: &str = \"BTC\";")]),
        ["proxy.rs: \"btc\" belongs into a configuration file"]
    );
}
