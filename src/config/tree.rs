//! The files as one tree of values, each with its place.
//!
//! The TOML parser gives one tree a file, with places that don't say which file. Here they become one tree: places name
//! their file, entries stand in the order of the text, `${NAME}` is replaced. What the sections decode is always this
//! tree, so that none of them knows of files or of the environment.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::context::Context;
use super::diagnostic::Fault;
use super::source::{Source, Span};
use super::{pieces, syntax};

/// A value and where it stands. A table that a header opened stands at its header.
#[derive(Debug)]
pub(super) struct Value<'i> {
    pub(super) kind: Kind<'i>,
    pub(super) span: Span,
}

/// See [`Value`].
#[derive(Debug)]
pub(super) enum Kind<'i> {
    String(Cow<'i, str>),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Value<'i>>),
    Table(Table<'i>),
    /// Its fault has been noted already.
    Broken,
}

/// Entries in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Table<'i> {
    pub(super) entries: Vec<Entry<'i>>,
}

/// A key, where it stands, and its value.
#[derive(Debug)]
pub(super) struct Entry<'i> {
    pub(super) key: Cow<'i, str>,
    pub(super) span: Span,
    pub(super) value: Value<'i>,
}

impl<'i> Table<'i> {
    /// For tables of few keys: looks at one after the other.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry<'i>> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value<'i>> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Takes an entry out.
    pub(super) fn take(&mut self, key: &str) -> Option<Value<'i>> {
        let place = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(place).value)
    }
}

impl Value<'_> {
    /// With its article, for "expected …, found …".
    pub(super) fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::String(_) => "a string",
            Kind::Integer(_) => "an integer",
            Kind::Float(_) => "a float",
            Kind::Boolean(_) => "a boolean",
            Kind::Datetime => "a date",
            Kind::Array(_) => "a list",
            Kind::Table(_) => "a table",
            Kind::Broken => "something unreadable",
        }
    }
}

/// Reads one file's text. What is not TOML is noted, and as much as can be read of the rest is given back.
pub(super) fn parse<'i>(cx: &Context<'_>, file: u32, source: &'i Source) -> Table<'i> {
    pieces::parse(cx, file, source, pieces::SIZE).unwrap_or_else(|| parse_whole(cx, file, source))
}

pub(super) fn parse_whole<'i>(cx: &Context<'_>, file: u32, source: &'i Source) -> Table<'i> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        let errors = errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message()));
        syntax::note(cx, file, &source.text, &table, errors.collect());
    }
    Builder { cx, file, base: 0 }.table(table.into_inner())
}

/// Turns the parser's tree into ours.
pub(super) struct Builder<'a, 'e> {
    pub(super) cx: &'a Context<'e>,
    pub(super) file: u32,
    /// Where the parsed text starts in its file.
    pub(super) base: usize,
}

impl Builder<'_, '_> {
    pub(super) fn table<'i>(&self, table: DeTable<'i>) -> Table<'i> {
        let mut entries: Vec<Entry<'i>> = Vec::with_capacity(table.len());
        for (key, value) in table {
            let span = self.span(key.span());
            entries.push(Entry { key: key.into_inner(), span, value: self.value(value) });
        }
        entries.sort_by_key(|entry| entry.span.start);
        Table { entries }
    }

    fn span(&self, range: Range<usize>) -> Span {
        Span::new(self.file, self.base + range.start..self.base + range.end)
    }

    fn value<'i>(&self, value: Spanned<DeValue<'i>>) -> Value<'i> {
        let span = self.span(value.span());
        let kind = match value.into_inner() {
            DeValue::String(text) => match self.expand(&text, span) {
                Ok(None) => Kind::String(text),
                Ok(Some(expanded)) => Kind::String(Cow::Owned(expanded)),
                Err(()) => Kind::Broken,
            },
            DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) => Kind::Integer(number),
                Err(_) => {
                    self.cx.note(Fault::error(span, "this integer is too large"));
                    Kind::Broken
                }
            },
            DeValue::Float(float) => match float.as_str().parse() {
                Ok(number) => Kind::Float(number),
                Err(_) => {
                    self.cx.note(Fault::error(span, "this float cannot be read"));
                    Kind::Broken
                }
            },
            DeValue::Boolean(boolean) => Kind::Boolean(boolean),
            DeValue::Datetime(_) => Kind::Datetime,
            DeValue::Array(array) => Kind::Array(array.into_iter().map(|value| self.value(value)).collect()),
            DeValue::Table(table) => Kind::Table(self.table(table)),
        };
        Value { kind, span }
    }

    /// `${NAME}` from the environment; `None` if there is nothing to replace. `$${` stands for a literal `${`.
    fn expand(&self, text: &str, span: Span) -> Result<Option<String>, ()> {
        if !text.contains("${") {
            return Ok(None);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut failed = false;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = from.get(2..).unwrap_or("");
                continue;
            }
            out.push_str(before);
            let Some((name, after)) = from.get(2..).unwrap_or("").split_once('}') else {
                let fault = Fault::error(span, "`${` without its `}`");
                self.cx.note(fault.help("write `${NAME}` for a variable of the environment, `$${` for a literal `${`"));
                return Err(());
            };
            match self.variable(name, span) {
                Some(value) => out.push_str(&value),
                None => failed = true,
            }
            rest = after;
        }
        out.push_str(rest);
        if failed { Err(()) } else { Ok(Some(out)) }
    }

    fn variable(&self, name: &str, span: Span) -> Option<String> {
        let good_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        let fault = if !good_name {
            Fault::error(span, format!("`{name}` cannot be the name of an environment variable"))
                .help("letters, digits and `_`, and no default; write `$${` for a literal `${`")
        } else {
            match (self.cx.environment)(name).map(std::ffi::OsString::into_string) {
                Some(Ok(value)) => {
                    self.cx.note_variable(span, name, &value);
                    return Some(value);
                }
                Some(Err(_)) => Fault::error(span, format!("the environment variable `{name}` is not UTF-8")),
                None => Fault::error(span, format!("the environment variable `{name}` is not set"))
                    .help(format!("set {name} for the process that reads this file (and for `shardgate check`)")),
            }
        };
        self.cx.note(fault);
        None
    }
}
