//! A large file, parsed piece by piece.
//!
//! The TOML parser keeps a text's tokens, its events and a map for each table until it is done: 3.2 GB for the 113 MB of
//! a million pools. So a large text is cut where a line opens a table; each piece is parsed by itself, turned into our own
//! small [`Table`] and added to what there is, and only one piece's tokens exist at a time.
//!
//! That this gives what parsing the whole gives is seen without knowing how TOML nests. A piece that parses without an
//! error has closed every string and bracket it opened, so that the cut behind it was between two lines of the document.
//! Headers name tables from the root, so that a piece that starts with one depends on those before it only by what they
//! have defined; and whatever two pieces define both is put together only where TOML says plainly that it may be: a
//! table that only the headers of its parts name, and a list of tables. Anything else, errors above all, is left to
//! the parser and the whole text, which costs memory and not a word of a message.

use std::borrow::Cow;

use rustc_hash::FxHashMap;
use toml::de::DeTable;

use super::context::Context;
use super::source::Source;
use super::tree::{Builder, Entry, Kind, Table};

/// Bytes of a piece: some tens of megabytes while it is parsed.
pub(super) const SIZE: usize = 1 << 20;

/// The tree of a text in pieces of about `size` bytes; `None`: it has to be parsed as a whole.
pub(super) fn parse<'i>(cx: &Context<'_>, file: u32, source: &'i Source, size: usize) -> Option<Table<'i>> {
    if source.text.len() <= size {
        return None;
    }
    let noted = cx.faults.len();
    let whole = pieces(&source.text, size).try_fold(Table::default(), |mut whole, (base, text)| {
        let (table, errors) = DeTable::parse_recoverable(text);
        let clean = errors.is_empty();
        drop(errors);
        (clean && add(&mut whole, Builder { cx, file, base }.table(table.into_inner()))).then_some(whole)
    });
    if whole.is_none() {
        // What the pieces noted comes again from the whole.
        cx.faults.truncate(noted);
    }
    whole
}

/// A text cut before lines that open a table, with where each piece starts.
fn pieces(text: &str, size: usize) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = text.get(from..).filter(|rest| !rest.is_empty())?;
        let cut = rest.as_bytes().get(size.max(1)..).and_then(|far| memchr::memmem::find(far, b"\n["));
        let (piece, _) = rest.split_at_checked(cut.map_or(rest.len(), |at| size.max(1) + at + 1))?;
        let base = from;
        from += piece.len();
        Some((base, piece))
    })
}

/// Adds the tables of a later piece. False: only the parser can say whether they go together.
fn add<'i>(whole: &mut Table<'i>, piece: Table<'i>) -> bool {
    // Small tables are searched; a table of many names needs an index.
    let index: Option<FxHashMap<Cow<'i, str>, usize>> = (whole.entries.len().saturating_mul(piece.entries.len())
        > 4096)
        .then(|| whole.entries.iter().enumerate().map(|(i, entry)| (entry.key.clone(), i)).collect());
    piece.entries.into_iter().all(|entry| {
        let place = match &index {
            Some(index) => index.get(&entry.key).copied(),
            None => whole.entries.iter().position(|other| other.key == entry.key),
        };
        let Some(known) = place.and_then(|place| whole.entries.get_mut(place)) else {
            whole.entries.push(entry);
            return true;
        };
        let ways = (way(known), way(&entry));
        match (&mut known.value.kind, entry.value.kind) {
            (Kind::Table(all), Kind::Table(more)) if ways == (Way::Parts, Way::Parts) => add(all, more),
            (Kind::Array(all), Kind::Array(more)) if ways == (Way::Header, Way::Header) => {
                all.extend(more);
                true
            }
            _ => false,
        }
    })
}

/// How an entry came about.
#[derive(PartialEq, Eq)]
enum Way {
    /// A header of its own: its value's place is the header, around the key.
    Header,
    /// Other keys have it as their first part: its value's place is the key.
    Parts,
    /// `key = value`.
    Value,
}

fn way(entry: &Entry<'_>) -> Way {
    match entry.value.span.start.cmp(&entry.span.start) {
        std::cmp::Ordering::Less => Way::Header,
        std::cmp::Ordering::Equal => Way::Parts,
        std::cmp::Ordering::Greater => Way::Value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tree;
    use super::*;

    fn source(text: &str) -> Source {
        Source { path: "x.toml".into(), text: text.to_owned() }
    }

    /// The tree and what is said of its faults, by pieces and as a whole.
    fn both(text: &str, size: usize) -> (Option<String>, String) {
        let source = source(text);
        let environment = |_: &str| None;
        let (cx, other) = (Context::new(&environment), Context::new(&environment));
        // Faults are noted in the order of the tree, which is not that of the pieces, and told in that of the text.
        let told = |tree: String, cx: Context<'_>| format!("{tree} {:?}", cx.faults.finish(&[&source]));
        let by_pieces = parse(&cx, 0, &source, size).map(|tree| format!("{tree:?}"));
        let whole = format!("{:?}", tree::parse_whole(&other, 0, &source));
        (by_pieces.map(|tree| told(tree, cx)), told(whole, other))
    }

    #[test]
    fn faults_are_told_in_the_order_of_the_text() {
        let text = "p.D.r = {}\n[p.A.s]\np = { A = {} }\n[p.B.r]\nl = \"${X}\"\n[[t]]\n[q]\n[p.A.r]\nl = \"${X}\"\n";
        for size in 1..text.len() {
            let (by_pieces, whole) = both(text, size);
            assert!(by_pieces.is_none_or(|tree| tree == whole), "{size}");
        }
    }

    #[test]
    fn pools_are_put_together_and_places_stay() {
        let text = "[regions.r]\n[regions.s]\n[pools.A.r]\nprimaries = [\"a:1\"]\n[pools.B.r]\n[[routes]]\n[pools.A.s]\nx = 1\n\
                    [pools.C]\nr = {}\n[[routes]]\n[routes.retry]\n[limits]\n";
        for size in 1..text.len() {
            let (by_pieces, whole) = both(text, size);
            // `[routes.retry]` belongs to the `[[routes]]` before it, so a cut between the two leaves it to the parser.
            assert!(by_pieces.is_none_or(|tree| tree == whole), "{size}");
        }
        assert_eq!(both(text, 1).0, None);
        let (by_pieces, whole) = both(text.split("[routes.retry]").next().unwrap_or(""), 1);
        assert_eq!(by_pieces, Some(whole));
    }

    #[test]
    fn what_may_not_go_together_is_left_to_the_parser() {
        let pairs = [
            ("[a.b]\n", "[a.b]\n"),
            ("[a]\n", "[a]\n"),
            ("[a]\nb.c = 1\n", "[a.b]\n"),
            ("a = { b = 1 }\n", "[a.c]\n"),
            ("[[a]]\n", "[a]\n"),
            ("a = [[1]]\n", "[[a]]\n"),
            ("[x]\ny = [\n", "[1],\n]\n"),
            ("[x]\ny = '''\n", "[z]\n'''\n"),
            ("[x]\ny = 99999999999999999999\n", "[x]\n"),
        ];
        for (one, two) in pairs {
            assert_eq!(both(&format!("{one}{two}"), 1).0, None, "{one}{two}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        /// Lines in any order: by pieces there is the same tree with the same places, or nothing.
        #[test]
        fn pieces_give_what_the_whole_gives(
            lines in prop::collection::vec(prop::sample::select(vec![
                "[p.A.r]", "[p.A.s]", "[p.B.r]", "[p.A]", "[p]", "[[t]]", "[t.u]", "[[p.A.r]]", "[q]", "[ p.B.s ] # x",
                "k = 1", "l = \"${X}\"", "A.r = 1", "A.z.k = 1", "p.A.s.k = 1", "p = { A = {} }", "m = [", "[1], [2]", "]",
                "n = '''", "'''", "# [x]", "", "\t[p.\"A\".t]", "t = [[1]]", "p.D.r = {}", "[p.D.s]",
            ]), 0..14),
            size in 1..60usize,
        ) {
            let (by_pieces, whole) = both(&(lines.join("\n") + "\n"), size);
            if let Some(by_pieces) = by_pieces {
                prop_assert_eq!(by_pieces, whole);
            }
        }
    }
}
