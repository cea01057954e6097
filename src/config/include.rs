//! `include`: other files of the same configuration.
//!
//! Relative to the including file; globs in name order; a literal path must exist, a glob may be empty; included files
//! include nothing. `[[listeners]]` and `[[routes]]` of all files stand one after the other. `[regions] [assets] [pools]`
//! merge by name; whatever else stands in two files is an error that names both places.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::decode::{list, text};
use super::diagnostic::Fault;
use super::source::Span;
use super::tree::{Entry, Kind, Table, Value};

/// A file to read, and where it is asked for.
pub(super) struct Wanted {
    pub(super) path: PathBuf,
    pub(super) span: Span,
}

/// What `include` of the main file asks for, each file once.
pub(super) fn wanted(cx: &Context<'_>, main: &Path, value: Option<&Value<'_>>) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let same = |a: &Path, b: &Path| a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    let Some(value) = value else { return wanted };
    list(cx, value, |cx, item| {
        let pattern = text(cx, item)?;
        let is_glob = pattern.contains(['*', '?', '[']);
        let paths = if is_glob { glob(cx, item.span, pattern)? } else { vec![cx.resolve(item.span, pattern)] };
        for path in paths {
            if same(&path, main) {
                if !is_glob {
                    cx.note(Fault::error(item.span, "a file cannot include itself"));
                }
            } else if !wanted.iter().any(|other| same(&other.path, &path)) {
                wanted.push(Wanted { path, span: item.span });
            }
        }
        Some(())
    });
    wanted
}

fn glob(cx: &Context<'_>, span: Span, pattern: &str) -> Option<Vec<PathBuf>> {
    // Only what the user wrote is a pattern, not the directory it starts from.
    let directory = cx.resolve(span, "");
    let full = match Path::new(pattern).is_absolute() {
        true => pattern.to_owned(),
        false => Path::new(&glob::Pattern::escape(&directory.to_string_lossy())).join(pattern).display().to_string(),
    };
    // As in a shell: a file that begins with a dot is an editor's lock or backup more often than a part of this.
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let entries = match glob::glob_with(&full, options) {
        Ok(entries) => entries,
        Err(error) => {
            cx.note(Fault::error(span, format!("`{pattern}` is not a pattern: {}", error.msg)));
            return None;
        }
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(path) if path.is_dir() => {}
            Ok(path) => paths.push(path),
            Err(error) => {
                let words = super::io_words(error.error());
                cx.note(Fault::error(span, format!("cannot read {}: {words}", error.path().display())));
            }
        }
    }
    paths.sort();
    Some(paths)
}

/// Tables of these names merge by the names in them, so many levels deep, and below that key by key.
const NAMED: &[&str] = &["regions", "assets", "pools"];
/// Lists of these names are put one after the other.
const LISTS: &[&str] = &["listeners", "routes"];

/// Adds an included file's tree to the main one.
pub(super) fn merge<'i>(cx: &Context<'_>, main: &mut Table<'i>, included: Table<'i>) {
    for entry in included.entries {
        if entry.key == "include" {
            let fault = Fault::error(entry.span, "an included file cannot include others");
            cx.note(fault.help("name all of them in the main file"));
            continue;
        }
        let Some(existing) = main.entries.iter_mut().find(|other| other.key == entry.key) else {
            main.entries.push(entry);
            continue;
        };
        let key = entry.key.as_ref();
        match (&mut existing.value.kind, entry.value.kind) {
            (Kind::Array(all), Kind::Array(more)) if LISTS.contains(&key) => all.extend(more),
            (Kind::Table(all), Kind::Table(more)) if NAMED.contains(&key) => merge_named(cx, all, more),
            (_, kind) => {
                let value = Value { kind, span: entry.value.span };
                note_twice(cx, existing, &Entry { key: entry.key, span: entry.span, value }, true);
            }
        }
    }
}

/// Key by key; what is no table can stand in one of the two only.
fn merge_named<'i>(cx: &Context<'_>, all: &mut Table<'i>, more: Table<'i>) {
    // Small tables are searched; a table of a million names needs an index.
    let index: Option<HashMap<Cow<'i, str>, usize>> = (all.entries.len().saturating_mul(more.entries.len()) > 4096)
        .then(|| all.entries.iter().enumerate().map(|(i, entry)| (entry.key.clone(), i)).collect());
    for entry in more.entries {
        let place = match &index {
            Some(index) => index.get(&entry.key).copied(),
            None => all.entries.iter().position(|other| other.key == entry.key),
        };
        let Some(existing) = place.and_then(|place| all.entries.get_mut(place)) else {
            all.entries.push(entry);
            continue;
        };
        match (&mut existing.value.kind, entry.value.kind) {
            (Kind::Table(all), Kind::Table(more)) => merge_named(cx, all, more),
            (_, kind) => {
                let value = Value { kind, span: entry.value.span };
                note_twice(cx, existing, &Entry { key: entry.key, span: entry.span, value }, false);
            }
        }
    }
}

fn note_twice(cx: &Context<'_>, first: &Entry<'_>, second: &Entry<'_>, section: bool) {
    let message = match section {
        true => format!("[{}] stands in two files", second.key),
        false => format!("`{}` is defined in two files", second.key),
    };
    // A header's place says more than its key's.
    let place = |entry: &Entry<'_>| if section { entry.value.span } else { entry.span };
    cx.note(Fault::error(place(second), message).also(place(first), "first here"));
}
