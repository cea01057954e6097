//! What is not TOML, told so that it helps.
//!
//! The parser recovers and goes on, which is what shows all errors at once. But after a bracket that is never closed it
//! takes all the rest of the file for the inside of a list and complains of every line; so what follows from such a
//! bracket is left out, and it is shown where it was opened.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::context::Context;
use super::diagnostic::Fault;
use super::source::Span;

/// Notes the parser's errors: (place, words).
pub(super) fn note(
    cx: &Context<'_>,
    file: u32,
    text: &str,
    table: &Spanned<DeTable<'_>>,
    errors: Vec<(Range<usize>, &str)>,
) {
    // An `=` in a list is the next line's, and that the end of the text closes nothing is said at the end.
    let signs = ["unclosed array,", "unclosed inline table", "unexpected `=` in array"];
    let open = errors
        .iter()
        .filter(|(_, message)| signs.iter().any(|sign| message.starts_with(sign)))
        .filter_map(|(range, _)| innermost(table.get_ref(), range.start))
        .min();
    if let Some(at) = open {
        let fault = Fault::open_bracket(Span::new(file, at..at + 1), "not valid TOML: this bracket is never closed");
        cx.note(fault.help("what stands below it is not read as long as it is open"));
    }
    for (range, message) in errors {
        if open.is_some_and(|at| at < range.start) {
            continue;
        }
        let words = message.strip_suffix(", expected nothing").unwrap_or(message);
        let fault = Fault::syntax(Span::new(file, range.clone()), format!("not valid TOML: {words}"));
        cx.note(match help(message, text, range.start) {
            Some(help) => fault.help(help),
            None => fault,
        });
    }
}

/// Where the list or inline table opens that a place is in, the innermost one.
fn innermost(table: &DeTable<'_>, at: usize) -> Option<usize> {
    fn reach(value: &Spanned<DeValue<'_>>, at: usize) -> Option<usize> {
        let inner = match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(|item| reach(item, at)).max(),
            DeValue::Table(table) => innermost(table, at),
            _ => return None,
        };
        let span = value.span();
        // A header is a table's place, too; what stands below it is not inside of it.
        inner.or((span.start < at && at <= span.end).then_some(span.start))
    }
    table.iter().filter_map(|(_, value)| reach(value, at)).max()
}

/// For the mistakes that the parser's own words explain badly.
fn help(message: &str, text: &str, at: usize) -> Option<String> {
    let (before, after) = text.split_at_checked(at)?;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text.get(start..)?.lines().next()?.trim();
    if line.starts_with("[pools.*") {
        return Some(format!("quote the star: `{}`", line.replacen("pools.*", "pools.\"*\"", 1)));
    }
    if message.contains("duplicate key") {
        return Some("a key or a table can be written only once; bring its lines together".to_owned());
    }
    let quotable = ["quoted", "invalid float", "invalid integer", "invalid boolean", "invalid date"];
    if quotable.iter().any(|words| message.contains(words)) {
        // The word around the place.
        let ends = |c: char| c.is_whitespace() || ",[]{}=\"'#".contains(c);
        let head = before.rfind(ends).map_or(0, |at| at + 1);
        let tail = after.find(ends).unwrap_or(after.len());
        // Quotes of a word processor are none in TOML.
        let word = text.get(head..at + tail)?.trim_matches(['“', '”', '„', '‘', '’', '«', '»', '`']);
        return (!word.is_empty()).then(|| format!("strings are quoted: \"{word}\""));
    }
    None
}
